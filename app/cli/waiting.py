"""A bar for work that a worker does, until that has ended."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.cli.client import ApiError

ENDED = ("succeeded", "failed", "cancelled")
_TICK_S = 0.5


class WorkFailed(ApiError):
    """A job, evaluation or export has ended without a result."""


def failure(title: str, state: Mapping[str, Any]) -> WorkFailed:
    """Returns what to say of work that has ended badly."""
    error = state["error"] or {}
    return WorkFailed(
        f"{title}: {state['status']}. {error.get('message', '')}".rstrip(), code=error.get("code"), param=error.get("param")
    )


def wait_for_success(console: Console, title: str, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Shows a bar with loss and ETA until what `read` returns has ended, and returns its last state.

    Raises:
        WorkFailed: it did not succeed; the text says why.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
    )
    last_line = ""
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None, facts="waiting for the worker")
        while True:
            state = read()
            progress = state["progress"] or {}
            if "total_steps" in progress:
                facts = (
                    "" if "loss" not in progress else f"loss {progress['loss']:.3f} · ETA {progress['seconds_remaining']:.0f} s"
                )
                bar.update(task, total=progress["total_steps"], completed=progress["step"], facts=facts)
                # Where no terminal draws the bar, a line now and then.
                line = f"{title}: {progress['step']}/{progress['total_steps']} {facts}"
                tenth = progress["step"] * 5 // progress["total_steps"]
                if not console.is_terminal and f"{tenth}" != last_line:
                    last_line = f"{tenth}"
                    console.print(line)
            if state["status"] in ENDED:
                break
            time.sleep(_TICK_S)
    if state["status"] != "succeeded":
        raise failure(title, state)
    return state
