"""Runs an app under uvicorn so that it can be replaced unseen: `python -m app.http.serving APP --host H --port P`, or `--fd N`.

With `--fd` the listening socket belongs to the process that started this one: a successor accepts from the same queue, and no
connection is refused in between.
"""

import argparse
import asyncio
import os
import socket
import time
from collections.abc import Sequence

import uvicorn

# uvicorn closes a kept connection after so many idle seconds; whoever is still there by then has not asked for as long.
KEEP_ALIVE_S = 5
_GRACEFUL_S = 10
_BACKLOG = 2048


class DrainingServer(uvicorn.Server):
    """A uvicorn server that lets kept connections say goodbye before it closes them.

    uvicorn closes idle connections at once, and a request that is on its way meets the closing. Here each further reply on a
    kept connection carries `Connection: close`, and only idle time ends the rest, as it does on any other day.
    """

    ready_fd: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts, and says so to the starter."""
        await super().startup(sockets)
        if self.ready_fd is not None:
            os.write(self.ready_fd, b"1")
            os.close(self.ready_fd)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops accepting, drains kept connections, then does what uvicorn does."""
        for server in self.servers:
            server.close()
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        give_up_at = time.monotonic() + KEEP_ALIVE_S
        while self._idle_connections() and time.monotonic() < give_up_at and not self.force_exit:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)

    def _idle_connections(self) -> int:
        # A connection has a cycle from its first request on; what answers just now (an event stream) is left to uvicorn.
        cycles = [getattr(connection, "cycle", None) for connection in self.server_state.connections]
        return sum(cycle is None or cycle.response_complete for cycle in cycles)


def serve(app: str, listening: socket.socket | None, *, host: str, port: int, ready_fd: int | None = None) -> None:
    """Serves the app that a factory makes (`module:function`) until SIGTERM."""
    config = uvicorn.Config(
        app,
        factory=True,
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        http="app.http.bounded_requests:BoundedRequests",
        backlog=_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACEFUL_S,
    )
    server = DrainingServer(config)
    server.ready_fd = ready_fd
    server.run(None if listening is None else [listening])


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(prog="python -m app.http.serving")
    parser.add_argument("app", help="module:factory")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--fd", type=int, help="an inherited listening socket, instead of host and port")
    parser.add_argument("--ready-fd", type=int, help="an inherited pipe that gets one byte once connections are accepted")
    options = parser.parse_args(arguments)
    listening = None if options.fd is None else socket.socket(fileno=options.fd)
    serve(options.app, listening, host=options.host, port=options.port, ready_fd=options.ready_fd)


if __name__ == "__main__":
    main()
