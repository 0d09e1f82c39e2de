"""Aliases are changed in any order; their history tells the whole story, and their state is what it tells."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine, delete
from sqlalchemy.orm import Session

from app.adapters import aliases, repository, service
from app.adapters.models import Adapter, AdapterCounter, Alias, AliasCandidate, AliasMove
from app.db.unit_of_work import read_only, unit_of_work
from app.errors import AppError, Conflict, NotFound
from tests.fixtures.queue import insert_adapter

NAMES = ("telecom@production", "care@test")
ADAPTERS = tuple(f"telecom:{version}" for version in range(1, 5))
AUTHOR = aliases.Author("me", "because")


class AliasesMachine(RuleBasedStateMachine):
    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.points: dict[str, str] = {}
        self.before: dict[str, str | None] = {}
        self.tries: dict[str, str] = {}
        self.there = set(ADAPTERS)
        with unit_of_work(engine) as session:
            for table in (AliasCandidate, AliasMove, Alias, Adapter, AdapterCounter):
                session.execute(delete(table))
        for _ in ADAPTERS:
            insert_adapter(engine)

    @rule(
        name=st.sampled_from(NAMES),
        to=st.sampled_from([*ADAPTERS, "previous", "candidate"]),
        sees=st.sampled_from([None, *ADAPTERS]),
    )
    def move(self, name: str, to: str, sees: str | None) -> None:
        meant = {"previous": self.before.get(name), "candidate": self.tries.get(name)}.get(to, to)
        with unit_of_work(self.engine) as session:
            try:
                target = aliases.get_target(session, name, to)
                aliases.point(session, name, aliases.Move(sees, target.id, None), AUTHOR)
            except NotFound:
                assert meant not in self.there
                return
            except aliases.AliasMoved:
                assert sees != self.points.get(name)
                return
        assert meant in self.there and sees == self.points.get(name)
        if sees != target.id:
            self.before[name] = sees
        self.points[name] = target.id
        if self.tries.get(name) == target.id:
            del self.tries[name]

    @rule(name=st.sampled_from(NAMES), adapter_id=st.sampled_from(ADAPTERS))
    def try_out(self, name: str, adapter_id: str) -> None:
        may = name in self.points and adapter_id in self.there and self.points[name] != adapter_id
        with unit_of_work(self.engine) as session:
            try:
                aliases.try_out(session, name, adapter_id, mode="share", percent=10, author=AUTHOR)
            except AppError:
                assert not may
                return
        assert may
        self.tries[name] = adapter_id

    @rule(name=st.sampled_from(NAMES))
    def end_trial(self, name: str) -> None:
        with unit_of_work(self.engine) as session:
            try:
                aliases.end_trial(session, name, AUTHOR)
            except NotFound:
                assert name not in self.tries
                return
        del self.tries[name]

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        with unit_of_work(self.engine) as session:
            try:
                aliases.delete(session, name, AUTHOR)
            except NotFound:
                assert name not in self.points
                return
        del self.points[name]
        self.tries.pop(name, None)
        self.before[name] = None

    @rule(adapter_id=st.sampled_from(ADAPTERS))
    def delete_adapter(self, adapter_id: str) -> None:
        is_used = adapter_id in {*self.points.values(), *self.tries.values()}
        with unit_of_work(self.engine) as session:
            try:
                service.delete(session, adapter_id, users_of=())
            except Conflict:
                assert is_used
                return
            except NotFound:
                assert adapter_id not in self.there
                return
        assert not is_used
        self.there.discard(adapter_id)

    @invariant()
    def everything_holds(self) -> None:
        with read_only(self.engine) as session:
            for name in NAMES:
                alias, candidate = repository.find_alias(session, name), repository.find_candidate(session, name)
                assert (None if alias is None else alias.adapter_id) == self.points.get(name)
                assert (None if candidate is None else candidate.adapter_id) == self.tries.get(name)
                self.history_holds(session, name)

    def history_holds(self, session: Session, name: str) -> None:
        moves = repository.moves_of(session, name, limit=10_000)[::-1]
        assert [move.number for move in moves] == list(range(1, len(moves) + 1)), "numbered without gaps"
        at: str | None = None
        for move in moves:
            if move.action in ("moved", "deleted"):
                assert move.from_adapter_id == at, "each goes on from where the one before arrived"
                at = move.to_adapter_id
        assert at == self.points.get(name), "the history ends where the alias is"


def test_whatever_is_done_the_history_leads_to_where_the_alias_is(engine: Engine) -> None:
    examples = 30 if engine.dialect.name == "sqlite" else 15
    run_state_machine_as_test(
        lambda: AliasesMachine(engine), settings=settings(max_examples=examples, stateful_step_count=25, deadline=None)
    )
