"""The benchmark of one card for both, on a tiny network: that it measures what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.sharing.__main__ import _answer_figures, _options, _training_figures, run
from bench.sharing.answering import Answered
from bench.sharing.training import Trained
from tests.bench.test_train import ABSENT, ROOT
from tests.fixtures.tiny import write_byte_tokenizer


@pytest.mark.timeout(300)
def test_both_sides_are_measured_alone_and_at_once(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path)
    limits = ["--training-gib", "0", "--answering-gib", "0"]
    options = ["--model", "tiny", "--device", "cpu", "--tokenizer", str(tmp_path), "--seconds", "1", "--per-s", "0", *limits]

    report = run(_options(options))

    for name in ("answers_alone", "answers_beside"):
        assert report[name]["answers"] > 0
        assert report[name]["p50_ms"] <= report[name]["p99_ms"] <= report[name]["slowest_ms"]
    assert report["training_alone"]["samples_per_s"] > 0
    assert report["training_beside"]["steps"] > 0


def test_the_first_steps_build_kernels_and_do_not_count() -> None:
    trained = Trained([0.0, 10.0, 20.0, 30.0, 40.0, 41.0, 42.0], None, 4096, [])

    assert _training_figures(trained, 64)["samples_per_s"] == 64.0


def test_only_steps_beside_the_answers_count_as_such() -> None:
    trained = Trained([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0], None, 4096, [])

    assert _training_figures(trained, 64, between=(5.5, 20.0))["samples_per_s"] == 32.0


def test_percentiles_are_of_the_answers() -> None:
    figures = _answer_figures(Answered([(0.0, 0.001 * number) for number in range(101)], 2**30))

    assert (figures["p50_ms"], figures["p99_ms"], figures["peak_gib"]) == (50.0, 99.0, 1.0)


def test_it_needs_no_web_and_no_database() -> None:
    block = "; ".join(f"sys.modules[{name!r}] = None" for name in ABSENT)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    code = f"import sys; {block}; import bench.sharing.__main__"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
