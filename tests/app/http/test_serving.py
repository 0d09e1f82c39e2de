"""Processes that follow each other on one listening socket."""

import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route


def make_app() -> Starlette:
    """Answers with the number of its process."""

    async def who(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(os.getpid()))

    return Starlette(routes=[Route("/", who)])


@contextmanager
def server(listening: socket.socket) -> Iterator["subprocess.Popen[bytes]"]:
    """Yields a process that accepts from the socket."""
    receive, send = os.pipe()
    numbers = [listening.fileno(), send]
    command = [sys.executable, "-m", "app.http.serving", "tests.app.http.test_serving:make_app", "--fd", str(numbers[0])]
    process = subprocess.Popen([*command, "--ready-fd", str(send)], pass_fds=numbers)
    os.close(send)
    try:
        assert select.select([receive], [], [], 60)[0] and os.read(receive, 1) == b"1"
        yield process
    finally:
        os.close(receive)
        process.kill()
        process.wait()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def connect(listening: socket.socket) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(*listening.getsockname(), timeout=30)


def ask(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    connection.request("GET", "/")
    return connection.getresponse()


def test_a_connection_that_comes_while_nobody_serves_waits_for_the_successor(listening: socket.socket) -> None:
    with server(listening) as first:
        first.terminate()
        first.wait(30)
    connection = connect(listening)
    connection.request("GET", "/")
    with server(listening) as second:
        assert connection.getresponse().read() == str(second.pid).encode()


def test_nobody_is_refused_while_one_process_follows_the_other(listening: socket.socket) -> None:
    pids: list[bytes] = []
    failures: list[Exception] = []
    is_over = threading.Event()

    def keep_asking() -> None:
        while not is_over.is_set():
            try:
                pids.append(ask(connect(listening)).read())
            except OSError as error:
                failures.append(error)

    with server(listening) as first:
        asking = threading.Thread(target=keep_asking)
        asking.start()
        with server(listening) as second:
            first.terminate()
            first.wait(30)
            before = len(pids)
            while len(pids) < before + 5:
                pass
            is_over.set()
            asking.join()

    assert failures == []
    assert set(pids) == {str(first.pid).encode(), str(second.pid).encode()}


def test_a_kept_connection_is_told_to_go_and_gets_its_reply_all_the_same(listening: socket.socket) -> None:
    with server(listening) as process:
        connection = connect(listening)
        assert ask(connection).read() == str(process.pid).encode()
        process.send_signal(signal.SIGTERM)
        # Refused connections would show that it stopped accepting; the socket is ours, so they wait instead: a moment will do.
        threading.Event().wait(0.5)

        reply = ask(connection)

        assert (reply.read(), reply.headers["connection"]) == (str(process.pid).encode(), "close")
        process.wait(30)
