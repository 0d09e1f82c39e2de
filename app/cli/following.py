"""A fine-tuning job on the terminal, live: events as they come, also across a cut connection; Ctrl-C leaves it running."""

import json
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from app.cli.client import ApiClient
from app.cli.terminal import INTERRUPTED, Terminal, facts
from app.cli.waiting import failure

_BARS = "▁▂▃▄▅▆▇█"
_CURVE_CHARS = 48
_LINES_WITHOUT_TERMINAL = 10


def follow_job(client: ApiClient, terminal: Terminal, job_id: str) -> dict[str, Any]:
    """Shows a job's events until it has ended, then its result, and returns the job.

    With JSON each event is a line, and the job is the last.

    Raises:
        WorkFailed: it ended without an adapter.
        typer.Exit: Ctrl-C; the job goes on.
    """
    path = f"/v1/fine_tuning/jobs/{job_id}"
    losses: list[float] = []
    try:
        if terminal.as_json:
            for event in client.events(f"{path}/events", after=0):
                print(json.dumps(event, ensure_ascii=False), flush=True)
        else:
            _show_events(client, terminal, path, losses)
    except KeyboardInterrupt:
        terminal.notes.print(
            f"\n{job_id} goes on. Look again: dianda watch {job_id}   Stop it: dianda jobs cancel {job_id}",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    job = client.get(path)
    if job["status"] != "succeeded":
        if terminal.as_json:
            terminal.result(job)
        raise failure(f"Job {job_id}", job)
    terminal.result(job, _summary(job, losses))
    model = job["fine_tuned_model"]
    terminal.say(f"Next: dianda evaluate {model} TEST_FILE   dianda chat {model}   dianda promote NAME@production {model}")
    return job


def curve(values: list[float], *, chars: int = _CURVE_CHARS) -> str:
    """Returns values as a line of block characters, the highest full; means where there are more values than characters."""
    if not values:
        return ""
    count = min(chars, len(values))
    cut = [values[place * len(values) // count : (place + 1) * len(values) // count] for place in range(count)]
    means = [sum(part) / len(part) for part in cut]
    low, high = min(means), max(means)
    steps = [int((mean - low) / (high - low) * (len(_BARS) - 1)) if high > low else 0 for mean in means]
    return "".join(_BARS[step] for step in steps)


def _show_events(client: ApiClient, terminal: Terminal, path: str, losses: list[float]) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
        TimeElapsedColumn(),
    )
    console, told = terminal.notes, -1
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Training", total=None, facts="waiting for the worker")
        for event in client.events(f"{path}/events", after=0):
            data = event["data"] or {}
            if not {"step", "total_steps"} <= data.keys():
                console.print(Text(event["message"], style="red" if event["level"] == "error" else ""), soft_wrap=True)
                continue
            if "loss" in data:
                losses.append(float(data["loss"]))
            bar.update(task, total=data["total_steps"], completed=data["step"], facts=_step_facts(data))
            part = data["step"] * _LINES_WITHOUT_TERMINAL // data["total_steps"]
            # Where no terminal draws the bar, a line now and then.
            if not console.is_terminal and part > told:
                told = part
                console.print(f"{data['step']}/{data['total_steps']} {_step_facts(data)}", markup=False)


def _step_facts(data: dict[str, Any]) -> str:
    shown = []
    if "loss" in data:
        shown.append(f"loss {data['loss']:.3f}")
    if data.get("samples_per_s"):
        shown.append(f"{data['samples_per_s']:.1f} samples/s")
    if data.get("seconds_remaining") is not None:
        shown.append(f"ETA {data['seconds_remaining']:.0f} s")
    return " · ".join(shown)


def _summary(job: dict[str, Any], losses: list[float]) -> Any:
    metrics = job["metrics"] or {}
    validation, best, calibration = (metrics.get(name) or {} for name in ("validation", "best", "calibration"))
    return facts(
        {
            "adapter": job["fine_tuned_model"],
            "loss": f"{losses[0]:.3f} → {losses[-1]:.3f}" if losses else None,
            "loss curve": curve(losses) or None,
            "training seconds": _rounded(metrics.get("train_seconds"), 1),
            "samples/s": _rounded(metrics.get("train_samples_per_s"), 1),
            "held-out exact match": _rounded(validation.get("exact_match"), 4),
            "held-out set F1": _rounded(validation.get("set_f1"), 4),
            "best epoch": best.get("epoch"),
            "calibrated": calibration.get("is_calibrated"),
        },
        title=f"Job {job['id']}",
    )


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
