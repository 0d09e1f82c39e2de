"""Requests bounded in time, and their heads in bytes: neither uvicorn nor its parser asks how much there is, or since when.

Named to uvicorn by `--http app.http.bounded_requests:BoundedRequests`.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.http.errors import error_response

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers."""
MAX_HEAD_S = 20.0
MIN_BODY_BYTES_PER_S = 1024
BODY_PATIENCE_S = 20.0
"""A body may come more slowly for so long at a time."""
_END = b"\r\n\r\n"


class BoundedRequests(HttpToolsProtocol):
    """uvicorn's protocol; a head over the limit gets 431, what does not come in time 408, and the connection ends."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0
        self._tail = b""
        self._is_in_head = False
        self._body_bytes = 0
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begins to wait for the first head."""
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what comes before a head's end."""
        if self._is_in_head:
            end = (self._tail + data).find(_END)
            self._head_bytes += len(data) if end < 0 else end
            self._tail = (self._tail + data)[-len(_END) + 1 :]
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"The request's address and headers have more than {MAX_HEAD_BYTES} bytes.", "head_too_large")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Begins to wait, on a connection that is used again."""
        if not self._is_in_head:
            self._begin_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stops counting; from here on the body has to come."""
        self._is_in_head = False
        self._await_body()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Counts."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stops waiting."""
        self._stop_waiting()
        super().on_message_complete()

    def _begin_head(self) -> None:
        self._is_in_head, self._head_bytes, self._tail = True, 0, b""
        self._wait(MAX_HEAD_S, self._refuse_slow_head)

    def _await_body(self) -> None:
        self._body_bytes = 0
        self._wait(BODY_PATIENCE_S, self._judge_body)

    def _judge_body(self) -> None:
        # What the app has not read yet is not the client's delay.
        if self.flow.read_paused or self._body_bytes >= MIN_BODY_BYTES_PER_S * BODY_PATIENCE_S:
            self._await_body()
        else:
            self._refuse(408, f"The request's body came more slowly than {MIN_BODY_BYTES_PER_S} bytes a second.", "body_too_slow")

    def _refuse_slow_head(self) -> None:
        self._refuse(408, f"The request's headers were not there within {MAX_HEAD_S:.0f} s.", "head_too_slow")

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(seconds, then)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _refuse(self, status: int, message: str, code: str) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            # Nothing may stand in the middle of a reply.
            self.transport.close()
            return
        response = error_response(status, message, code=code)
        self._is_in_head = False
        phrase = b"Request Header Fields Too Large" if status == 431 else b"Request Timeout"
        head = [b"HTTP/1.1 %d %s" % (status, phrase), *(b": ".join(header) for header in response.raw_headers)]
        self.transport.write(b"\r\n".join([*head, b"connection: close", b"", bytes(response.body)]))
        self.transport.close()
