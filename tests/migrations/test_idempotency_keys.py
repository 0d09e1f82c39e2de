"""The migration of idempotency keys goes up and down over keys that are there."""

from sqlalchemy import Engine, select, text

from app.db.migrating import downgrade, is_current, upgrade
from app.db.unit_of_work import read_only, unit_of_work
from app.jobs.models import IdempotencyKey
from tests.fixtures.queue import insert_job


def test_a_key_from_before_still_gives_its_job(engine: Engine) -> None:
    job_id = insert_job(engine)
    downgrade(engine, "0010")
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO idempotency_keys (key, body_sha256, job_id, created_at) VALUES ('k-1', 'd', :job_id, 1)"),
            {"job_id": job_id},
        )
    upgrade(engine)

    assert is_current(engine)
    with read_only(engine) as session:
        (key,) = session.scalars(select(IdempotencyKey))
        assert (key.kind, key.key, key.body_sha256, key.made_id, key.created_at) == ("jobs", "k-1", "d", job_id, 1.0)


def test_down_and_up_again_keeps_the_keys_of_jobs_alone(engine: Engine) -> None:
    job_id = insert_job(engine)
    with unit_of_work(engine) as session:
        for kind, made_id in (("jobs", job_id), ("exports", "export-1")):
            session.add(IdempotencyKey(kind=kind, key="k-1", body_sha256="d", made_id=made_id, created_at=1.0))

    downgrade(engine, "0010")
    upgrade(engine)

    with read_only(engine) as session:
        assert [key.made_id for key in session.scalars(select(IdempotencyKey))] == [job_id]
