import csv
import io
from html.parser import HTMLParser
from typing import Any

import pytest

from app.ml.paired import mcnemar_exact
from tests.app.experiments.experiment_help import advance, finish_next, get, post
from tests.fixtures.api import Api


def ended(api: Api, *right: int, **fields: Any) -> str:
    """Runs an experiment of as many arms as numbers, each with so many of 20 rows right."""
    sizes = [8, 12, 16, 20][: len(right)]
    experiment_id = post(api, {"kind": "ramp", "sizes": sizes}, **fields).json()["id"]
    for _ in right:
        assert finish_next(api) == "finetune"
        advance(api)
    for number in right:
        assert finish_next(api, right=number) == "evaluation"
    advance(api)
    return str(experiment_id)


def test_every_arm_is_held_against_the_first_on_the_same_rows(api: Api) -> None:
    comparison = get(api, ended(api, 4, 18, 5), "/comparison")

    assert (comparison["object"], comparison["status"], comparison["baseline"]) == (
        "experiment.comparison",
        "succeeded",
        "8 rows",
    )
    baseline, much_better, hardly = comparison["data"]
    assert baseline["versus_baseline"] is None
    versus = much_better["versus_baseline"]
    assert (versus["rows"], versus["only_this_right"], versus["only_baseline_right"]) == (20, 14, 0)
    assert versus["exact_match_difference"] == pytest.approx(0.7)
    assert versus["exact_match_p"] == pytest.approx(mcnemar_exact(0, 14))
    assert versus["exact_match_p_adjusted"] == pytest.approx(2 * versus["exact_match_p"])
    assert (versus["verdict"], hardly["versus_baseline"]["verdict"]) == ("better", "not distinguishable")
    assert hardly["versus_baseline"]["sentence"] == (
        "Not distinguishable from '8 rows' on 20 rows: 1 rows right here alone, 0 there alone, p = 1."
    )
    low, high = versus["set_f1_interval"]
    assert low <= 0.7 <= high


def test_an_arm_has_its_metrics_cost_and_a_thinned_loss_curve(api: Api) -> None:
    arm = get(api, ended(api, 4), "/comparison")["data"][0]

    assert (arm["metrics"]["exact_match"], arm["metrics"]["rows"]) == (0.2, 20)
    assert arm["intervals"]["exact_match"][0] < 0.2 < arm["intervals"]["exact_match"][1]
    assert arm["cost"] == {
        "train_seconds": 2.0,
        "train_samples_per_s": 20.0,
        "trained_tokens": 100,
        "trainable_parameters": 1234,
        "peak_memory_gib": 3.0,
    }
    assert len(arm["loss"]) == 200
    assert arm["loss"][-1][:2] == [500, 50.0]
    assert arm["by_epoch"][0]["exact_match"] == 0.5


def test_what_has_not_ended_is_empty_and_not_compared(api: Api) -> None:
    experiment_id = post(api, {"kind": "ramp", "sizes": [8, 12]}).json()["id"]

    arms = get(api, experiment_id, "/comparison")["data"]

    assert [(arm["status"], arm["metrics"], arm["versus_baseline"], arm["loss"]) for arm in arms] == [
        ("queued", {}, None, [])
    ] * 2


def test_without_the_baseline_nothing_is_tested(api: Api) -> None:
    body = post(api, {"kind": "ramp", "sizes": [8, 12]}).json()
    api.client.post(f"/v1/fine_tuning/jobs/{body['arms'][0]['job']}/cancel")
    while finish_next(api, right=5):
        advance(api)

    arms = get(api, body["id"], "/comparison")["data"]

    assert [(arm["status"], arm["versus_baseline"]) for arm in arms] == [("cancelled", None), ("succeeded", None)]


def test_the_table_has_a_line_an_arm(api: Api) -> None:
    response = api.client.get(f"/v1/experiments/{ended(api, 4, 18)}/comparison.csv")

    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    lines = list(csv.DictReader(io.StringIO(response.content.decode("utf-8-sig"))))
    assert [(line["label"], line["exact_match"], line["verdict"]) for line in lines] == [
        ("8 rows", "0.2", ""),
        ("12 rows", "0.9", "better"),
    ]
    assert None not in lines[0], "no line is longer than its heading"
    assert None not in lines[1].values(), "no line is shorter"


class Page(HTMLParser):
    """Collects what a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "onload", "onclick")]


def test_the_report_is_one_page_that_loads_and_runs_nothing(api: Api) -> None:
    response = api.client.get(f"/v1/experiments/{ended(api, 4, 18, name='<script>甲</script>')}/report")

    assert response.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(response.text)
    assert page.links == []
    assert "script" not in page.tags
    assert "&lt;script&gt;甲&lt;/script&gt;" in response.text
    # Three with intervals, the loss curves, and two of the validation rows.
    assert page.tags.count("svg") == 6
    assert "更好 better" in response.text
    assert "完全匹配 Exact match" in response.text


def test_the_report_calls_the_files_by_their_names(api: Api) -> None:
    experiment_id = ended(api, 4, 18)
    experiment = api.client.get(f"/v1/experiments/{experiment_id}").json()
    names = {file["id"]: file["filename"] for file in api.client.get("/v1/files").json()["data"]}

    report = api.client.get(f"/v1/experiments/{experiment_id}/report").text

    for file_id in (experiment["training_file"], experiment["test_file"]):
        assert f"{names[file_id]} ({file_id})" in report


def test_the_report_says_which_base_model_was_tuned_and_what_answered(api: Api) -> None:
    experiment_id = ended(api, 4, 18)
    base = get(api, experiment_id, "/comparison")["data"][0]["base_model"]

    report = api.client.get(f"/v1/experiments/{experiment_id}/report").text

    assert f"<td>基座模型 Base model</td><td class=words>{base}</td>" in report
    assert "<td>评测设备 Answered on</td><td class=words>a card</td>" in report


def test_a_report_of_an_experiment_that_has_just_begun_is_a_page_too(api: Api) -> None:
    experiment_id = post(api, {"kind": "ramp", "sizes": [8]}).json()["id"]

    response = api.client.get(f"/v1/experiments/{experiment_id}/report")

    assert response.status_code == 200
    assert Page(response.text).tags.count("svg") == 0
