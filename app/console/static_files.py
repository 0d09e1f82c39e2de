"""What the pages load: our stylesheet and scripts, and others' as their packages bring them. No build step, no other host."""

import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import Response

from app.errors import NotFound

PREFIX = "/console/static"
# Each by its distribution, its module, and the path in that.
_PACKAGED: Mapping[str, tuple[str, str, str]] = {
    "plotly.min.js": ("plotly", "plotly", "package_data/plotly.min.js"),
    "swagger-ui-bundle.js": ("fastapi-offline", "fastapi_offline", "static/swagger-ui-bundle.js"),
    "swagger-ui.css": ("fastapi-offline", "fastapi_offline", "static/swagger-ui.css"),
    "redoc.standalone.js": ("fastapi-offline", "fastapi_offline", "static/redoc.standalone.js"),
}
_FOLDER = Path(__file__).parent / "static"
# The address holds a version, so that a browser never asks twice for the same bytes.
_HEADERS = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}


class StaticFiles:
    """The files by name; our own are read when the process starts. Their common version stands in their address."""

    def __init__(self) -> None:
        self._files = {path.name: path.read_bytes() for path in sorted(_FOLDER.iterdir()) if path.is_file()}
        versions = {distribution: version(distribution) for distribution, _, _ in _PACKAGED.values()}
        digest = hashlib.sha256(repr(sorted(versions.items())).encode())
        for name, content in self._files.items():
            digest.update(name.encode() + content)
        self.version = digest.hexdigest()[:12]

    def url(self, name: str) -> str:
        """Returns the address of a file.

        Raises:
            KeyError: no such file.
        """
        if name not in _PACKAGED and name not in self._files:
            raise KeyError(name)
        return f"{PREFIX}/{self.version}/{name}"

    def content(self, name: str) -> bytes:
        """Returns a file's bytes.

        Raises:
            NotFound: no such file.
        """
        if name in _PACKAGED:
            return _packaged(name)
        if name not in self._files:
            raise NotFound(f"There is no file {name!r} here.")
        return self._files[name]


def make_router(files: StaticFiles) -> APIRouter:
    """Builds the route."""
    router = APIRouter(prefix=PREFIX, include_in_schema=False)

    @router.get("/{version}/{name}")
    def get_static(version: str, name: str, accept_encoding: Annotated[str, Header(max_length=200)] = "") -> Response:
        """Returns a file, compressed where the browser takes that."""
        content = files.content(name)
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        headers = {**_HEADERS, "vary": "accept-encoding"}
        if "gzip" in accept_encoding:
            return Response(_compressed(content), media_type=media_type, headers={**headers, "content-encoding": "gzip"})
        return Response(content, media_type=media_type, headers=headers)

    return router


@lru_cache(maxsize=len(_PACKAGED))
def _packaged(name: str) -> bytes:
    distribution, module, path = _PACKAGED[name]
    # Found, not imported: plotly's Python would cost a second, and none of theirs is used.
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise NotFound(f"{distribution} is not installed, so {name} is not there. Run: pip install 'dianda[api]'")
    return (Path(spec.origin).parent / path).read_bytes()


@lru_cache(maxsize=16)
def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=6, mtime=0)
