"""What endpoints ask of access."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from app.access.callers import Caller


def caller_of(request: Request) -> Caller:
    """Returns who makes a request that the guard let through."""
    caller: Caller = request.state.caller
    return caller


def find_caller(request: Request) -> Caller | None:
    """Returns who makes a request, or None where a route is for everybody and nobody was asked for a key."""
    caller: Caller | None = request.state.caller
    return caller


def still_let_in(request: Request) -> Callable[[], bool]:
    """Returns what says, again and again, whether the request's key is in force still; without a key it always is."""
    is_let_in: Callable[[], bool] = getattr(request.state, "is_still_let_in", _always)
    return is_let_in


def _always() -> bool:
    return True


StillLetInDep = Annotated[Callable[[], bool], Depends(still_let_in)]
CallerDep = Annotated[Caller, Depends(caller_of)]
