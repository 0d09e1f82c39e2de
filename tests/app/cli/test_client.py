"""The client of the HTTP API."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from app.cli.client import ApiClient


class _Echo(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f'{{"path": "{self.path}"}}'.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def echo() -> Iterator[ApiClient]:
    with HTTPServer(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with ApiClient(f"http://127.0.0.1:{server.server_port}") as client:
            yield client
        server.shutdown()


def test_a_paths_own_query_stays(echo: ApiClient) -> None:
    assert echo.get("/v1/files?limit=2&after=file-1")["path"] == "/v1/files?limit=2&after=file-1"


def test_parameters_that_are_none_are_left_out(echo: ApiClient) -> None:
    assert echo.get("/v1/files", limit=2, after=None)["path"] == "/v1/files?limit=2"
