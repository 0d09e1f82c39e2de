"""Work beside the answers that nobody waits for: bounded, and whatever befalls it stays here."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog
from prometheus_client import Counter

from app.errors import AppError

_MOST_AT_ONCE = 8
_log = structlog.get_logger()
_SHADOWS = Counter("dianda_shadow_answers_total", "Requests shadowed by a candidate, by outcome.", ["outcome"])


class Shadows:
    """Runs coroutines in the background of one event loop, at most `most_at_once`; further ones are left out and counted."""

    def __init__(self, *, most_at_once: int = _MOST_AT_ONCE) -> None:
        self._most_at_once = most_at_once
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts the work, or leaves it out where too much runs."""
        if len(self._running) >= self._most_at_once:
            work.close()
            _SHADOWS.labels("left_out").inc()
            return
        task = asyncio.create_task(self._run(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Cancels what runs and waits for its end."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except AppError as error:
            _SHADOWS.labels(error.code).inc()
        except Exception as error:
            # Its text may quote the question.
            _SHADOWS.labels("failed").inc()
            _log.error("shadow_failed", error=type(error).__name__)
        else:
            _SHADOWS.labels("answered").inc()
