"""`dianda experiment`: ramps, grids and base models as one object that is started, watched and compared."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.cli.client import ApiClient, ApiError
from app.cli.evaluating import MaxRowsOption, comparison_table, with_interval
from app.cli.files import file_id_of
from app.cli.terminal import INTERRUPTED, JsonOption, Terminal, UrlOption, facts, table, talking
from app.cli.training import hyperparameter_value
from app.cli.waiting import WorkFailed

experiments_cli = typer.Typer(no_args_is_help=True, help="Experiments: one thing varies, data, test rows and seed are fixed.")
_PATH = "/v1/experiments"
_TICK_S = 1.0
ModelArgument = Annotated[str, typer.Argument(help="Base model of every arm.")]
TrainOption = Annotated[str, typer.Option("--train", help="Training file: a path to upload, a name or an id.")]
TestOption = Annotated[str, typer.Option("--test", help="Test file, which every arm answers: a path, a name or an id.")]
ValidationOption = Annotated[str | None, typer.Option(help="Held-out file of every training.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE: a hyperparameter of every arm.")]
SuffixOption = Annotated[str | None, typer.Option(help="Adapters are called SUFFIX-ARM:1.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of every training, and of the cut of a ramp.")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Queue the arms and return at once.")]
ExperimentArgument = Annotated[str, typer.Argument(help="An experiment's id (exp-…).")]


@experiments_cli.command()
def ramp(
    model: ModelArgument,
    train: TrainOption,
    test: TestOption,
    sizes: Annotated[str, typer.Option(help="Training rows of each arm; 0 is the base model as it is.")] = "0,100,400,5000",
    validation: ValidationOption = None,
    settings: SetOption = None,
    max_rows: MaxRowsOption = None,
    suffix: SuffixOption = None,
    seed: SeedOption = 0,
    detach: DetachOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trains on more and more rows of one file."""
    try:
        vary = {"kind": "ramp", "sizes": [int(size) for size in sizes.split(",")]}
    except ValueError as error:
        raise typer.BadParameter(f"{sizes!r} is no list of numbers such as 0,100,400.", param_hint="--sizes") from error
    fields = {"model": model, "max_rows": max_rows, "suffix": suffix, "seed": seed}
    _start(vary, fields, settings, train, test, validation, url, detach=detach, as_json=as_json)


@experiments_cli.command()
def grid(
    model: ModelArgument,
    train: TrainOption,
    test: TestOption,
    vary: Annotated[list[str], typer.Option("--vary", help="NAME=VALUE,VALUE,…; several: every combination.")],
    validation: ValidationOption = None,
    settings: SetOption = None,
    max_rows: MaxRowsOption = None,
    suffix: SuffixOption = None,
    seed: SeedOption = 0,
    detach: DetachOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trains with every combination of some hyperparameters; the first is the baseline."""
    varied = {name: [hyperparameter_value(part) for part in text.split(",")] for name, text in _pairs(vary, "--vary")}
    fields = {"model": model, "max_rows": max_rows, "suffix": suffix, "seed": seed}
    wanted = {"kind": "hyperparameters", "grid": varied}
    _start(wanted, fields, settings, train, test, validation, url, detach=detach, as_json=as_json)


@experiments_cli.command()
def models(
    names: Annotated[list[str], typer.Argument(help="Base models; the first is the baseline.")],
    train: TrainOption,
    test: TestOption,
    validation: ValidationOption = None,
    settings: SetOption = None,
    max_rows: MaxRowsOption = None,
    suffix: SuffixOption = None,
    seed: SeedOption = 0,
    detach: DetachOption = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trains several base models on the same rows with the same hyperparameters."""
    fields = {"max_rows": max_rows, "suffix": suffix, "seed": seed}
    wanted = {"kind": "base_models", "models": names}
    _start(wanted, fields, settings, train, test, validation, url, detach=detach, as_json=as_json)


@experiments_cli.command()
def watch(experiment: ExperimentArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Waits for an experiment's arms and compares them."""
    with talking(url, as_json=as_json) as (client, terminal):
        _follow(client, terminal, client.get(f"{_PATH}/{experiment}"))


@experiments_cli.command()
def show(experiment: ExperimentArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Compares what has ended so far."""
    with talking(url, as_json=as_json) as (client, terminal):
        _show(client, terminal, experiment)


@experiments_cli.command("list")
def list_experiments(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most experiments.")] = 20,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lists experiments, newest first."""
    with talking(url, as_json=as_json) as (client, terminal):
        found = list(client.pages(_PATH, most=limit))
        rows = [(one["id"], one["kind"], one["status"], f"{one['arms_ended']}/{len(one['arms'])}") for one in found]
        terminal.result({"object": "list", "data": found}, table(("id", "varies", "status", "arms"), rows))


@experiments_cli.command()
def cancel(experiment: ExperimentArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Cancels every arm that has not ended."""
    with talking(url, as_json=as_json) as (client, terminal):
        cancelled = client.post(f"{_PATH}/{experiment}/cancel")
        terminal.result(cancelled, f"{experiment} is {cancelled['status']}.")


@experiments_cli.command()
def delete(experiment: ExperimentArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Deletes an experiment that is over; its jobs, adapters, evaluations and files stay."""
    with talking(url, as_json=as_json) as (client, terminal):
        terminal.result(client.delete(f"{_PATH}/{experiment}"), f"{experiment} is deleted.")


@experiments_cli.command()
def report(
    experiment: ExperimentArgument,
    to: Annotated[Path, typer.Option(help="File to write: one HTML page, or the table where it ends with .csv.")],
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Writes an experiment's report: plots, intervals and tests on one page that needs no network."""
    with talking(url, as_json=as_json) as (client, terminal):
        what = "comparison.csv" if to.suffix == ".csv" else "report"
        content = client.get_bytes(f"{_PATH}/{experiment}/{what}")
        try:
            to.write_bytes(content)
        except OSError as error:
            raise ApiError(f"{to} cannot be written: {error}") from error
        terminal.result({"experiment": experiment, "file": str(to.absolute()), "bytes": len(content)}, f"{to} is written.")


def _start(
    vary: dict[str, Any],
    fields: dict[str, Any],
    settings: list[str] | None,
    train: str,
    test: str,
    validation: str | None,
    url: str | None,
    *,
    detach: bool,
    as_json: bool,
) -> None:
    fixed = {name: hyperparameter_value(text) for name, text in _pairs(settings or [], "--set")}
    with talking(url, as_json=as_json) as (client, terminal):
        body = {
            **{name: value for name, value in fields.items() if value is not None},
            "vary": vary,
            "hyperparameters": fixed,
            "training_file": file_id_of(client, terminal, train, purpose="fine-tune"),
            "test_file": file_id_of(client, terminal, test, purpose="evals"),
        }
        if validation is not None:
            body["validation_file"] = file_id_of(client, terminal, validation, purpose="evals")
        experiment = client.post(_PATH, body)
        terminal.say(f"Experiment {experiment['id']} has {len(experiment['arms'])} arms.")
        if detach:
            terminal.result(experiment, experiment["id"])
        else:
            _follow(client, terminal, experiment)


def _follow(client: ApiClient, terminal: Terminal, experiment: dict[str, Any]) -> None:
    path = f"{_PATH}/{experiment['id']}"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    told: dict[int, str] = {}
    try:
        with Progress(*columns, TimeElapsedColumn(), console=terminal.notes, transient=True, disable=terminal.as_json) as bar:
            task = bar.add_task("Arms", total=len(experiment["arms"]), facts="")
            while experiment["status"] == "running":
                bar.update(task, completed=experiment["arms_ended"], facts=_busy(experiment))
                for arm in experiment["arms"]:
                    if told.get(arm["number"]) != arm["status"]:
                        told[arm["number"]] = arm["status"]
                        terminal.say(f"{arm['label']}: {arm['status']}")
                time.sleep(_TICK_S)
                experiment = client.get(path)
    except KeyboardInterrupt:
        terminal.notes.print(
            f"\n{experiment['id']} goes on. Look again: dianda experiment watch {experiment['id']}", soft_wrap=True
        )
        raise typer.Exit(INTERRUPTED) from None
    _show(client, terminal, experiment["id"])
    if experiment["status"] != "succeeded":
        failed = "; ".join(f"{arm['label']}: {arm['error']}" for arm in experiment["arms"] if arm["error"])
        raise WorkFailed(f"Experiment {experiment['id']}: {experiment['status']}. {failed}".rstrip())


def _busy(experiment: dict[str, Any]) -> str:
    shown = []
    for arm in experiment["arms"]:
        progress = arm["progress"] or {}
        if arm["status"] in ("training", "evaluating") and {"step", "total_steps"} <= progress.keys():
            shown.append(f"{arm['status']} {progress['step']}/{progress['total_steps']}")
    return " · ".join(shown[:3])


def _show(client: ApiClient, terminal: Terminal, experiment_id: str) -> None:
    comparison = client.get(f"{_PATH}/{experiment_id}/comparison")
    arms = comparison["data"]
    rows = [
        (
            arm["label"] if arm["status"] == "succeeded" else f"{arm['label']} ({arm['status']})",
            with_interval(arm["metrics"], arm["intervals"], "exact_match"),
            with_interval(arm["metrics"], arm["intervals"], "set_f1"),
            with_interval(arm["metrics"], {}, "invalid_rate"),
            _number(arm["cost"]["train_seconds"]),
            _number(arm["cost"]["peak_memory_gib"]),
            arm["adapter"],
        )
        for arm in arms
    ]
    columns = ("arm", "exact match", "set F1", "invalid", "seconds", "GiB", "adapter")
    shown: list[Table] = [table(columns, rows, title=f"Experiment {experiment_id}: {comparison['status']}")]
    if tested := [(arm["label"], arm["versus_baseline"]) for arm in arms if arm["versus_baseline"] is not None]:
        shown.append(comparison_table(comparison["baseline"], tested))
    shown.append(facts({"report": f"dianda experiment report {experiment_id} --to report.html"}))
    terminal.result(comparison, *shown)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"


def _pairs(texts: list[str], option: str) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"{text!r}: write NAME=VALUE.", param_hint=option)
        pairs.append((name.replace("-", "_"), value))
    return pairs
