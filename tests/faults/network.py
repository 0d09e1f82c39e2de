"""TCP links on loopback that forward, and can be cut, stalled half-open, or reset."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any


class Link:
    """Forwards a port of its own to another one."""

    def __init__(self, network: "Network", target: int) -> None:
        self.port = 0
        self._network, self._target = network, target
        self._open = asyncio.Event()
        self._open.set()
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        network.run(self._listen())

    def cut(self) -> None:
        """Ends every connection; new ones end at once, until `heal`."""
        self._is_cut = True
        self.reset()

    def stall(self) -> None:
        """Keeps every connection and forwards nothing, until `heal`."""
        self._network.call(self._open.clear)

    def reset(self) -> None:
        """Ends every connection; new ones are welcome."""
        self._network.call(self._abort)

    def heal(self) -> None:
        """Forwards again, what has waited too."""
        self._is_cut = False
        self._network.call(self._open.set)

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._writers |= ends
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


class Network:
    """The thread that all links live in."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="network", daemon=True).start()

    def link(self, target: int) -> Link:
        """Returns a new link to a port."""
        return Link(self, target)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs something in the network's thread and waits for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def call(self, function: Any) -> None:
        """Calls something in the network's thread and waits for it."""

        async def do() -> None:
            function()

        self.run(do())
