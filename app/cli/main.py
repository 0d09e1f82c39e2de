"""The `dianda` command."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from alembic.util import CommandError
from rich.console import Console

from app.cli import files
from app.cli.asking import ask, chat
from app.cli.client import ApiClient, ApiError
from app.cli.data import data_cli
from app.cli.demo import run_demo
from app.cli.evaluating import compare, evaluate
from app.cli.experimenting import experiments_cli
from app.cli.export import export_to_folder
from app.cli.keys import access_banner, keys_cli
from app.cli.promoting import aliases_cli, promote
from app.cli.stack import Stack, StackError, running_stack, worker_command
from app.cli.terminal import JsonOption, Terminal, UrlOption, table, talking
from app.cli.training import TRAIN_CONTEXT, jobs_cli, train, watch
from app.db.engine import make_engine
from app.db.migrating import downgrade, upgrade
from app.errors import AppError
from app.ml.export_folders import ExportFormat
from app.ml.model_store import ModelStore
from app.settings import Settings

cli = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
models_cli = typer.Typer(no_args_is_help=True, help="The operator's list of base models and its store.")
cli.add_typer(models_cli, name="models")
cli.add_typer(keys_cli, name="key")
cli.add_typer(data_cli, name="data")
cli.add_typer(jobs_cli, name="jobs")
cli.add_typer(aliases_cli, name="aliases")
cli.add_typer(experiments_cli, name="experiment")
cli.command(context_settings=TRAIN_CONTEXT)(train)
_COMMANDS: tuple[Callable[..., None], ...] = (watch, ask, chat, evaluate, compare, promote)
for _command in _COMMANDS:
    cli.command()(_command)
data_cli.command("list")(files.list_files)
_COMMANDS_OF_DATA: tuple[Callable[..., None], ...] = (files.upload, files.show, files.split, files.delete)
for _command in _COMMANDS_OF_DATA:
    data_cli.command()(_command)
_console = Console(stderr=True, highlight=False)
_LOOKED_EVERY_S = 0.2
_GPU_DEVICES = ("/dev/kfd", "/dev/nvidiactl")
_PRESET_WITHOUT_GPU = "quick"


@cli.callback()
def root(
    api_key: Annotated[
        str | None,
        typer.Option(help="The API key to send; better in DIANDA_API_KEY, because a command line is seen by who else is here."),
    ] = None,
) -> None:
    """Dianda 电答: customer questions in, category codes out."""
    if api_key is not None:
        os.environ["DIANDA_API_KEY"] = api_key


def _store(settings: Settings) -> ModelStore:
    return ModelStore(settings.models_dir, settings.base_models)


def _import(store: ModelStore, name: str) -> None:
    if store.find(name) is None:
        with _console.status(f"Importing base model {name} (once, about a minute) …"):
            store.import_in_subprocess(name)


def _for_this_machine(settings: Settings) -> Settings:
    """Returns settings whose default preset a machine without a GPU trains in minutes, unless one is set."""
    if settings.default_preset is not None or any(Path(device).exists() for device in _GPU_DEVICES):
        return settings
    _console.print(
        "No GPU is here: jobs that name no preset train with [bold]quick[/bold], in minutes. auto answers better and takes hours "
        "on a CPU; name it in the job, or set DIANDA_DEFAULT_PRESET."
    )
    return settings.model_copy(update={"default_preset": _PRESET_WITHOUT_GPU})


def _fail(error: Exception) -> None:
    _console.print(f"[red]{getattr(error, 'message', None) or error}[/red]")
    raise typer.Exit(1)


@cli.command()
def up(
    answerers: Annotated[
        int,
        typer.Option(min=1, max=16, help="Answerers; each holds the base model. Of two, one answers while the other restarts."),
    ] = 1,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Workers; each trains one job at a time.")] = 1,
) -> None:
    """Starts the whole product on this machine; Ctrl-C stops it, SIGHUP replaces its processes one after another."""
    settings = _for_this_machine(Settings())
    # No events: a signal that comes while this thread holds an event's lock would wait for it for ever.
    told: set[int] = set()

    def on_signal(number: int, frame: FrameType | None) -> None:
        told.add(number)

    def is_stopped() -> bool:
        return bool(told & {signal.SIGINT, signal.SIGTERM})

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        upgrade(make_engine(settings.resolved_database_url))
        has_weights = True
        try:
            _import(_store(settings), settings.base_model)
        except AppError as error:
            # The product starts all the same: files can be uploaded, and /health/ready says what is missing.
            _console.print(f"[yellow]{error.message}[/yellow]")
            has_weights = False
        with running_stack(settings, answerers=answerers, workers=workers) as stack:
            with ApiClient(stack.url) as client, _console.status("Starting …") as status:

                def on_waiting(parts: str) -> None:
                    if is_stopped():
                        raise ApiError("Stopped before everything was ready.")
                    status.update(f"Waiting for {parts} …")

                try:
                    client.wait_until_ready(timeout_s=120 if has_weights else 15, on_waiting=on_waiting)
                    _console.print(f"Dianda is ready at [bold]{stack.url}[/bold] (API described at {stack.url}/docs).")
                except ApiError as error:
                    _console.print(f"[yellow]{error}[/yellow]")
            _console.print(f"Data in {settings.data_dir}, logs in {stack.logs}.")
            _console.print(access_banner(settings))
            while not is_stopped():
                time.sleep(_LOOKED_EVERY_S)
                if signal.SIGHUP in told:
                    told.discard(signal.SIGHUP)
                    _restart(stack)
                for name in stack.restart_dead():
                    _console.print(f"[yellow]{name} had died and was started again; its log: {stack.logs / name}.log[/yellow]")
            _console.print("Stopping: a running job checkpoints and resumes at the next start …")
    except (AppError, StackError) as error:
        _fail(error)


def _restart(stack: Stack) -> None:
    try:
        for name in stack.restart_one_by_one():
            _console.print(f"{name} was restarted.")
    except StackError as error:
        # What runs goes on; who dies is started again as ever.
        _console.print(f"[red]{error}[/red]")


@cli.command()
def demo() -> None:
    """Does the main job once, on real weights, and stops everything."""
    settings = Settings()
    try:
        run_demo(settings, samples=Path("samples"))
    except (AppError, StackError, ApiError) as error:
        _fail(error)


@cli.command()
def worker() -> None:
    """Runs a worker that joins the queue of DIANDA_BROKER_URL."""
    command = worker_command()
    os.execv(command[0], command)  # noqa: S606  # our own interpreter


@cli.command()
def migrate(
    down_to: Annotated[
        str | None, typer.Option(help="Go back to this revision instead, such as 0008; what newer tables hold is lost.")
    ] = None,
) -> None:
    """Brings the database to this version's schema, or back to an older one."""
    engine = make_engine(Settings().resolved_database_url)
    if down_to is None:
        upgrade(engine)
        _console.print("The database is current.")
        return
    try:
        downgrade(engine, down_to)
    except CommandError as error:
        _fail(error)
    _console.print(f"The database is at revision {down_to}. Start the version that it belongs to.")


@cli.command()
def export(
    model: Annotated[str, typer.Argument(help="An adapter (telecom:1) or alias (telecom@production).")],
    to: Annotated[Path, typer.Option(help="Folder to make.")],
    format: Annotated[ExportFormat, typer.Option(help="peft, merged, or gguf (needs llama.cpp on the worker).")] = "peft",
    keep: Annotated[bool, typer.Option(help="Leave the product's own copy of the files where it is.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Writes an adapter into a folder that plain peft, plain transformers or llama.cpp load."""
    with talking(url, as_json=as_json) as (client, terminal):
        try:
            done = export_to_folder(client, terminal.notes, model=model, format=format, to=to, keeps=keep)
        except OSError as error:
            raise ApiError(f"The folder {to} cannot be written: {error}") from error
        terminal.result({**done, "folder": str(to.absolute())})


@models_cli.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """Lists the base models and whether their weights are in the store."""
    store = _store(Settings())
    listed = [(name, source, store.find(name)) for name, source in sorted(store.listed().items())]
    data = [{"name": name, "source": source, "checksum": found.checksum if found else None} for name, source, found in listed]
    rows = [
        (name, source, found.checksum[:12] if found else f"missing: dianda models import {name}")
        for name, source, found in listed
    ]
    Terminal(as_json=as_json).result({"object": "list", "data": data}, table(("name", "source", "weights"), rows))


@models_cli.command("add")
def add_model(
    name: Annotated[str, typer.Argument(help="Name that jobs will use.")],
    source: Annotated[str, typer.Argument(help="hub:OWNER/NAME@REVISION, folder:/PATH, gguf:/PATH or package:NAME")],
) -> None:
    """Puts a base model on the operator's list and imports its weights."""
    store = _store(Settings())
    try:
        store.add(name, source)
        _import(store, name)
    except AppError as error:
        _fail(error)
    _console.print(f"Base model {name} is in the store.")


@models_cli.command("import")
def import_model(name: Annotated[str, typer.Argument(help="A name of the operator's list.")]) -> None:
    """Imports the weights of a base model that is on the list."""
    store = _store(Settings())
    try:
        _import(store, name)
    except AppError as error:
        _fail(error)
    _console.print(f"Base model {name} is in the store.")


if __name__ == "__main__":
    cli()
