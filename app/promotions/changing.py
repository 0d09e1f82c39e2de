"""A change of an alias from end to end: judged, loaded, carried out. The HTTP dialect and the console come through here."""

from collections.abc import Callable

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from sqlalchemy import Engine

from app.access import audit
from app.access.callers import Caller
from app.adapters import repository
from app.answers.service import AnswerService
from app.db.unit_of_work import after_commit, read_only, unit_of_work
from app.promotions import service
from app.promotions.loading import load_adapters
from app.promotions.schemas import AliasObject, ChangeAlias, PromotionObject


async def change_alias(
    name: str,
    body: ChangeAlias,
    *,
    caller: Caller,
    engine: Engine,
    answers: AnswerService,
    turns: CapacityLimiter,
    forget_names: Callable[[], None],
) -> AliasObject:
    """Changes an alias; the adapter is loaded before the alias moves.

    Raises:
        AppError: as `service.judge_change`, `load_adapters` and `service.carry_out`.
    """
    authored = body.model_copy(update={"by": caller.author(body.by)})

    def judge_change() -> service.Judged:
        with read_only(engine) as session:
            return service.judge_change(session, name, body)

    def carry_out() -> AliasObject:
        with unit_of_work(engine) as session:
            alias = service.carry_out(session, name, authored, judged)
            details = {"to": body.to, "points_to": alias.adapter_id, "forced": body.force}
            if body.candidate is not None:
                details["candidate"] = body.candidate.model
            audit.record(session, caller, "alias.changed", name, details=details)
            after_commit(session, forget_names)
            return AliasObject.of(alias, repository.find_candidate(session, name), promotion)

    # Two turns at the database, none while an adapter is loaded: that may take seconds.
    async with turns:
        judged = await run_sync(judge_change)
    is_loaded = await load_adapters(answers, judged.to_load, is_forced=body.force)
    promotion = None
    if (move := judged.move) is not None:
        promotion = PromotionObject(
            from_model=move.from_id, to_model=move.to_id, gate=move.facts, forced=move.is_forced, loaded=is_loaded
        )
    async with turns:
        return await run_sync(carry_out)
