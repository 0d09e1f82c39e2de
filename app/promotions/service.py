"""What a change of an alias means: judged first, without holding the alias; then carried out, if it is still where it was."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.adapters import aliases, repository
from app.adapters.models import Adapter, Alias
from app.errors import InvalidInput
from app.promotions.gate import EvaluationMissing, Gate, judge, refuse_worse
from app.promotions.schemas import ChangeAlias, GateBody

_NOTHING = "none"


@dataclass(frozen=True)
class Judged:
    """A change that may be carried out, and the adapters that should be loaded before."""

    move: aliases.Move | None
    """None: the alias stays where it is."""
    expects: str | None
    """Where the alias pointed; None: it was not there."""
    to_load: tuple[Adapter, ...]


def judge_change(session: Session, name: str, change: ChangeAlias) -> Judged:
    """Looks at everything that speaks against a change, and changes nothing.

    Raises:
        InvalidInput: the name is none, the change says nothing, or a field needs another.
        NotFound: an adapter or the file is not there, or there is nothing to go back to.
        AliasMoved: the alias is not where the client expects it.
        EvaluationMissing, WorseThanCurrent: the gate stays shut.
    """
    _check_fields(name, change)
    alias = repository.find_alias(session, name)
    if change.expected is not None:
        aliases.check_expected(name, alias, None if change.expected == _NOTHING else change.expected)
    current = None if alias is None else alias.adapter_id
    move = target = None
    if change.to is not None:
        target = aliases.get_target(session, name, change.to)
        gate = _gate_of(alias, change)
        facts = None
        # A way back must be open when things are on fire.
        if gate is not None and change.to != aliases.PREVIOUS:
            facts = _judge(session, gate, current, target.id, is_forced=change.force)
        move = aliases.Move(current, target.id, None if gate is None else gate.to_mapping(), facts=facts, is_forced=change.force)
    candidate = None
    if change.candidate is not None:
        candidate = aliases.get_adapter(session, change.candidate.model, param="candidate.model")
    return Judged(move, current, tuple(adapter for adapter in (target, candidate) if adapter is not None))


def carry_out(session: Session, name: str, change: ChangeAlias, judged: Judged) -> Alias:
    """Changes the alias, in one transaction.

    Raises:
        AliasMoved: it is no longer where it was when the change was judged.
        NotFound: an adapter is gone.
    """
    author = aliases.Author(change.by, change.reason)
    if judged.move is not None:
        alias = aliases.point(session, name, judged.move, author)
    else:
        alias = aliases.get_alias(session, name, for_update=True)
        aliases.check_expected(name, alias, judged.expects)
    if (wish := change.candidate) is not None:
        alias = aliases.try_out(
            session, name, wish.model, mode=wish.mode, percent=100.0 if wish.percent is None else wish.percent, author=author
        )
    return alias


def _check_fields(name: str, change: ChangeAlias) -> None:
    aliases.check_name(name)
    if change.to is None and change.candidate is None:
        raise InvalidInput("Say where the alias shall point (to), or what it shall try out (candidate).", param="to")
    if change.to is None and change.gate is not None:
        raise InvalidInput("A gate comes with a promotion: send `to`, the adapter of now if it shall stay.", param="gate")
    if change.force and not (change.reason or "").strip():
        raise InvalidInput("force needs a reason: whoever reads the history will ask.", param="reason")
    wish = change.candidate
    if wish is not None and wish.mode == "share" and wish.percent is None:
        raise InvalidInput("A share needs its percent of askers, above 0 and up to 100.", param="candidate.percent")


def _gate_of(alias: Alias | None, change: ChangeAlias) -> Gate | None:
    own = None if alias is None or alias.gate is None else Gate.from_mapping(alias.gate)
    if change.gate is None:
        return own
    if isinstance(change.gate, GateBody):
        return Gate(change.gate.file, change.gate.metric)
    if own is not None and not change.force:
        raise InvalidInput("Taking the gate away is promoting against it: send force: true with a reason.", param="gate")
    return None


def _judge(session: Session, gate: Gate, current: str | None, target: str, *, is_forced: bool) -> dict[str, Any]:
    try:
        facts = judge(session, gate, baseline=current, candidate=target)
    except EvaluationMissing:
        if not is_forced:
            raise
        return {**gate.to_mapping(), "verdict": "not judged"}
    if not is_forced:
        refuse_worse(facts, candidate=target)
    return facts
