import re
import time

import pytest
from sqlalchemy import update

from app.db.unit_of_work import unit_of_work
from app.evaluations import repository as evaluations
from app.jobs import events
from app.jobs.models import Job
from app.jobs.states import JobStatus
from app.ml.evaluation_metrics import measure
from tests.app.console.visitor import Visitor
from tests.app.promotions.evaluated import evaluate
from tests.fixtures.api import BASE, QUESTION, Api, alpaca
from tests.fixtures.db import empty
from tests.fixtures.queue import insert_adapter, insert_file, insert_job, read_job

SCRIPT = "<script>alert(1)</script>"


def test_an_upload_leads_to_its_report(api: Api) -> None:
    response = Visitor(api).send("/console/datasets", files={"file": ("行.json", alpaca())}, purpose="fine-tune")

    assert response.status_code == 303
    html = Visitor(api).page(response.headers["location"])
    assert "行.json" in html
    assert "开通方式_98" in html
    assert "Uploaded; every row passed the check." in html


def test_an_upload_with_a_wrong_row_is_refused_at_the_form_with_the_rows_number(api: Api) -> None:
    rows = alpaca(({"instruction": "问", "output": "答_1"}, {"instruction": "问二", "output": ""}))

    response = Visitor(api).send("/console/datasets", files={"file": ("a.json", rows)}, purpose="evals")

    assert response.status_code == 400
    assert re.search(r'<td class="number">2</td><td>output</td><td>is empty</td>', response.text)
    assert re.search(r'value="evals" checked', response.text)
    assert "No dataset yet" in response.text


def test_markup_in_a_dataset_is_shown_as_text(api: Api) -> None:
    file_id = api.file_id(content=alpaca(({"instruction": SCRIPT, "output": f"{SCRIPT}_1"},)), name=f"{SCRIPT}.json")

    html = Visitor(api).page(f"/console/datasets/{file_id}") + Visitor(api).page("/console/datasets")

    assert SCRIPT not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_markup_in_a_question_is_shown_as_text(api: Api) -> None:
    html = Visitor(api).send("/console/ask", question=SCRIPT, model=BASE).text

    assert SCRIPT not in html


def test_rows_held_out_make_two_files(api: Api) -> None:
    file_id = api.file_id()

    response = Visitor(api).send(f"/console/datasets/{file_id}/split", held_out="1", seed="3")

    assert response.status_code == 303
    files = api.client.get("/v1/files").json()["data"]
    assert {(file["filename"], file["report"]["rows"]) for file in files} == {
        ("rows.json", 3),
        ("rows_train.jsonl", 2),
        ("rows_test.jsonl", 1),
    }


def test_a_file_that_a_job_needs_is_not_deleted_and_the_page_says_why(api: Api) -> None:
    file_id = api.file_id()
    job_id = api.post_job(file_id).json()["id"]

    response = Visitor(api).send(f"/console/datasets/{file_id}/delete")

    assert response.status_code == 409
    assert job_id in response.text


def test_results_of_jobs_stand_apart_from_datasets(api: Api) -> None:
    insert_file(api.engine, has_report=False, purpose="fine-tune-results", filename="loss.csv")
    visitor = Visitor(api)

    assert "loss.csv" not in visitor.page("/console/datasets")
    assert "loss.csv" in visitor.page("/console/datasets", results="true")


def test_a_job_is_queued_from_the_form(api: Api) -> None:
    fields = {"model": BASE, "training_file": api.file_id(), "preset": "quick", "lora_rank": "4", "suffix": "telecom"}

    response = Visitor(api).send("/console/jobs/new", wish="start", key="k" * 24, use_dora="yes", **fields)

    assert response.status_code == 303
    job = read_job(api.engine, response.headers["location"].partition("?")[0].rpartition("/")[2])
    assert (job.hyperparameters, job.suffix, api.bell.rung) == (
        {"preset": "quick", "lora_rank": 4, "use_dora": True},
        "telecom",
        [job.id],
    )


def test_a_form_that_is_sent_twice_queues_one_job(api: Api) -> None:
    fields = {"model": BASE, "training_file": api.file_id(), "seed": "1", "key": "k" * 24}

    addresses = {Visitor(api).send("/console/jobs/new", **fields).headers["location"] for _ in range(2)}

    assert len(addresses) == 1


@pytest.mark.parametrize("form", ["evaluations", "experiments", "exports"])
def test_every_form_that_is_sent_twice_queues_once_and_another_wish_once_more(api: Api, form: str) -> None:
    file_id, adapter = api.file_id(), insert_adapter(api.engine)
    path, wishes = {
        "evaluations": ("/console/evaluations/new", [{"model": BASE, "file": file_id, "max_rows": rows} for rows in "12"]),
        "experiments": (
            "/console/experiments/new",
            [
                {"model": BASE, "training_file": file_id, "test_file": file_id, "kind": "ramp", "preset": "quick", "sizes": size}
                for size in ("2", "3")
            ],
        ),
        "exports": ("/console/exports", [{"model": adapter, "format": kind} for kind in ("peft", "merged")]),
    }[form]
    visitor = Visitor(api)

    for wish in (wishes[0], wishes[0], wishes[1]):
        assert visitor.send(path, key="k" * 24, **wish).status_code == 303

    assert len(api.client.get(f"/v1/{form}").json()["data"]) == 2


@pytest.mark.parametrize(
    "page", ["/console/jobs/new", "/console/evaluations/new", "/console/experiments/new", "/console/models/{}"]
)
def test_every_form_that_queues_work_has_a_key_of_its_own(api: Api, page: str) -> None:
    api.file_id()
    path = page.format(insert_adapter(api.engine))
    visitor = Visitor(api)

    keys = [re.findall(r'name="key" value="([\w-]{24})"', visitor.page(path)) for _ in range(2)]

    assert len(keys[0]) == len(keys[1]) == 1
    assert keys[0] != keys[1]


def test_an_estimate_queues_nothing(api: Api) -> None:
    response = Visitor(api).send("/console/jobs/new", wish="estimate", model=BASE, training_file=api.file_id())

    assert response.status_code == 200
    assert "nothing was queued" in response.text
    assert api.bell.rung == []


def test_a_wrong_hyperparameter_is_said_at_its_field_and_the_rest_is_kept(api: Api) -> None:
    fields = {"model": BASE, "training_file": api.file_id(), "suffix": "kept", "lora_rank": "9999"}

    response = Visitor(api).send("/console/jobs/new", **fields)

    assert response.status_code == 400
    assert re.search(r'name="lora_rank"[^>]*value="9999"[^>]*aria-invalid="true"', response.text)
    assert 'value="kept"' in response.text


def test_a_job_is_paused_resumed_and_cancelled(api: Api) -> None:
    job_id = api.job_id()
    visitor = Visitor(api)

    statuses = []
    for verb in ("pause", "resume", "cancel"):
        assert visitor.send(f"/console/jobs/{job_id}/{verb}").status_code == 303
        statuses.append(read_job(api.engine, job_id).status)

    assert statuses == ["paused", "queued", "cancelled"]


def test_a_page_offers_only_what_a_jobs_state_allows(api: Api) -> None:
    visitor = Visitor(api)
    offered = {}
    for status in (JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.SUCCEEDED):
        html = visitor.page(f"/console/jobs/{insert_job(api.engine, status=status)}")
        offered[status] = re.findall(r'action="/console/jobs/[\w-]+/(\w+)"', html)

    assert offered == {JobStatus.RUNNING: ["pause", "cancel"], JobStatus.PAUSED: ["resume", "cancel"], JobStatus.SUCCEEDED: []}


def test_a_running_jobs_page_draws_its_loss_and_renews_itself_without_scripts(api: Api) -> None:
    job_id = insert_job(api.engine, status=JobStatus.RUNNING)
    progress = {"step": 2, "total_steps": 4, "epoch": 0.5, "loss": 1.5, "samples_per_s": 3.0, "seconds_remaining": 61.0}
    with unit_of_work(api.engine) as session:
        for step in (1, 2):
            events.append(session, job_id, "Step", type="metrics", data={**progress, "step": step, "loss": 3.5 - step})
        session.execute(update(Job).where(Job.id == job_id).values(progress=progress))

    html = Visitor(api).page(f"/console/jobs/{job_id}")

    assert '<polyline class="line-1"' in html
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in html
    assert "1 min 1 s" in html
    assert Visitor(api).page(f"/console/jobs/{job_id}/state").lstrip().startswith('<div id="state" data-status="running"')


def test_an_alias_is_promoted_and_rolled_back_with_its_history(api: Api) -> None:
    old, new = insert_adapter(api.engine), insert_adapter(api.engine)
    visitor = Visitor(api)

    for to in (old, new, "previous"):
        response = visitor.send("/console/aliases", alias="telecom@production", to=to, reason=f"because {to}")
        assert response.status_code == 303
    html = visitor.page(response.headers["location"])

    assert api.client.get("/v1/aliases/telecom@production").json()["model"] == old
    assert "Rolled back" in html
    assert "because previous" in html


def test_an_adapter_that_an_alias_needs_is_not_deleted(api: Api) -> None:
    adapter = insert_adapter(api.engine)
    visitor = Visitor(api)
    visitor.send("/console/aliases", alias="telecom@production", to=adapter)

    assert visitor.send(f"/console/models/{adapter}/delete").status_code == 409


def test_a_question_is_answered_with_codes_texts_and_confidences(api: Api) -> None:
    entry = {"code": "取消方式_12", "category": "取消方式", "text": "发送 QX 到 10001"}
    api.client.put("/v1/codebook", json={"entries": [entry]})
    api.app.state.code_texts.forget()

    html = Visitor(api).send("/console/ask", question=QUESTION, model=BASE, alternatives="0", threshold="0.9").text

    assert "取消方式_12" in html and "发送 QX 到 10001" in html
    assert "90.0%" in html and "81.0%" in html
    assert "Hand over to a human:" in html


def test_a_blank_question_is_refused_at_the_form(api: Api) -> None:
    response = Visitor(api).send("/console/ask", question="   ", model=BASE)

    assert response.status_code == 400
    assert 'role="alert"' in response.text


def test_an_evaluation_is_queued_and_cancelled(api: Api) -> None:
    visitor = Visitor(api)
    response = visitor.send("/console/evaluations/new", model=BASE, file=api.file_id(), max_rows="2")
    address = response.headers["location"].partition("?")[0]

    assert visitor.send(f"{address}/cancel").status_code == 303
    assert "cancelled" in visitor.page(address)


def test_pages_of_an_empty_product_say_what_to_do_first(api: Api) -> None:
    empty(api.engine)
    visitor = Visitor(api)

    assert "No dataset yet" in visitor.page("/console/datasets")
    assert "A dataset is needed first" in visitor.page("/console/jobs/new")
    assert "in five steps" in visitor.page("/")


def test_a_shut_gate_is_shown_with_what_is_missing_and_opens_with_a_reason(api: Api) -> None:
    old, new = insert_adapter(api.engine), insert_adapter(api.engine)
    file_id = api.file_id()
    visitor = Visitor(api)
    visitor.send("/console/aliases", alias="telecom@production", to=old, gate=file_id)

    refused = visitor.send("/console/aliases", alias="telecom@production", to=new)
    forced = visitor.send("/console/aliases", alias="telecom@production", to=new, force="yes", reason="on fire")

    assert refused.status_code == 409
    assert f"Evaluate {old} now" in refused.text
    assert forced.status_code == 303
    assert api.client.get("/v1/aliases/telecom@production").json()["model"] == new
    assert "forced" in visitor.page("/console/aliases/telecom@production")


def test_an_alias_that_somebody_else_moved_is_not_moved_from_an_old_page(api: Api) -> None:
    adapters = [insert_adapter(api.engine) for _ in range(3)]
    visitor = Visitor(api)
    for to in adapters[:2]:
        visitor.send("/console/aliases", alias="telecom@production", to=to)

    late = visitor.send("/console/aliases", alias="telecom@production", to=adapters[2], expected=adapters[0])

    assert late.status_code == 409
    assert "somebody was faster" in late.text


def test_a_candidate_is_tried_out_promoted_and_its_trial_ended(api: Api) -> None:
    old, new = insert_adapter(api.engine), insert_adapter(api.engine)
    visitor = Visitor(api)
    visitor.send("/console/aliases", alias="telecom@production", to=old)
    begun = visitor.send("/console/aliases", alias="telecom@production", candidate=new, mode="share", percent="25")
    assert begun.status_code == 303
    assert "answers 25 % of askers" in visitor.page("/console/aliases/telecom@production")

    visitor.send("/console/aliases/telecom@production/end-trial")
    assert api.client.get("/v1/aliases/telecom@production").json()["candidate"] is None
    visitor.send("/console/aliases", alias="telecom@production", candidate=new, mode="shadow", percent="100")
    visitor.send("/console/aliases", alias="telecom@production", to="candidate")

    assert api.client.get("/v1/aliases/telecom@production").json()["model"] == new


def test_answers_are_listed_with_their_confidence_and_without_a_question_that_is_not_kept(api: Api) -> None:
    api.client.post("/answer", json={"question": QUESTION, "threshold": 0.99})
    deadline = time.monotonic() + 10
    while not api.client.get("/v1/answers").json()["data"] and time.monotonic() < deadline:
        time.sleep(0.05)

    html = Visitor(api).page("/console/answers", show="handed_over")

    assert "取消方式_12" in html and "81.0%" in html
    assert QUESTION not in html
    assert "only a digest is kept" in html


def test_an_adapter_that_is_worse_is_refused_with_the_numbers(api: Api) -> None:
    old, new = insert_adapter(api.engine), insert_adapter(api.engine)
    file_id = api.file_id()
    evaluate(api, old, file_id, [True] * 40)
    evaluate(api, new, file_id, [True] * 20 + [False] * 20)
    visitor = Visitor(api)
    visitor.send("/console/aliases", alias="telecom@production", to=old, gate=file_id)

    refused = visitor.send("/console/aliases", alias="telecom@production", to=new)

    assert refused.status_code == 409
    assert "100.0%" in refused.text and "50.0%" in refused.text
    assert "0 better, 20 worse" in refused.text


def test_an_evaluation_shows_its_metrics_and_pages_through_its_wrong_rows(api: Api) -> None:
    adapter = insert_adapter(api.engine)
    evaluation_id = evaluate(api, adapter, api.file_id(), [True] * 30 + [False] * 30)
    with unit_of_work(api.engine) as session:
        evaluation = evaluations.get(session, evaluation_id)
        evaluation.metrics = measure(evaluations.answered_rows(session, evaluation_id))
    visitor = Visitor(api)

    html = visitor.page(f"/console/evaluations/{evaluation_id}")
    rest = visitor.page(f"/console/evaluations/{evaluation_id}", after="55")

    assert "50.0%" in html and "37.7% – 62.3%" in html
    assert re.findall(r'<td class="number">(\d+)</td><td class="text">', html) == [str(row) for row in range(31, 56)]
    assert re.findall(r'<td class="number">(\d+)</td><td class="text">', rest) == [str(row) for row in range(56, 61)]
    assert len(re.findall(r'data-key="(intervals|coverage|categories)"', html)) == 3
