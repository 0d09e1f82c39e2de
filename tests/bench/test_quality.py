"""The benchmark of the answers: what it trains on, what it scores, and that a run is a job's own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.ml.evaluated_rows import EvaluatedRow
from bench.quality.baselines import run_baselines
from bench.quality.datasets import material_for_choosing, material_for_report
from bench.quality.queueing import append_result, read_results, taken_requests, write_requests
from bench.quality.running import RunRequest
from bench.quality.scoring import accuracy_at, difference, mean_over_seeds, scope_threshold, score_scope
from bench.quality.tables import tables
from bench.quality.variants import LORA, find_variants, spec_of, teachers_of
from tests.fixtures.tiny import TINY, write_tiny_model

ROOT = Path(__file__).parents[2]
ABSENT = ("pydantic", "fastapi", "sqlalchemy", "celery", "orjson", "ijson", "sklearn")


def row(question: str, answer: str) -> dict[str, str]:
    return {"instruction": question, "input": "", "output": answer}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "telecom").mkdir()
    verbs = ("open", "stop", "price", "what")
    rows = [row(f"{verb} plan {number}", f"{verb}_{number % 5}") for number in range(10) for verb in verbs]
    (folder / "telecom" / "telecom_train_5000.json").write_text(json.dumps(rows))
    for name in ("test", "paraphrase"):
        tests = [row(f"{name} {verb} plan {number}", f"{verb}_{number}") for number in range(6) for verb in verbs[:2]]
        (folder / "telecom" / f"telecom_{name}_500.json").write_text(json.dumps(tests))
    return folder


def evaluated(confidence: float, *, is_right: bool = True, codes: str = "a", given: str | None = None) -> EvaluatedRow:
    return EvaluatedRow(
        row=1,
        question="q",
        expected=(codes,),
        given=(given or (codes if is_right else "other"),),
        code_confidences=(confidence,),
        confidence=confidence,
        in_vocabulary=True,
        fallback=None,
        latency_ms=1.0,
        passes=1,
    )


def test_choosing_opens_no_test_file(data: Path, tmp_path: Path) -> None:
    (tmp_path / "telecom").mkdir()
    training = "telecom/telecom_train_5000.json"
    (tmp_path / training).write_text((data / training).read_text())
    assert len(material_for_choosing("telecom", tmp_path).scored["choice"]) == 4


def test_the_rows_to_choose_by_are_cut_off_the_training_rows(data: Path) -> None:
    material = material_for_choosing("telecom", data)
    assert not set(material.training) & set(material.scored["choice"])
    assert len(material.training) + len(material.scored["choice"]) == 40
    assert material == material_for_choosing("telecom", data), "the same cut every time"


def test_a_test_row_that_stands_in_the_training_file_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "telecom").mkdir()
    for file in (data / "telecom").iterdir():
        (tmp_path / "telecom" / file.name).write_text(file.read_text())
    leaked = json.loads((data / "telecom" / "telecom_train_5000.json").read_text())[:1]
    (tmp_path / "telecom" / "telecom_test_500.json").write_text(json.dumps(leaked))
    with pytest.raises(ValueError, match="stand in the training file"):
        material_for_report("telecom", tmp_path)


def test_a_variant_of_a_file_builds_on_one_listed_before_it(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text(json.dumps({"more": {"from": "lora", "lora_rank": 8}, "most": {"from": "more", "seed_": 0}}))
    found = find_variants(["more"], tmp_path / "v.json", {"num_train_epochs": 2})
    assert found == {"more": {**LORA, "lora_rank": 8, "num_train_epochs": 2}}


def test_an_unknown_variant_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nonsense"):
        find_variants(["nonsense"], None, {})


def test_a_variant_with_teachers_learns_from_itself_with_other_seeds() -> None:
    variant = {**LORA, "loss_over": "allowed", "teacher_seeds": [7, 8], "distill_weight": 0.7}
    assert spec_of(variant).distill_from == ("teacher:7", "teacher:8")
    alone = {**LORA, "loss_over": "allowed"}
    assert teachers_of(variant) == {7: alone, 8: alone}
    assert teachers_of(LORA) == {}


def test_a_run_is_taken_once(tmp_path: Path) -> None:
    requests = [RunRequest("telecom", name, {}, 1, False) for name in ("a", "b", "c")]
    write_requests(tmp_path, requests)
    one, other = taken_requests(tmp_path, until=1e12), taken_requests(tmp_path, until=1e12)
    assert [next(one), next(other), *one] == requests
    assert list(other) == []


def test_half_a_line_of_a_killed_call_is_no_result(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    append_result(file, {"key": "a", "value": 1})
    append_result(file, {"key": "a", "value": 2})
    file.write_text(file.read_text() + '{"key": "b", "va')
    assert read_results(file) == [{"key": "a", "value": 2}]


def test_accuracy_at_90_per_cent_leaves_the_least_sure_tenth_out() -> None:
    rows = [evaluated(0.9 - place / 100, is_right=place != 9) for place in range(10)]
    assert accuracy_at(rows, 0.9) == 1.0
    assert accuracy_at(rows, 1.0) == 0.9


def test_the_threshold_of_scope_costs_at_most_what_it_may() -> None:
    dev = [evaluated(place / 100) for place in range(100)] + [evaluated(0.05, codes="oos", is_right=False)]
    threshold = scope_threshold(dev, may_cost=0.1)
    scope = score_scope(dev, threshold)
    assert (threshold, scope["in_scope_accuracy"], scope["out_of_scope_recall"]) == (0.1, 0.9, 1.0)


def test_seeds_are_averaged_row_by_row_and_compared_in_pairs() -> None:
    mean, (low, high) = mean_over_seeds(["1100", "1000"])
    assert mean == 0.375
    assert low <= mean <= high
    gain, (least, most) = difference(["1111"], ["0000"])
    assert (gain, least, most) == (1.0, 1.0, 1.0)


def test_baselines_answer_and_make_a_table(data: Path) -> None:
    results = run_baselines("telecom", data, is_report=True)
    by_name = {result["variant"]: result["parts"]["test"] for result in results}
    assert by_name["n-gram neighbour"]["exact_match"] > 0
    assert by_name["TF-IDF + linear SVM"]["exact_match"] > 0
    assert by_name["n-gram neighbour"]["by_codes"]["unseen"]["rows"] == 2
    printed = tables(results, mode="report")
    assert "### telecom, test: 12 rows" in printed
    assert "| TF-IDF + linear SVM | 1 |" in printed


@pytest.mark.timeout(180)
def test_a_run_needs_none_of_the_products_services_and_leaves_one_line(data: Path, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "models" / TINY)
    results = tmp_path / "results.jsonl"
    arguments = ["--choose", "--data", str(data), "--store", str(tmp_path / "models"), "--model", TINY, "--variants", "lora"]
    small = ["--set", "num_train_epochs=1", "lora_rank=4", 'precision="fp32"', "--results", str(results), "--threads", "1"]
    done = run_without([*arguments, *small], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = read_results(results)
    assert result["key"] == "choose/telecom/lora/1"
    assert result["parts"]["choice"]["rows"] == len(result["parts"]["choice"]["right"]) == 4
    assert (result["rows"], result["is_calibrated"], result["overrides"]["lora_rank"]) == (36, False, 4)


def run_without(arguments: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs the command where what the machines that train need not have cannot be imported."""
    blocked = folder / "blocked"
    for name in ABSENT[:-1]:
        (blocked / name).mkdir(parents=True, exist_ok=True)
        (blocked / name / "__init__.py").write_text("raise ModuleNotFoundError('not on this machine')\n")
    environment: dict[str, Any] = os.environ | {"PYTHONPATH": f"{blocked}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "bench.quality", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170, check=False)
