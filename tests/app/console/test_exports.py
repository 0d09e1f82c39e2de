import re

from app.db.unit_of_work import unit_of_work
from app.exports.models import Export
from app.jobs import service as jobs
from app.jobs.models import Job
from app.ml.errors import GgufConverterMissing
from tests.app.console.visitor import Visitor
from tests.app.exports.finished import finish
from tests.fixtures.api import BASE, Api
from tests.fixtures.queue import insert_adapter, must_claim, row_count

PAGE = "/console/exports"


def start(visitor: Visitor, format: str = "peft") -> str:
    """Starts an export as a model's page does; returns its id."""
    adapter = insert_adapter(visitor.api.engine)
    assert f'name="model" value="{adapter}"' in visitor.page(f"/console/models/{adapter}")
    response = visitor.send(PAGE, model=adapter, format=format)
    assert response.headers["location"] == f"{PAGE}?done=queued"
    return str(visitor.api.client.get("/v1/exports").json()["data"][0]["id"])


def test_a_models_page_offers_every_format_and_starts_an_export(api: Api) -> None:
    visitor = Visitor(api)
    adapter = insert_adapter(api.engine)

    offered = re.findall(r'name="format" value="(\w+)"', visitor.page(f"/console/models/{adapter}"))
    visitor.send(PAGE, model=adapter, format="merged")

    assert offered == ["peft", "merged", "gguf"]
    (export,) = api.client.get("/v1/exports").json()["data"]
    assert (export["model"], export["format"], export["status"]) == (adapter, "merged", "queued")
    assert api.bell.rung == [export["job"]]


def test_an_export_that_waits_is_shown_renews_its_page_and_is_cancelled(api: Api) -> None:
    visitor = Visitor(api)
    export_id = start(visitor)
    html = visitor.page(PAGE)
    assert "waiting for a worker" in html and 'http-equiv="refresh"' in html
    assert f"{PAGE}/{export_id}/delete" not in html

    response = visitor.send(f"{PAGE}/{export_id}/cancel")

    assert response.headers["location"] == f"{PAGE}?done=cancelling"
    html = visitor.page(PAGE)
    assert "cancelled" in html and 'http-equiv="refresh"' not in html


def test_a_running_export_shows_how_far_it_is(api: Api) -> None:
    visitor = Visitor(api)
    start(visitor, "merged")
    lease = must_claim(api.engine)
    with unit_of_work(api.engine) as session:
        session.get_one(Job, lease.job_id).progress = {"step": 30, "total_steps": 120}

    html = visitor.page(PAGE)

    assert "30/120" in html and "width:25.0%" in html


def test_a_finished_export_is_downloaded_and_deleted_with_its_files(api: Api) -> None:
    visitor = Visitor(api)
    export_id = start(visitor, "gguf")
    key = finish(api, files={"model.gguf": b"G" * 2048})
    html = visitor.page(PAGE)
    assert "2.0 KiB" in html
    address = re.search(r'href="(/v1/exports/[^"]+/content)" download', html)
    assert address and api.client.get(address.group(1)).content == b"G" * 2048

    visitor.send(f"{PAGE}/{export_id}/delete")

    assert row_count(api.engine, Export) == 0
    assert not (api.settings.blobs_dir / key).exists()


def test_an_export_that_has_not_ended_is_not_deleted(api: Api) -> None:
    visitor = Visitor(api)

    response = visitor.send(f"{PAGE}/{start(visitor)}/delete")

    assert (response.status_code, row_count(api.engine, Export)) == (409, 1)
    assert "Cancel it first" in response.text


def test_a_model_or_format_that_cannot_be_exported_is_said_above_the_list(api: Api) -> None:
    visitor = Visitor(api)

    base = visitor.send(PAGE, model=BASE, format="peft")
    strange = visitor.send(PAGE, model=insert_adapter(api.engine), format="onnx")

    assert (base.status_code, strange.status_code, row_count(api.engine, Export)) == (400, 400, 0)
    assert "Export an adapter of it" in base.text
    assert 'role="alert"' in strange.text


def test_a_failed_export_says_why_in_chinese_beside_the_services_own_words(api: Api) -> None:
    visitor = Visitor(api, "zh")
    start(visitor, "gguf")
    lease = must_claim(api.engine)
    with unit_of_work(api.engine) as session:
        jobs.fail(session, lease, code=GgufConverterMissing.code, message="There is <no> converter.", param=None)

    html = visitor.page(PAGE)

    assert "或改用 merged 格式" in html
    assert '<span lang="en">There is &lt;no&gt; converter.</span>' in html
