"""`make demo`: the main job through HTTP on real weights, start to end."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app.cli.client import ApiClient, ApiError
from app.cli.stack import Stack, free_port, running_stack, tail
from app.cli.waiting import wait_for_success
from app.db.engine import make_engine
from app.db.migrating import upgrade
from app.ml.model_store import ModelStore
from app.settings import Settings

TRAINING_FILE = "telecom_demo.json"
HELD_OUT_FILE = "telecom_demo_test.json"
ALIAS = "telecom@production"
_QUESTIONS = 3
# On two fast cores (6 samples/s) 3 epochs of all rows take two minutes; a slow CPU gets fewer rows, so that training
# ends 290 s after the start and a minute is left for the second evaluation.
_EPOCHS = 3
_TRAINING_ENDS_S = 290.0
_FEWEST_ROWS = 60
_PROBE_ROWS = 24


def run_demo(settings: Settings, *, samples: Path) -> None:
    """Runs the demo in a data folder of its own (the model store is shared) and prints its result as the last line.

    Raises:
        ApiError: a step failed; the text says which.
    """
    started = time.monotonic()
    # A pipe has no width; 80 columns would break the table.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print("[bold]Dianda 电答[/bold]: the main job on real Gemma 3 270M weights, on this machine's CPU or GPU.")
    console.print("Preset `quick` (plain LoRA, all linear layers, r 64, alpha 16, lr 4e-4): a demo, not the recipe.\n")
    results = settings.data_dir.resolve() / "demo"
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=results) as scratch:
        models = settings.models_dir.resolve()
        run_settings = settings.model_copy(
            update={"data_dir": Path(scratch), "host": "127.0.0.1", "port": _free_port_of(settings), "auth": "off"}
        )
        Path(scratch, "models").symlink_to(_made(models))
        upgrade(make_engine(run_settings.resolved_database_url))
        store = ModelStore(models, settings.base_models)
        if store.find(settings.base_model) is None:
            with console.status("Importing the weights into the model store (once, about a minute) …"):
                store.import_in_subprocess(settings.base_model)
            console.print(f"Weights imported and checked ({_seconds(started)}).")
        with running_stack(run_settings) as stack, ApiClient(stack.url) as client:
            try:
                _wait_ready(console, client)
                console.print(f"Product is up at {stack.url} ({_seconds(started)}).\n")
                before, after, table, picture = _main_job(
                    console, client, settings.base_model, samples=samples, results=results, ends=started + _TRAINING_ENDS_S
                )
            except ApiError:
                _show_logs(console, stack)
                raise
    console.print(table)
    console.print(f"Loss curve: {picture}")
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"exact_match_before": before, "exact_match_after": after, "seconds": seconds}))


def _main_job(
    console: Console, client: ApiClient, base_model: str, *, samples: Path, results: Path, ends: float
) -> tuple[float, float, Table, Path]:
    held_out = json.loads((samples / HELD_OUT_FILE).read_text())
    chosen = held_out[:_QUESTIONS]
    untrained = [client.post("/answer", {"question": row["instruction"], "model": base_model}) for row in chosen]
    console.print("[bold]1. Asked the base model[/bold], unconstrained, through the same prompt: it knows nothing.")
    training = client.upload(samples / TRAINING_FILE, purpose="fine-tune")
    test = client.upload(samples / HELD_OUT_FILE, purpose="evals")
    report = training["report"]
    console.print(
        f"[bold]2. Uploaded[/bold] {report['rows']} training rows ({report['distinct_codes']} codes), "
        f"{test['report']['rows']} held-out rows."
    )
    before = _evaluate(console, client, "3. Evaluated the base model", base_model, test["id"])
    adapter, picture = _train(console, client, base_model, training, results=results, ends=ends)
    after = _evaluate(console, client, "5. Evaluated the adapter", adapter, test["id"])
    client.put(f"/v1/aliases/{ALIAS}", {"to": adapter, "reason": "make demo"})
    console.print(f"[bold]6. Promoted[/bold] {adapter} to {ALIAS} and asked again.\n")
    table = Table("question", "base model", "after training", "confidence", "correct", title="The same three questions")
    for row, earlier in zip(chosen, untrained, strict=True):
        answer = client.post("/answer", {"question": row["instruction"], "model": ALIAS})
        bare = row["instruction"].partition(",")[2].rpartition(",")[0]
        right = "yes" if set(answer["answer"].split("|")) == set(row["output"].split("|")) else f"no: {row['output']}"
        table.add_row(bare, _short(earlier["answer"]), answer["answer"], f"{answer['confidence']:.2f}", right)
    return before, after, table, picture


def _train(
    console: Console, client: ApiClient, base_model: str, training: dict[str, Any], *, results: Path, ends: float
) -> tuple[str, Path]:
    rows = int(training["report"]["rows"])
    probe = _create_job(client, base_model, training["id"], {"max_samples": _PROBE_ROWS, "n_epochs": 1}, "demo-probe")
    probed = _follow(console, client, probe, "4. Measuring this machine")
    rate = probed["metrics"]["train_samples_per_s"]
    affordable = int(rate * (ends - time.monotonic()) / _EPOCHS)
    wanted: dict[str, Any] = {"n_epochs": _EPOCHS}
    if affordable < rows:
        wanted["max_samples"] = max(affordable, _FEWEST_ROWS)
        console.print(f"   This CPU trains {rate:.1f} samples/s: taking {wanted['max_samples']} of {rows} rows.")
    job = _create_job(client, base_model, training["id"], wanted, "telecom")
    done = _follow(console, client, job, "4. Training")
    metrics = done["metrics"]
    console.print(
        f"[bold]4. Trained[/bold] {done['fine_tuned_model']}: loss {metrics['train_loss']:.3f}, "
        f"{metrics['train_samples_per_s']:.1f} samples/s, {metrics['train_seconds']:.0f} s."
    )
    picture = results / "loss.png"
    picture.write_bytes(client.get_bytes(f"/v1/files/{done['result_file_names']['loss.png']}/content"))
    return str(done["fine_tuned_model"]), picture


def _create_job(client: ApiClient, base_model: str, file_id: str, extra: dict[str, Any], suffix: str) -> str:
    hyperparameters = {"preset": "quick", **extra}
    body = {
        "model": base_model,
        "training_file": file_id,
        "suffix": suffix,
        "seed": 7,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    }
    return str(client.post("/v1/fine_tuning/jobs", body)["id"])


def _evaluate(console: Console, client: ApiClient, title: str, model: str, file_id: str) -> float:
    evaluation = client.post("/v1/evaluations", {"model": model, "file": file_id})
    done = wait_for_success(console, title, lambda: client.get(f"/v1/evaluations/{evaluation['id']}"))
    metrics = done["metrics"]
    console.print(
        f"[bold]{title}[/bold] on {metrics['rows']} held-out rows: exact match {metrics['exact_match']:.3f}, "
        f"set F1 {metrics['set_f1']:.3f}, invalid {metrics['invalid_rate']:.3f}."
    )
    return round(float(metrics["exact_match"]), 4)


def _follow(console: Console, client: ApiClient, job_id: str, title: str) -> dict[str, Any]:
    return wait_for_success(console, title, lambda: client.get(f"/v1/fine_tuning/jobs/{job_id}"))


def _wait_ready(console: Console, client: ApiClient) -> None:
    with console.status("Starting redis, api, answerer, worker …") as status:
        client.wait_until_ready(timeout_s=180, on_waiting=lambda parts: status.update(f"Waiting for {parts} …"))


def _show_logs(console: Console, stack: Stack) -> None:
    for process in stack.processes.values():
        console.print(f"[yellow]--- {process.name}[/yellow]\n{tail(process.log)}")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _free_port_of(settings: Settings) -> int:
    # The demo must not meet a product that is running: any free port will do, unless one is asked for.
    if "DIANDA_PORT" in os.environ:
        return settings.port
    return free_port()


def _short(text: str) -> str:
    return text if len(text) <= 32 else f"{text[:30]} …"


def _seconds(started: float) -> str:
    return f"{time.monotonic() - started:.0f} s"
