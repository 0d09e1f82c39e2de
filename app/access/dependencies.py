"""What endpoints ask of access."""

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


CallerDep = Annotated[Caller, Depends(caller_of)]
