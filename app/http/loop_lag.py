"""How late the event loop is: the one sign of overload that needs to know nothing of what the load is."""

import asyncio

_LOOKED_EVERY_S = 0.01
_LATE_S = 0.02


class LoopLag:
    """Looks a hundred times a second; a loop is late if it comes to its work more than 20 ms after the work was there."""

    def __init__(self) -> None:
        self.is_late = False

    async def watch(self) -> None:
        """Looks until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LOOKED_EVERY_S
            await asyncio.sleep(_LOOKED_EVERY_S)
            self.is_late = loop.time() - due > _LATE_S
