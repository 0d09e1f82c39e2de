"""The migration of aliases goes up and down over histories that are there."""

from sqlalchemy import Engine, text

from app.adapters import aliases
from app.db.migrating import downgrade, is_current, upgrade
from app.db.unit_of_work import read_only, unit_of_work
from tests.fixtures.queue import insert_adapter


def test_a_history_from_before_is_one_of_plain_moves(engine: Engine) -> None:
    adapter_id = insert_adapter(engine)
    downgrade(engine, "0004")
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO aliases (name, adapter_id, updated_at) VALUES ('telecom@production', :to, 1)"), {"to": adapter_id}
        )
        connection.execute(
            text("INSERT INTO alias_moves (alias, number, to_adapter_id, created_at) VALUES ('telecom@production', 1, :to, 1)"),
            {"to": adapter_id},
        )
    upgrade(engine)

    with read_only(engine) as session:
        (move,) = aliases.repository.moves_of(session, "telecom@production", limit=10)
        assert (move.action, move.to_adapter_id, move.is_forced, move.made_by, move.facts) == (
            "moved",
            adapter_id,
            False,
            None,
            None,
        )
        assert aliases.get_alias(session, "telecom@production").gate is None


def test_down_and_up_again_keeps_the_moves_and_the_alias(engine: Engine) -> None:
    first, second = insert_adapter(engine), insert_adapter(engine)
    author = aliases.Author("me", "because")
    with unit_of_work(engine) as session:
        aliases.point(session, "telecom@production", aliases.Move(None, first, {"file": "f", "metric": "set_f1"}), author)
        aliases.try_out(session, "telecom@production", second, mode="shadow", percent=100, author=author)
        aliases.point(session, "care@test", aliases.Move(None, first, None), author)
        aliases.delete(session, "care@test", author)

    downgrade(engine, "0004")
    upgrade(engine)

    assert is_current(engine)
    with read_only(engine) as session:
        assert aliases.get_alias(session, "telecom@production").adapter_id == first
        moves = aliases.repository.moves_of(session, "telecom@production", limit=10)
        assert [(move.number, move.to_adapter_id, move.reason) for move in moves] == [(1, first, "because")]
