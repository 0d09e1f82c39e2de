from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.answers.backends.answerer import AnswererBackend
from app.answers.backends.scripted import ScriptedBackend
from app.cli.stack import free_port
from app.db.unit_of_work import unit_of_work
from app.jobs import repository
from app.jobs.states import JobStatus
from app.main import create_app
from tests.fixtures.api import BASE, WEIGHTLESS, Api, make_settings, running_api
from tests.fixtures.db import Databases
from tests.fixtures.queue import RecordingDoorbell, insert_job


def ready(api: Api) -> tuple[int, dict[str, Any]]:
    response = api.client.get("/health/ready")
    return response.status_code, response.json()


def test_live_says_that_the_process_runs(shared_api: Api) -> None:
    assert shared_api.client.get("/health/live").json() == {"status": "live"}


def test_an_api_with_everything_but_a_worker_is_ready_and_says_how_to_start_one(api: Api) -> None:
    status, body = ready(api)

    assert (status, body["status"]) == (200, "ready")
    assert body["checks"]["worker"]["ok"] is False and body["checks"]["worker"]["required"] is False
    assert "dianda worker" in body["checks"]["worker"]["message"]


def test_a_worker_that_gave_a_sign_of_life_is_seen(api: Api) -> None:
    with unit_of_work(api.engine) as session:
        repository.say_alive(session, "host-1", {"pid": 1})

    assert ready(api)[1]["checks"]["worker"] == {"ok": True, "required": False, "message": None}


def test_a_worker_that_has_been_silent_for_a_lease_is_not_counted(api: Api) -> None:
    with unit_of_work(api.engine) as session:
        repository.say_alive(session, "host-1", {"pid": 1})
        session.execute(repository.update(repository.Worker).values(seen_at=repository.Worker.seen_at - 31))

    assert ready(api)[1]["checks"]["worker"]["ok"] is False


def test_a_second_sign_of_life_renews_the_first(api: Api) -> None:
    for pid in (1, 2):
        with unit_of_work(api.engine) as session:
            repository.say_alive(session, "host-1", {"pid": pid})

    with unit_of_work(api.engine) as session:
        (worker,) = repository.live_workers(session, within_s=30)
    assert worker.facts == {"pid": 2} and worker.seen_at >= worker.started_at


def test_a_broker_that_is_away_does_not_make_the_api_unready(api: Api) -> None:
    api.bell.unheard = None

    status, body = ready(api)

    assert status == 200
    assert "broker does not answer" in body["checks"]["broker"]["message"]


@pytest.mark.parametrize(
    ("base_model", "advice"),
    [(WEIGHTLESS, f"dianda models import {WEIGHTLESS}"), ("not-listed", "dianda models add not-listed SOURCE")],
)
def test_missing_weights_say_exactly_what_to_run(tmp_path: Path, databases: Databases, base_model: str, advice: str) -> None:
    with databases.database("sqlite") as url, running_api(tmp_path, url, base_model=base_model) as api:
        status, body = ready(api)

    assert (status, body["status"]) == (503, "not_ready")
    assert advice in body["checks"]["base_model"]["message"]


@pytest.mark.parametrize("dialect_name", ["sqlite", "postgresql"])
def test_a_database_without_migrations_says_exactly_what_to_run(tmp_path: Path, databases: Databases, dialect_name: str) -> None:
    with databases.database(dialect_name, migrated=False) as url, running_api(tmp_path, url) as api:
        status, body = ready(api)

    assert status == 503
    assert body["checks"]["database"]["message"] == "The database's schema is not current. Run: dianda migrate"


def test_a_database_that_is_away_makes_the_api_unready_and_requests_503(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none"
    with running_api(tmp_path, url) as api:
        assert ready(api)[0] == 503
        assert api.client.get("/v1/files").status_code == 503
        assert api.client.get("/health/live").status_code == 200
        assert "dianda_http_requests_total" in api.client.get("/metrics").text


def test_an_answerer_that_is_away_says_where_to_look(tmp_path: Path, databases: Databases) -> None:
    backend = AnswererBackend(f"http://127.0.0.1:{free_port()}", timeout_s=1)
    with databases.database("sqlite") as url:
        app = create_app(make_settings(tmp_path, url), answer_backend=backend, doorbell=RecordingDoorbell())
        with TestClient(app) as client:
            response = client.get("/health/ready")

    assert response.status_code == 503
    assert response.json()["checks"]["answerer"] == {
        "ok": False,
        "required": True,
        "message": "The answerer does not answer. Look at its log and start it again.",
    }


def test_a_check_that_raises_has_failed_without_its_text(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int | None:
        raise ValueError("secret")

    monkeypatch.setattr(api.bell, "waiting", broken)

    message = ready(api)[1]["checks"]["broker"]["message"]

    assert "ValueError" in message and "secret" not in message


def test_metrics_count_requests_answers_and_jobs(api: Api) -> None:
    insert_job(api.engine)
    insert_job(api.engine, status=JobStatus.PAUSED)
    api.client.post("/answer", json={"question": "问"})

    text = api.client.get("/metrics").text

    assert 'dianda_jobs{status="queued"} 1.0' in text
    assert 'dianda_jobs{status="paused"} 1.0' in text
    assert 'dianda_answers_total{fallback="none"}' in text
    assert "dianda_answer_seconds_bucket" in text
    assert 'dianda_http_requests_total{method="POST",route="/answer",status="200"}' in text
    assert 'dianda_http_seconds_count{method="POST",route="/answer"}' in text


def test_metrics_name_routes_and_never_what_a_client_wrote(api: Api) -> None:
    api.client.get("/v1/files/file-secret-1")
    api.client.get("/secret-path-2")

    text = api.client.get("/metrics").text

    assert 'route="/v1/files/{file_id}"' in text
    assert "secret" not in text


def test_metrics_do_not_grow_with_invented_methods(api: Api) -> None:
    for number in range(3):
        api.client.request(f"INVENTED{number}", "/answer")

    assert "INVENTED" not in api.client.get("/metrics").text


def test_the_scripted_backend_is_always_healthy(api: Api) -> None:
    assert isinstance(api.backend, ScriptedBackend) and api.settings.base_model == BASE
    assert ready(api)[1]["checks"]["answerer"]["ok"] is True
