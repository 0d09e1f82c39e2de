import asyncio

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from app.access import repository, service
from app.access.errors import InvalidKey, KeysUnknown
from app.access.key_ring import KeyRing
from app.access.scopes import Scope
from app.db.engine import make_engine
from app.db.unit_of_work import read_only, unit_of_work
from tests.app.access.keyed import OPERATOR, UNKNOWN_SECRET


def made(engine: Engine, name: str = "crm", **wishes: float) -> service.CreatedKey:
    with unit_of_work(engine) as session:
        return service.create(session, service.KeyWish(name, Scope.ANSWER, **wishes), OPERATOR)  # type: ignore[arg-type]


def test_a_key_is_in_force_until_it_is_revoked(engine: Engine) -> None:
    created, other = made(engine), made(engine, "other")
    ring = KeyRing(engine)

    assert asyncio.run(ring.get(created.secret)).caller.name == "crm"
    with unit_of_work(engine) as session:
        service.revoke(session, "crm", OPERATOR)
    ring.reload()

    with pytest.raises(InvalidKey):
        asyncio.run(ring.get(created.secret))
    assert asyncio.run(ring.get(other.secret)).caller.key_id == other.key.id


def test_a_key_that_is_known_costs_no_query(engine: Engine) -> None:
    created = made(engine)
    ring = KeyRing(engine)
    ring.reload()
    queries: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *facts: queries.append(facts[2]))

    for _ in range(50):
        asyncio.run(ring.get(created.secret))

    assert queries == []


def test_a_hundred_unknown_keys_at_once_cost_one_query_or_two(engine: Engine) -> None:
    made(engine)
    ring = KeyRing(engine)
    queries: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *facts: queries.append(facts[2]))

    async def strangers() -> list[object]:
        return await asyncio.gather(*(ring.get(UNKNOWN_SECRET) for _ in range(100)), return_exceptions=True)

    found = asyncio.run(strangers())

    assert {type(one) for one in found} == {InvalidKey}
    assert sum("api_keys" in query for query in queries) <= 2


def test_a_key_keeps_its_counts_when_the_keys_are_read_anew(engine: Engine) -> None:
    created = made(engine)
    ring = KeyRing(engine)
    before = asyncio.run(ring.get(created.secret))
    made(engine, "another")

    ring.reload()

    assert asyncio.run(ring.get(created.secret)) is before


def test_while_the_database_is_away_the_keys_read_last_hold(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    created = made(engine)
    ring = KeyRing(engine)
    ring.reload()

    def away(*facts: object, **more: object) -> None:
        raise OperationalError("SELECT", {}, Exception("refused"))

    monkeypatch.setattr(repository, "list_in_force", away)

    assert asyncio.run(ring.get(created.secret)).caller.name == "crm"
    with pytest.raises(InvalidKey):
        asyncio.run(ring.get(UNKNOWN_SECRET))


def test_before_the_first_read_nobody_is_told_that_their_key_is_wrong() -> None:
    ring = KeyRing(make_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing"))

    with pytest.raises(KeysUnknown, match="database"):
        asyncio.run(ring.get(UNKNOWN_SECRET))


def test_revoking_twice_is_one_act(engine: Engine) -> None:
    created = made(engine)
    for _ in range(2):
        with unit_of_work(engine) as session:
            service.revoke(session, created.key.prefix, OPERATOR)

    with read_only(engine) as session:
        acts = [entry.act for entry in repository.audit_page(session, before=None, limit=10)]
    assert acts == ["key.revoked", "key.created"]


def test_the_time_of_a_key_that_is_over_frees_its_name(engine: Engine) -> None:
    made(engine, days=-1.0)

    assert made(engine).key.name == "crm"
