"""Several answerers as one: each question goes to the least busy, and to another one when that is away."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import structlog

from app.answers.backend import AnswerBackend, AnswererUnavailable, AnswerRequest, AnswerResult, Overloaded, ServingPaused
from app.errors import AppError

_log = structlog.get_logger()
_LOOK_S = 0.5


@dataclass
class _Member:
    name: str
    backend: AnswerBackend
    under_way: int = 0
    turn: int = 0
    is_away: bool = False


class AnswererPool:
    """An `AnswerBackend` over several that hold the same base model and read the same blobs.

    A question changes nothing, so one that an answerer lost is asked again elsewhere, within its own deadline. An answerer
    that did not answer is left aside until its health says that it is back.
    """

    def __init__(self, backends: Mapping[str, AnswerBackend], *, timeout_s: float) -> None:
        """`backends` by the name that the log calls them, such as their addresses."""
        self._members = [_Member(name, backend) for name, backend in backends.items()]
        self._timeout_s = timeout_s
        self._turn = 0
        self._looking: asyncio.Task[None] | None = None

    async def answer(self, request: AnswerRequest) -> list[AnswerResult]:
        """Returns one result a question, in order."""
        give_up_at = time.monotonic() + (self._timeout_s if request.deadline_s is None else request.deadline_s)
        failure: AppError | None = None
        for member in self._in_order():
            left_s = give_up_at - time.monotonic()
            if failure is not None and left_s <= 0:
                break
            self._turn += 1
            member.turn = self._turn
            member.under_way += 1
            try:
                return await member.backend.answer(replace(request, deadline_s=left_s))
            except ServingPaused as error:
                # It is not away: it left its card to a job, and says itself when it is back.
                failure = error
            except AnswererUnavailable as error:
                failure = error
                self._put_aside(member)
            except Overloaded as error:
                failure = error
            finally:
                member.under_way -= 1
        assert failure is not None
        raise failure

    async def health(self) -> str | None:
        """Returns None if one of them is ready, else what the first one says."""
        messages = await asyncio.gather(*(member.backend.health() for member in self._members))
        return None if None in messages else messages[0]

    async def find_pause(self) -> str | None:
        """Returns what the first one says that pauses."""
        messages = await asyncio.gather(*(member.backend.find_pause() for member in self._members))
        return next((message for message in messages if message is not None), None)

    async def close(self) -> None:
        """Closes all of them."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            self._looking = None
        for member in self._members:
            await member.backend.close()

    def _in_order(self) -> list[_Member]:
        # Those that are away come last, and are asked all the same where nobody else answers: one may be back just now.
        return sorted(self._members, key=lambda member: (member.is_away, member.under_way, member.turn))

    def _put_aside(self, member: _Member) -> None:
        if not member.is_away:
            _log.warning("answerer_away", answerer=member.name)
        member.is_away = True
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_until_all_are_back())

    async def _look_until_all_are_back(self) -> None:
        while away := [member for member in self._members if member.is_away]:
            await asyncio.sleep(_LOOK_S)
            for member in away:
                if await member.backend.health() is None:
                    member.is_away = False
                    _log.info("answerer_back", answerer=member.name)
