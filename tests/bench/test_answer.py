"""The benchmark of the answer engine, on a tiny network: that it measures what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from app.ml.codes import AnswerGrammar, CodeVocabulary
from app.ml.engine.answering import AnswerEngine
from app.ml.model_store import GEMMA3_270M
from app.ml.prompting import PromptRenderer, Wrapper
from bench.answer.__main__ import CONTESTANTS, parse_options, run
from bench.answer.comparison import Load, compare
from bench.answer.contestant import Codes, Contestant, Task, Times, spread
from bench.answer.fuzz import MAX_QUESTION_CHARS, fuzzed_questions
from bench.answer.peers import generate_peers, loaded_peer
from bench.answer.quality import agreement, exact_match, is_valid, stepwise_answers
from bench.answer.report import percentiles, summarise, table, typical_ms
from bench.answer.setting import Setting, real_setting
from bench.answer.trace import Trace, as_rows, read_trace, write_trace
from bench.train.workload import Workload
from tests.fixtures.tiny import EOS, write_tiny_model

ROOT = Path(__file__).parents[2]
# What the machines that measure need not have.
ABSENT = ("pydantic", "fastapi", "sqlalchemy", "celery", "orjson", "ijson")
ROWS = [("stop A", "stop_1|9.9"), ("price of B", "11.9"), ("open roaming", "open_12|info_1"), ("what is A", "info_1")]
UNTRAINED = ("open C", "open_77")
FINISHED = {"ours", "generate_merged", "generate_unmerged", "generate_prefix_fn"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose gemma-3-270m is the tiny one, and a data folder."""
    place = tmp_path_factory.mktemp("bench")
    write_tiny_model(place / "models" / GEMMA3_270M)
    data = place / "data"
    data.mkdir()
    (data / "telecom_train_5000.json").write_text(_alpaca(ROWS))
    (data / "telecom_test_500.json").write_text(_alpaca([*ROWS, UNTRAINED]))
    return place


@pytest.fixture(scope="module")
def real(place: Path) -> dict[str, Any]:
    return _run(place, "--setting", "real", "--record", str(place / "trace.json"), "--data", str(place / "data"))


def test_every_contestant_of_this_device_is_measured_and_the_compiled_one_is_told_as_not_run(real: dict[str, Any]) -> None:
    for name in FINISHED:
        assert 0 < real[name]["p50_ms"] <= real[name]["p99_ms"]
        assert real[name]["answers_per_s"] > 0
    assert real["generate_static_compiled"] is None
    assert set(real["ratio"]) == FINISHED - {"ours"}
    assert real["setting"] == "real"
    assert set(real["versions"]) == {"python", "torch", "transformers", "peft"}


def test_our_answers_are_those_of_the_stepwise_reference_and_valid(real: dict[str, Any]) -> None:
    assert real["agreement_with_stepwise"] == 1.0
    assert real["agreement_alone_and_together"] == 1.0
    assert real["invalid_answers"] == 0


def test_rows_with_an_untrained_code_are_reported_apart(real: dict[str, Any]) -> None:
    assert real["exact_match"]["overall"]["rows"] == 5
    assert real["exact_match"]["codes_trained"]["rows"] == 4
    assert real["exact_match"]["a_code_untrained"] == {"rows": 1, "share": 0.0}


def test_a_constrained_peer_gives_valid_answers_only(real: dict[str, Any]) -> None:
    assert real["generate_prefix_fn"]["invalid_answers"] == 0


def test_the_adapter_is_trained_once(place: Path, real: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    again = _real_setting(place)
    assert "Training an adapter" not in capsys.readouterr().out
    assert again.adapters[0].card.metrics["train_seconds"] == real["adapter"]["train_seconds"]


def test_hostile_questions_get_valid_answers_or_are_refused(place: Path, real: dict[str, Any]) -> None:
    report = _run(place, "--setting", "real", "--data", str(place / "data"), "--part", "fuzz", "--fuzz", "60")["fuzz"]
    assert report["questions"] == 60
    assert report["invalid_answers"] == 0
    assert report["too_long_accepted"] == 0
    assert report["megabyte_refused"]


def test_peers_answer_as_the_stepwise_reference_where_the_grammar_binds_them(place: Path, real: dict[str, Any]) -> None:
    setting = _real_setting(place)
    folder, questions = setting.adapters[0].folder, [task.question for task in setting.tasks]
    merged = loaded_peer(setting.build(), folder, is_merged=True)
    unmerged = loaded_peer(setting.build(), folder, is_merged=False)
    peers = {peer.name: peer for peer in generate_peers(merged, unmerged, setting.asking(), (2,))}
    expected = stepwise_answers(
        unmerged,
        questions,
        setting.grammar,
        renderer=setting.renderer,
        tokenizer=setting.tokenizer,
        device=setting.workload.device,
    )
    bound = peers["generate_prefix_fn"]
    assert [bound.answer([task])[0] for task in setting.tasks] == expected
    assert bound.answer(setting.tasks) == expected
    assert peers["generate_merged"].answer(setting.tasks) == peers["generate_unmerged"].answer(setting.tasks)


def test_recorded_answers_are_replayed_on_other_shapes_with_as_many_tokens(place: Path, real: dict[str, Any]) -> None:
    report = _run(
        place, "--setting", "replayed", "--trace", str(place / "trace.json"), "--shapes", "tiny", "--part", "compare", "costs"
    )
    assert report["setting"] == "replayed"
    for name in FINISHED - {"ours"}:
        assert report[name]["p50_ms"] > 0
    if hasattr(AnswerEngine, "answer_mixed"):
        assert report["followed"] == 1.0
        assert report["invalid_answers"] == 0
        assert report["mixed"]["ratio"] > 0
    else:
        assert "answer_mixed" in report["ours"]["error"]


def test_a_trace_reads_as_it_was_written(tmp_path: Path) -> None:
    index = tmp_path / "questions.safetensors"
    index.write_bytes(b"index")
    vocabulary = CodeVocabulary(("开通方式_98", "9.9"), 2)
    rows = as_rows(["怎么开通"], [("开通方式_98", "9.9")], [2])
    trace = Trace("gemma-3-270m", "cpu", PromptRenderer("plain", Wrapper("回答", "？")), vocabulary, rows, index)
    write_trace(tmp_path / "trace.json", trace)
    found = read_trace(tmp_path / "trace.json")
    assert found.question_index is not None
    assert found.question_index.read_bytes() == b"index"
    assert (found.rows, found.renderer, found.vocabulary) == (trace.rows, trace.renderer, trace.vocabulary)


def test_replaying_needs_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--setting", "replayed"])
    assert "--record" in capsys.readouterr().err


def test_a_peer_that_fails_is_told_and_the_others_go_on() -> None:
    def fail(_tasks: object) -> list[Codes]:
        raise RuntimeError("cannot compile\nlong story")

    tasks = [Task("a"), Task("b")]
    contestants = [Contestant("ours", _echo), Contestant("broken", fail, (1,)), Contestant("works", _echo, (1,))]
    load = Load(tasks, tasks, tasks, tasks)
    report = summarise(contestants, compare(contestants, load, 2), load)
    assert report["broken"] == {"error": "RuntimeError: cannot compile"}
    assert set(report["ratio"]) == {"works"}
    assert "cannot compile" in table(report, ("ours", "broken", "works", "absent"))


def test_our_own_failure_ends_the_run() -> None:
    def fail(_tasks: object) -> list[Codes]:
        raise RuntimeError("broken engine")

    tasks = [Task("a")]
    with pytest.raises(RuntimeError, match="broken engine"):
        compare([Contestant("ours", fail)], Load(tasks, tasks, tasks, tasks), 1)


def test_a_ratio_compares_the_same_questions() -> None:
    tasks = [Task("short"), Task("long")]
    load = Load(tasks, tasks[1:], tasks, tasks)
    contestants = [Contestant("ours", _echo), Contestant("peer", _echo, (1,))]
    times = {
        "ours": Times(seconds=[[0.001, 0.010]], rates={2: [1.0]}),
        "peer": Times(seconds=[[0.200]], rates={1: [1.0]}),
    }
    assert summarise(contestants, times, load)["ratio"] == {"peer": 20.0}


def test_a_questions_time_is_its_median_over_rounds() -> None:
    assert typical_ms([[0.001, 0.002], [0.009, 0.002], [0.003, 0.004]]) == [3.0, 2.0]
    assert percentiles([1.0, 2.0, 3.0]) == {"p50_ms": 2.0, "p99_ms": 2.98}


@pytest.mark.parametrize(
    ("codes", "is_right"),
    [
        (("a_1",), True),
        (("a_1", "b"), True),
        ((), False),
        (("a_1", "a_1"), False),
        (("c",), False),
        (("a_1", "b", "a_11"), False),
    ],
)
def test_an_answer_is_valid_only_as_the_grammar_says(codes: Codes, is_right: bool) -> None:
    grammar = AnswerGrammar(CodeVocabulary(("a_1", "b", "a_11"), 2), lambda text: list(text.encode()), end_id=EOS)
    assert is_valid(codes, grammar) is is_right


def test_scores_and_agreement_count_what_differs() -> None:
    grammar = AnswerGrammar(CodeVocabulary(("a", "b"), 2), lambda text: list(text.encode()), end_id=EOS)
    tasks = [Task("1", ("a", "b")), Task("2", ("a",)), Task("3", ("z",))]
    given: dict[str, Codes] = {"1": ("b", "a"), "2": ("b",), "3": ("a",)}
    scores = exact_match(tasks, given, grammar)
    assert [scores[name]["share"] for name in ("overall", "codes_trained", "a_code_untrained")] == [0.3333, 0.5, 0.0]
    found = agreement(["1", "2"], given, [("b", "a"), ("a",)])
    assert found["agreement_with_stepwise"] == 0.5
    assert found["differing_from_stepwise"] == [{"question": "2", "ours": ["b"], "stepwise": ["a"]}]


def test_fuzzed_questions_repeat_by_seed_keep_the_limit_and_are_encodable() -> None:
    questions = fuzzed_questions(400, ["百度流量月包怎么取消"])
    assert questions == fuzzed_questions(400, ["百度流量月包怎么取消"])
    assert questions != fuzzed_questions(400, ["百度流量月包怎么取消"], seed=1)
    assert max(map(len, questions)) <= MAX_QUESTION_CHARS
    assert sum(len(question) >= 500 for question in questions) == 2
    assert all(question.encode() is not None for question in questions)


def test_spread_tasks_reach_over_the_whole_file() -> None:
    tasks = [Task(str(number)) for number in range(10)]
    assert [task.question for task in spread(tasks, 3)] == ["0", "3", "6"]
    assert spread(tasks, 20) == tasks


def test_the_benchmark_needs_no_web_and_no_database() -> None:
    block = "; ".join(f"sys.modules[{name!r}] = None" for name in ABSENT)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {block}; import bench.answer.__main__"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def _run(place: Path, *arguments: str) -> dict[str, Any]:
    threads = torch.get_num_threads()
    sizes = ["--rounds", "1", "--peer-questions", "2", "--batches", "2", "--peer-stream", "4", "--stream", "8", "--adapters", "3"]
    here = [
        "--store",
        str(place / "models"),
        "--adapter-cache",
        str(place / "adapters"),
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    try:
        report = run(parse_options([*arguments, *sizes, *here]))
    finally:
        torch.set_num_threads(threads)
    json.dumps(report)
    assert set(report) >= set(CONTESTANTS) or "fuzz" in report
    return report


def _real_setting(place: Path) -> Setting:
    workload = Workload(GEMMA3_270M, torch.device("cpu"), place / "models", "fp32")
    return real_setting(workload, place / "data", place / "adapters", None)


def _alpaca(rows: list[tuple[str, str]]) -> str:
    return json.dumps([{"instruction": question, "input": "", "output": answer} for question, answer in rows])


def _echo(tasks: Any) -> list[Codes]:
    return [(task.question,) for task in tasks]
