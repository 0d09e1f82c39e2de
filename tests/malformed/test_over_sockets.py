"""What only a real connection shows: heads without end, bodies that break off, clients that are slow or go away."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from app.http import bounded_requests
from app.main import create_app
from tests.fixtures.api import Api, serving
from tests.malformed.forms import MULTIPART, form

_PATIENCE_S = 15.0


@pytest.fixture(scope="module")
def url(shared_api: Api) -> Iterator[str]:
    app = create_app(shared_api.settings, answer_backend=shared_api.backend, doorbell=shared_api.bell)
    with serving(app) as address:
        yield address


@contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    place = urlsplit(url)
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=_PATIENCE_S) as made:
        yield made


def reply_of(made: socket.socket) -> tuple[int, str]:
    """Returns the status and the error's code of a reply after which the server closes, or says how long it is."""
    content = b""
    while True:
        head, _, body = content.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if lengths and len(body) >= int(lengths[0].partition(b":")[2]):
            return int(head.split()[1]), json.loads(body)["error"]["code"]
        try:
            piece = made.recv(1 << 16)
        except ConnectionResetError:
            piece = b""
        assert piece, f"closed after {content[:200]!r}"
        content += piece


def is_alive(url: str) -> bool:
    return httpx2.get(f"{url}/health/live", timeout=_PATIENCE_S).status_code == 200


HEAD = b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-type: " + MULTIPART.encode() + b"\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/files HTTP/1.1\r\nhost: localhost\r\n" + b"".join(b"x-%d: %s\r\n" % (n, b"a" * 90) for n in range(10_000)),
        b"GET /v1/files HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 1_000_000,
        b"GET /" + b"a" * 1_000_000,
    ],
    ids=["10,000 headers", "a header without end", "an address without end"],
)
def test_a_head_over_64_kib_is_refused(url: str, head: bytes) -> None:
    with connection(url) as made:
        for place in range(0, bounded_requests.MAX_HEAD_BYTES + 1_000, 1_000):
            made.sendall(head[place : place + 1_000])
        assert reply_of(made) == (431, "head_too_large")
    assert is_alive(url)


def test_a_body_that_comes_with_its_head_is_no_part_of_it(url: str) -> None:
    content = form(b"[" + b" " * 200_000 + b"]")
    with connection(url) as made:
        made.sendall(HEAD + b"content-length: %d\r\n\r" % len(content))
        time.sleep(0.1)
        made.sendall(b"\n" + content)
        assert reply_of(made) == (400, "invalid_dataset")


def test_slow_heads_are_ended_and_hold_nobody_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_requests, "MAX_HEAD_S", 1.0)
    with ExitStack() as stack:
        slow = [stack.enter_context(connection(url)) for _ in range(100)]
        for made in slow:
            made.sendall(b"GET /v1/files HTTP/1.1\r\nhost: loc")
        assert is_alive(url)
        assert {reply_of(made) for made in slow} == {(408, "head_too_slow")}


def test_a_body_that_trickles_is_ended_and_leaves_nothing(shared_api: Api, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_requests, "BODY_PATIENCE_S", 1.0)
    before = _files(shared_api)
    with connection(url) as made:
        made.sendall(HEAD + b"content-length: 9000000\r\n\r\n" + form(b"[")[:200])
        for _ in range(3):
            time.sleep(0.2)
            made.sendall(b" ")
        assert reply_of(made) == (408, "body_too_slow")
    deadline = time.monotonic() + 5
    while _files(shared_api) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _files(shared_api) == before


def test_a_large_body_that_comes_steadily_is_read_to_its_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_requests, "BODY_PATIENCE_S", 0.3)
    content = form(b"[" + b" " * 20_000 + b"]")
    with connection(url) as made:
        made.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(content))
        for place in range(0, len(content), 1_000):
            made.sendall(content[place : place + 1_000])
            time.sleep(0.05)
        assert reply_of(made) == (400, "invalid_dataset")


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-1\r\n", b"ffffffffffffffffffff\r\n", b"5\r\nabcdefgh\r\n"])
def test_a_broken_chunk_is_400(url: str, chunk: bytes) -> None:
    with connection(url) as made:
        made.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk)
        assert made.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
    assert is_alive(url)


def test_chunks_over_the_limit_are_413(url: str) -> None:
    chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    with connection(url) as made:
        made.sendall(b"POST /answer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n")
        made.sendall(b"transfer-encoding: chunked\r\n\r\n" + chunk * 17)
        assert reply_of(made) == (413, "too_large")


@pytest.mark.parametrize("path", ["/v1/files", "/answer", "/v1/fine_tuning/jobs", "/v1/codebook"])
def test_a_client_that_goes_away_in_its_body_leaves_nothing(
    shared_api: Api, url: str, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = _files(shared_api)
    method = b"PUT" if path == "/v1/codebook" else b"POST"
    head = HEAD if path == "/v1/files" else HEAD.replace(MULTIPART.encode(), b"application/json")
    body = form(b"[" + b" " * 3_000_000) if path == "/v1/files" else b'{"question": "'
    with connection(url) as made:
        made.sendall(head.replace(b"POST /v1/files", method + b" " + path.encode()))
        made.sendall(b"content-length: %d\r\n\r\n" % (9_000_000 if path == "/v1/files" else 900_000))
        made.sendall(body)
        time.sleep(0.3)
    deadline = time.monotonic() + 5
    while _files(shared_api) != before and time.monotonic() < deadline:
        time.sleep(0.05)

    assert is_alive(url)
    assert _files(shared_api) == before
    assert "unhandled_error" not in capfd.readouterr().out


def _files(api: Api) -> list[Path]:
    return sorted(api.settings.data_dir.rglob("*"))
