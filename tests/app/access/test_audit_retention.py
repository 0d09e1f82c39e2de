import time

import pytest
from sqlalchemy import Engine, select

from app.access import retention
from app.access.models import AuditEntry
from app.access.retention import AuditRetention
from app.db.unit_of_work import read_only, unit_of_work

DAY_S = 86_400.0


def add_entries(engine: Engine, *ages_days: float) -> None:
    with unit_of_work(engine) as session:
        for age in ages_days:
            entry = AuditEntry(created_at=time.time() - age * DAY_S, actor="li.wei", act="key.created", target=f"{age:g} days")
            session.add(entry)
            session.flush()


def targets(engine: Engine) -> list[str]:
    with read_only(engine) as session:
        return list(session.scalars(select(AuditEntry.target).order_by(AuditEntry.number)))


def test_acts_beyond_their_days_go_and_younger_ones_stay(engine: Engine) -> None:
    add_entries(engine, 800, 731, 729, 0)

    assert AuditRetention(engine, days=730).enforce() == 2

    assert targets(engine) == ["729 days", "0 days"]


def test_a_round_deletes_no_more_than_its_limit_the_oldest_first(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_DELETED_A_ROUND", 2)
    add_entries(engine, 903, 902, 901)

    assert AuditRetention(engine, days=730).enforce() == 2
    assert targets(engine) == ["901 days"]

    assert AuditRetention(engine, days=730).enforce() == 1
    assert AuditRetention(engine, days=730).enforce() == 0
