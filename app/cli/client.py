"""Speaks to the API and turns its errors into messages for a terminal."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2

_RECONNECT_S, _RECONNECT_PAUSE_S = 120.0, 1.0
# The API says something every 15 seconds.
_STREAM_TIMEOUT = httpx2.Timeout(10.0, read=45.0)


class ApiError(Exception):
    """The API refused; the text says why and what to do. `code`, `param` and `details` are the error body's."""

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.details = dict(details or {})


class ApiUnreachable(ApiError):
    """Nothing answers at the API's address."""


class _TryAgain(Exception):
    """The API answers, but not yet with what was asked for."""


class ApiClient:
    """A blocking client of the HTTP API."""

    def __init__(self, url: str, *, timeout_s: float = 120.0, key: str | None = None) -> None:
        self.url = url
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._http = httpx2.Client(base_url=url, timeout=timeout_s, headers=headers)

    def __enter__(self) -> "ApiClient":
        """Returns itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the connections."""
        self._http.close()

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """Returns a JSON object; a parameter that is None is left out."""
        given = {name: value for name, value in params.items() if value is not None}
        # No parameters are not the same as none given: they would take the path's own away.
        return self._json("GET", path, params=given or None)

    def pages(self, path: str, *, limit: int = 100, most: int = 100_000, **params: Any) -> Iterator[dict[str, Any]]:
        """Yields the items of a list, page by page, at most `most` of them."""
        after = None
        while most > 0:
            page = self.get(path, after=after, limit=min(limit, most), **params)
            yield from page["data"]
            most -= len(page["data"])
            if not page["has_more"]:
                return
            after = page["last_id"]

    def events(self, path: str, *, after: int) -> Iterator[dict[str, Any]]:
        """Yields server-sent events with an id above `after`, each once and in order, until the stream says that it is done.

        A connection that breaks is made again, for two minutes if need be, and goes on behind the last event.

        Raises:
            ApiError: the API refused.
            ApiUnreachable: it stays away.
        """
        silent_since = time.monotonic()
        while True:
            try:
                for event in self._stream_events(path, after):
                    if event is None:
                        return
                    after, silent_since = event["number"], time.monotonic()
                    yield event
            except (httpx2.HTTPError, _TryAgain):
                pass
            if time.monotonic() - silent_since > _RECONNECT_S:
                raise ApiUnreachable(f"{self.url} has not answered for two minutes. The work goes on where a worker does it.")
            time.sleep(_RECONNECT_PAUSE_S)

    def _stream_events(self, path: str, after: int) -> Iterator[dict[str, Any] | None]:
        """Yields what one connection brings; None: the stream is done."""
        headers = {"last-event-id": str(after)}
        with self._http.stream("GET", path, params={"stream": "true"}, headers=headers, timeout=_STREAM_TIMEOUT) as response:
            if response.status_code in (429, 500, 502, 503, 504):
                raise _TryAgain
            if response.is_error:
                response.read()
                raise _refusal(response)
            for line in response.iter_lines():
                name, _, data = line.partition(":")
                if name != "data":
                    continue
                if data.strip() == "[DONE]":
                    yield None
                    return
                yield json.loads(data)

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

    def delete(self, path: str, **params: Any) -> dict[str, Any]:
        """Deletes a thing; a parameter that is None is left out."""
        return self._json("DELETE", path, params={name: value for name, value in params.items() if value is not None})

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Sends a JSON object and returns one."""
        return self._json("POST", path, json=dict(body or {}))

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a JSON object and returns one."""
        return self._json("PUT", path, json=dict(body))

    def upload(self, path: Path, *, purpose: str, **fields: str | None) -> dict[str, Any]:
        """Uploads a dataset, with the form's optional fields."""
        form = {"purpose": purpose, **{name: value for name, value in fields.items() if value is not None}}
        with path.open("rb") as file:
            return self._json("POST", "/v1/files", files={"file": (path.name, file)}, data=form)

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
            raise ApiUnreachable(
                f"{self.url} does not answer ({type(error).__name__}). Start the product with: dianda up"
            ) from error
        if response.is_error:
            raise _refusal(response)
        return response


def _refusal(response: httpx2.Response) -> ApiError:
    try:
        error = response.json()["error"]
        return ApiError(error["message"], code=error["code"], param=error["param"], details=error.get("details"))
    except (ValueError, KeyError, TypeError):
        request = response.request
        return ApiError(f"{request.method} {request.url.path} gave {response.status_code}. Is this the API's address?")
