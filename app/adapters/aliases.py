"""What may be done with aliases: every change holds the alias's name and leaves a row of its history."""

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.adapters import repository
from app.adapters.models import CANDIDATE_REMOVED, CANDIDATE_SET, DELETED, MOVED, Adapter, Alias, AliasCandidate, AliasMove
from app.adapters.service import CandidateMode
from app.db.clock import db_now
from app.errors import Conflict, InvalidInput, NotFound

_ALIAS = re.compile(r"[A-Za-z0-9][\w.-]{0,63}@[A-Za-z0-9][\w.-]{0,31}", re.ASCII)
PREVIOUS, CANDIDATE = "previous", "candidate"


class AliasMoved(Conflict):
    """The alias does not point where the client thinks, or where it did when its promotion was judged."""

    code = "alias_moved"


@dataclass(frozen=True)
class Author:
    """Who changes an alias and why, the key's name, or as the client says where no keys are asked for."""

    name: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Move:
    """A promotion that was judged: from where it was, to where."""

    from_id: str | None
    to_id: str
    gate: dict[str, Any] | None
    """What the alias's next adapter must not be worse on."""
    facts: dict[str, Any] | None = None
    """The verdict of this move's own gate."""
    is_forced: bool = False


def check_name(name: str) -> None:
    """Refuses what is no alias's name.

    Raises:
        InvalidInput: it is not of the form `name@stage`.
    """
    if not _ALIAS.fullmatch(name):
        raise InvalidInput("An alias has the form name@stage, for example telecom@production.", param="name")


def get_alias(session: Session, name: str, *, for_update: bool = False) -> Alias:
    """Returns an alias.

    Raises:
        NotFound: no such alias.
    """
    alias = repository.find_alias(session, name, for_update=for_update)
    if alias is None:
        raise NotFound(f"There is no alias {name!r}. Set it with PUT /v1/aliases/{name}.", param="name")
    return alias


def get_target(session: Session, name: str, to: str) -> Adapter:
    """Returns the adapter that `to` means for an alias: its own id, `previous`, or `candidate`.

    Raises:
        NotFound: no such adapter, or nothing to go back to, or nothing that is tried out.
    """
    if to == PREVIOUS:
        last = None if repository.find_alias(session, name) is None else repository.find_last_move(session, name)
        if last is None or last.from_adapter_id is None:
            raise NotFound(f"Alias {name!r} has pointed nowhere else before.", param="to")
        to = last.from_adapter_id
    elif to == CANDIDATE:
        candidate = repository.find_candidate(session, name)
        if candidate is None:
            raise NotFound(f"Alias {name!r} tries no candidate out.", param="to")
        to = candidate.adapter_id
    return get_adapter(session, to, param="to")


def get_adapter(session: Session, adapter_id: str, *, param: str) -> Adapter:
    """Returns an adapter.

    Raises:
        NotFound: no such adapter.
    """
    adapter = repository.find(session, adapter_id)
    if adapter is None:
        raise NotFound(f"There is no adapter {adapter_id!r}. List the models with GET /v1/models.", param=param)
    return adapter


def point(session: Session, name: str, move: Move, author: Author) -> Alias:
    """Points an alias to an adapter; a candidate that has arrived is a candidate no more.

    Raises:
        InvalidInput: the name is none.
        NotFound: the adapter is gone.
        AliasMoved: the alias no longer points where the promotion was judged.
    """
    check_name(name)
    alias = repository.find_alias(session, name, for_update=True)
    check_expected(name, alias, move.from_id)
    adapter = get_adapter(session, move.to_id, param="to")
    now = _add_move(
        session, name, MOVED, author, from_id=move.from_id, to_id=move.to_id, facts=move.facts, is_forced=move.is_forced
    )
    if alias is None:
        alias = Alias(name=name, adapter_id=move.to_id, gate=move.gate, updated_at=now)
        session.add(alias)
    else:
        alias.adapter_id, alias.gate, alias.updated_at = move.to_id, move.gate, now
    candidate = repository.find_candidate(session, name)
    if candidate is not None and candidate.adapter_id == adapter.id:
        session.delete(candidate)
    elif candidate is not None and get_adapter(session, candidate.adapter_id, param="to").base_model != adapter.base_model:
        _remove_candidate(session, candidate, Author(reason=f"{adapter.id} is of another base model."))
    session.flush()
    return alias


def try_out(session: Session, name: str, adapter_id: str, *, mode: CandidateMode, percent: float, author: Author) -> Alias:
    """Lets an alias try an adapter out, in place of what it tried before.

    Raises:
        NotFound: no such alias or adapter.
        InvalidInput: the alias points there already, or the two are of different base models.
    """
    alias = get_alias(session, name, for_update=True)
    adapter = get_adapter(session, adapter_id, param="candidate.model")
    if adapter.id == alias.adapter_id:
        raise InvalidInput(f"Alias {name!r} points to {adapter_id!r} already.", param="candidate.model")
    own = get_adapter(session, alias.adapter_id, param="name")
    if adapter.base_model != own.base_model:
        raise InvalidInput(
            f"{adapter_id!r} is of {adapter.base_model}, {own.id!r} of {own.base_model}: one answerer holds one base model.",
            param="candidate.model",
        )
    row = repository.find_candidate(session, name)
    now = _add_move(
        session,
        name,
        CANDIDATE_SET,
        author,
        from_id=None if row is None else row.adapter_id,
        to_id=adapter.id,
        facts={"mode": mode, "percent": percent},
    )
    if row is None:
        row = AliasCandidate(alias=name)
        session.add(row)
    row.adapter_id, row.mode, row.percent, row.created_at = adapter.id, mode, percent, now
    session.flush()
    return alias


def end_trial(session: Session, name: str, author: Author) -> Alias:
    """Lets an alias try nothing out any more.

    Raises:
        NotFound: no such alias, or it tries nothing out.
    """
    alias = get_alias(session, name, for_update=True)
    candidate = repository.find_candidate(session, name)
    if candidate is None:
        raise NotFound(f"Alias {name!r} tries no candidate out.", param="name")
    _remove_candidate(session, candidate, author)
    return alias


def delete(session: Session, name: str, author: Author) -> None:
    """Removes an alias; its history stays.

    Raises:
        NotFound: no such alias.
    """
    alias = get_alias(session, name, for_update=True)
    if (candidate := repository.find_candidate(session, name)) is not None:
        session.delete(candidate)
        session.flush()
    _add_move(session, name, DELETED, author, from_id=alias.adapter_id, to_id=None)
    session.delete(alias)
    session.flush()


def check_expected(name: str, alias: Alias | None, expected: str | None) -> None:
    """Refuses a change that was meant for another state; `expected` None: the alias is not there yet.

    Raises:
        AliasMoved: it points elsewhere.
    """
    found = None if alias is None else alias.adapter_id
    if found != expected:
        raise AliasMoved(
            f"Alias {name!r} points to {found or 'nothing'}, not to {expected or 'nothing'}: somebody was faster. Look again.",
            param="expected",
            details={"current": found},
        )


def _remove_candidate(session: Session, candidate: AliasCandidate, author: Author) -> None:
    _add_move(session, candidate.alias, CANDIDATE_REMOVED, author, from_id=candidate.adapter_id, to_id=None)
    session.delete(candidate)
    session.flush()


def _add_move(
    session: Session,
    name: str,
    action: str,
    author: Author,
    *,
    from_id: str | None,
    to_id: str | None,
    facts: dict[str, Any] | None = None,
    is_forced: bool = False,
) -> float:
    now = session.scalar(select(db_now())) or 0.0
    repository.add_move(
        session,
        AliasMove(
            alias=name,
            action=action,
            from_adapter_id=from_id,
            to_adapter_id=to_id,
            made_by=author.name,
            reason=author.reason,
            is_forced=is_forced,
            facts=facts,
            created_at=now,
        ),
    )
    return now
