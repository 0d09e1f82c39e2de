"""Speaks to the API and turns its errors into messages for a terminal."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2


class ApiError(Exception):
    """The API refused; the text says why and what to do."""


class ApiClient:
    """A blocking client of the HTTP API."""

    def __init__(self, url: str, *, timeout_s: float = 120.0) -> None:
        self.url = url
        self._http = httpx2.Client(base_url=url, timeout=timeout_s)

    def __enter__(self) -> "ApiClient":
        """Returns itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the connections."""
        self._http.close()

    def get(self, path: str) -> dict[str, Any]:
        """Returns a JSON object."""
        return self._json("GET", path)

    def get_bytes(self, path: str) -> bytes:
        """Returns a file's bytes."""
        return bytes(self._request("GET", path).content)

    @contextmanager
    def download(self, path: str) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Yields a body's size and its bytes as they arrive.

        Raises:
            ApiError: the API refused, or the connection broke before the last byte.
        """
        try:
            with self._http.stream("GET", path) as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                yield int(response.headers["content-length"]), response.iter_bytes()
        except httpx2.HTTPError as error:
            raise ApiError(f"The download from {self.url} broke ({type(error).__name__}). Try again.") from error

    def delete(self, path: str) -> dict[str, Any]:
        """Deletes a thing."""
        return self._json("DELETE", path)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Sends a JSON object and returns one."""
        return self._json("POST", path, json=dict(body or {}))

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a JSON object and returns one."""
        return self._json("PUT", path, json=dict(body))

    def upload(self, path: Path, *, purpose: str) -> dict[str, Any]:
        """Uploads a dataset."""
        with path.open("rb") as file:
            return self._json("POST", "/v1/files", files={"file": (path.name, file)}, data={"purpose": purpose})

    def wait_until_ready(self, *, timeout_s: float, on_waiting: Callable[[str], None]) -> None:
        """Waits until every part of the product is ready, optional ones too; `on_waiting` may raise to end the wait.

        Raises:
            ApiError: not ready in time; the text says what is missing.
        """
        deadline = time.monotonic() + timeout_s
        missing = "the API does not answer"
        while time.monotonic() < deadline:
            try:
                checks = self._http.get("/health/ready", timeout=5.0).json()["checks"]
            except (httpx2.HTTPError, ValueError, KeyError):
                on_waiting("the API")
                time.sleep(0.3)
                continue
            waiting = {name: check["message"] for name, check in checks.items() if not check["ok"]}
            if not waiting:
                return
            missing = "; ".join(f"{name}: {message}" for name, message in waiting.items())
            on_waiting(", ".join(waiting))
            time.sleep(0.5)
        raise ApiError(f"Not ready after {timeout_s:.0f} s. {missing}")

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        result: dict[str, Any] = self._request(method, path, **options).json()
        return result

    def _request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise ApiError(f"{self.url} does not answer ({type(error).__name__}). Start the product with: dianda up") from error
        if response.is_error:
            raise _refusal(response)
        return response


def _refusal(response: httpx2.Response) -> ApiError:
    try:
        return ApiError(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        request = response.request
        return ApiError(f"{request.method} {request.url.path} gave {response.status_code}.")
