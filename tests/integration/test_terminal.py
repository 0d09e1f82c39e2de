"""`dianda` as a person uses it, against the product as processes: train, watch, evaluate, compare, promote, ask, chat."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.fixtures.tiny import TINY
from tests.integration.conftest import Product

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def dianda(product: Product, *words: str, stdin: str | None = None) -> str:
    """Runs a command that must succeed; returns its stdout."""
    command = [sys.executable, "-m", "app.cli.main", *words, "--url", product.stack.url]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{product.logs()}"
    return done.stdout


def test_the_recipe_runs_from_the_terminal(product: Product) -> None:
    product.upload()
    rows = str(product.folder / "rows-16.json")
    words = ("--preset", "quick", "--lora_rank", "4", "--precision", "fp32", "--learning_rate", "1e-2")

    shown = dianda(product, "train", TINY, rows, "q_proj,v_proj", "terminal", *words, "--num_train_epochs", "20")
    assert "terminal:1" in shown and "loss curve" in shown

    compared = json.loads(dianda(product, "compare", TINY, "terminal:1", "--file", rows, "--json"))
    assert compared["rows"] == 16
    assert compared["comparisons"][0]["baseline"] == TINY

    moved = json.loads(dianda(product, "promote", "terminal@production", "terminal:1", "--gate", rows, "--json"))
    assert moved["promotion"]["loaded"] and moved["promotion"]["gate"]["verdict"] == "no baseline"

    answer = json.loads(dianda(product, "ask", "问题0号怎么办", "--model", "terminal@production", "--json"))
    assert answer["adapter"] == "terminal:1"
    talk = dianda(product, "chat", "terminal@production", stdin="问题0号怎么办\n/quit\n")
    assert all(code["code"] in talk for code in answer["codes"])


def test_ctrl_c_leaves_the_job_running(product: Product) -> None:
    job_id = product.start_job(product.upload(), "left", n_epochs=300, save_steps=2)
    product.wait_step(job_id, 2)
    command = [sys.executable, "-m", "app.cli.main", "watch", job_id, "--url", product.stack.url]
    watching = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in a shell's background inherits that it ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    time.sleep(4)

    watching.send_signal(signal.SIGINT)
    _, told = watching.communicate(timeout=30)

    assert watching.returncode == 130, told
    assert f"{job_id} goes on" in told
    step = product.job(job_id)["progress"]["step"]
    product.wait_step(job_id, step + 2)
    product.client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    product.wait_status(job_id, "cancelled")
