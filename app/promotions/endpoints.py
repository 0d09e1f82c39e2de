"""`/v1/aliases`: promote, go back, try out, look back."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy.orm import Session

from app.access import audit
from app.access.dependencies import CallerDep
from app.adapters import aliases, repository
from app.db.unit_of_work import after_commit
from app.http.dependencies import EngineDep, ReadingDep, TransactionDep
from app.http.errors import ERROR_RESPONSES
from app.http.schemas import Deleted
from app.promotions import changing, trials
from app.promotions.schemas import (
    AliasHistory,
    AliasList,
    AliasMoveObject,
    AliasObject,
    By,
    ChangeAlias,
    Reason,
)
from app.promotions.trials import TrialObject

router = APIRouter(prefix="/v1/aliases", tags=["aliases"], responses=ERROR_RESPONSES)
ReasonParam = Annotated[Reason | None, Query()]
ByParam = Annotated[By | None, Query()]


@router.put("/{name}")
async def change_alias(request: Request, caller: CallerDep, engine: EngineDep, name: str, body: ChangeAlias) -> AliasObject:
    """Points an alias to an adapter, back to the `previous` one, or to its `candidate`; or tries a candidate out.

    With a gate, an adapter that is worse than the present one on a frozen file by more than chance is refused with the numbers
    (409). The adapter is loaded before the alias moves; every answer after the reply comes from it.
    """
    return await changing.change_alias(
        name,
        body,
        caller=caller,
        engine=engine,
        answers=request.app.state.answers,
        turns=request.app.state.database_turns,
        forget_names=request.app.state.model_names.forget,
    )


@router.get("")
def list_aliases(
    session: ReadingDep,
    after: Annotated[str | None, Query(max_length=128, description="Last name of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most aliases of a page.")] = 100,
) -> AliasList:
    """Lists aliases by name: where each points, its gate, and what it tries out."""
    rows = repository.list_aliases(session, after=after, limit=limit + 1)
    trials = repository.candidates_of(session, [alias.name for alias in rows])
    return AliasList(data=[AliasObject.of(alias, trials.get(alias.name)) for alias in rows[:limit]], has_more=len(rows) > limit)


@router.get("/{name}")
def get_alias(session: ReadingDep, name: str) -> AliasObject:
    """Returns where an alias points, its gate, and what it tries out."""
    return AliasObject.of(aliases.get_alias(session, name), repository.find_candidate(session, name))


@router.delete("/{name}")
def delete_alias(
    request: Request, caller: CallerDep, session: TransactionDep, name: str, reason: ReasonParam = None, by: ByParam = None
) -> Deleted:
    """Deletes an alias; who asks for it from then on gets 404. Its history stays."""
    aliases.delete(session, name, aliases.Author(caller.author(by), reason))
    audit.record(session, caller, "alias.deleted", name)
    _forget_names(request, session)
    return Deleted(id=name, object="alias")


@router.get("/{name}/candidate")
def get_trial(session: ReadingDep, name: str) -> TrialObject:
    """Reports how the candidate does: answers, fallback rate and latency of both, and how often they agree (`shadow`)."""
    return trials.report(session, name)


@router.delete("/{name}/candidate")
def end_trial(
    request: Request, caller: CallerDep, session: TransactionDep, name: str, reason: ReasonParam = None, by: ByParam = None
) -> AliasObject:
    """Ends a trial: the alias's own adapter answers everybody again."""
    alias = aliases.end_trial(session, name, aliases.Author(caller.author(by), reason))
    audit.record(session, caller, "alias.trial_ended", name)
    _forget_names(request, session)
    return AliasObject.of(alias, None)


@router.get("/{name}/history")
def get_alias_history(
    session: ReadingDep,
    name: str,
    before: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Lowest number of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most changes of a page.")] = 100,
) -> AliasHistory:
    """Returns the changes of an alias, newest first: who, when, from where to where, why, and the gate's numbers."""
    moves = repository.moves_of(session, name, before=before, limit=limit + 1)
    if not moves:
        aliases.get_alias(session, name)
    return AliasHistory(data=[AliasMoveObject.of(move) for move in moves[:limit]], has_more=len(moves) > limit)


def _forget_names(request: Request, session: Session) -> None:
    after_commit(session, request.app.state.model_names.forget)
