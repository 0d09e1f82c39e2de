"""The benchmark of the training engine, on a tiny network: that it measures what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.train.contestant import Measurement
from bench.train.report import summarise, timed

ROOT = Path(__file__).parents[2]
# What the machines that train need not have.
ABSENT = ("pydantic", "fastapi", "sqlalchemy", "celery", "orjson", "ijson")


@pytest.mark.timeout(180)
def test_one_command_measures_both_sides_and_their_losses_agree() -> None:
    command = ["-m", "bench.train", "--model", "tiny", "--device", "cpu", "--rounds", "1", "--steps", "4", "--json"]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    for name in ("ours", "hf_trainer", "hf_trainer_tuned"):
        assert report[name]["samples_per_s"] > 0
        assert report[name]["grad_norm"] > 0
        assert "peak_gib" in report[name]
    assert set(report["ratio"]) == {"hf_trainer", "hf_trainer_tuned"}
    assert report["parity_steps"] == 12
    assert report["loss_difference"] < 1e-4
    assert set(report["versions"]) == {"python", "torch", "transformers", "peft"}


def test_a_run_without_a_gradient_is_no_result() -> None:
    with pytest.raises(RuntimeError, match="No gradient"):
        summarise([Measurement([1.0, 1.0], [5.0], [0.0])], 64)


def test_warm_up_is_not_timed() -> None:
    assert timed([9.0, 9.0, 1.0, 1.0, 1.0]) == [1.0, 1.0, 1.0]
    assert timed([9.0, 1.0]) == [1.0]


def test_the_engine_and_its_benchmark_need_no_web_and_no_database() -> None:
    block = "; ".join(f"sys.modules[{name!r}] = None" for name in ABSENT)
    code = f"import sys; {block}; import bench.train.__main__, app.ml.engine.self_test, app.ml.engine.ranks"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
