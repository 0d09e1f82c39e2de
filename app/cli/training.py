"""`dianda train`, `watch` and `jobs`: the recipe's shell arguments in, a live loss out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from app.cli.client import ApiClient, ApiError
from app.cli.files import file_id_of
from app.cli.following import follow_job
from app.cli.terminal import JsonOption, Terminal, UrlOption, facts, table, talking

jobs_cli = typer.Typer(no_args_is_help=True, help="Fine-tuning jobs.")
_JOBS = "/v1/fine_tuning/jobs"
# What LLaMA-Factory's command lines say, and what needs no saying here.
_NOT_NEEDED = {
    "stage", "do_train", "do_eval", "finetuning_type", "overwrite_cache", "overwrite_output_dir", "plot_loss", "logging_steps",
    "preprocessing_num_workers", "dataloader_num_workers", "dataset_dir", "report_to", "ddp_timeout", "fp16", "bf16",
    "trust_remote_code", "val_size", "include_num_input_tokens_seen", "optim", "packing", "flash_attn", "save_total_limit",
}  # fmt: skip
_PLACES = ("model", "dataset", "targets", "output")
_FLAGS = {"model": "model_name_or_path", "dataset": "dataset", "targets": "lora_target", "output": "output_dir"}
# click puts options that it does not know among the arguments: they are hyperparameters.
TRAIN_CONTEXT = {"ignore_unknown_options": True}
_USAGE = "MODEL DATASET [TARGETS] [OUTPUT] [--HYPERPARAMETER VALUE]..."


@dataclass(frozen=True)
class TrainingWords:
    """A command line, sorted: the recipe's four arguments, and hyperparameters by name."""

    model: str | None
    dataset: str | None
    output: str | None
    hyperparameters: dict[str, Any]


def train(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL DATASET [TARGETS] [OUTPUT]",
            help="Base model; training file (a path to upload, a name or an id); modules that get an adapter "
            "(q_proj,k_proj,v_proj or all; none: the preset's); name of the adapter (telecom gives telecom:1, telecom:2, …).",
        ),
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="Held-out file (path, name or id): scored each epoch, calibrates.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="auto (default), direct, quick or recipe; hyperparameters override it.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of order and weights.")] = None,
    columns: Annotated[str | None, typer.Option(help='JSON: {"question": "…", "answer": "…"}, for an uploaded table.')] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate steps, minutes and memory; queue nothing.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Queue the job and return at once.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fine-tunes a base model and follows the job; Ctrl-C leaves it running.

    dianda train gemma-3-270m telecom_train_400.json q_proj,k_proj,v_proj telecom --validation telecom_test_100.json

    Any other option is a hyperparameter under LLaMA-Factory's name or OpenAI's: --lora_rank 64 --num_train_epochs 3 --use_dora
    false. LLaMA-Factory's --model_name_or_path, --dataset, --lora_target and --output_dir are understood, too.
    """
    asked = parse_words(words or [])
    hyperparameters = asked.hyperparameters
    with talking(url, as_json=as_json) as (client, terminal):
        for name in sorted(_NOT_NEEDED & hyperparameters.keys()):
            del hyperparameters[name]
            terminal.say(f"--{name} means nothing here and is left out.")
        if preset is not None:
            hyperparameters["preset"] = preset
        if asked.model is None or asked.dataset is None:
            raise ApiError("A base model and a dataset are needed: dianda train MODEL DATASET [TARGETS] [OUTPUT]")
        body: dict[str, Any] = {
            "model": asked.model,
            "training_file": file_id_of(client, terminal, asked.dataset, purpose="fine-tune", columns=columns),
            "suffix": asked.output,
            "seed": seed,
            "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        }
        if validation is not None:
            body["validation_file"] = file_id_of(client, terminal, validation, purpose="evals", columns=columns)
        body = {name: value for name, value in body.items() if value is not None}
        if dry_run:
            _estimate(client, terminal, body)
            return
        job = client.post(_JOBS, body)
        terminal.say(f"Job {job['id']} is {job['status']}.")
        if detach:
            terminal.result(job, job["id"])
        else:
            follow_job(client, terminal, job["id"])


def parse_words(words: Sequence[str]) -> TrainingWords:
    """Sorts a command line: `--name value`, `--name=value` and a lone `--name` (true) from the four arguments.

    Numbers, true and false are what they look like.

    Raises:
        typer.BadParameter: a word too many, or something that is given twice.
    """
    found: dict[str, Any] = {}
    places: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            places.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        found[name.replace("-", "_")] = hyperparameter_value(value)
    if len(places) > len(_PLACES):
        raise typer.BadParameter(f"{places[len(_PLACES)]!r} is one argument too many: {_USAGE}")
    given: dict[str, str] = {}
    for name, place in zip(_PLACES, places, strict=False):
        given[name] = place
    for name, flag in _FLAGS.items():
        if flag not in found:
            continue
        if name in given:
            raise typer.BadParameter(f"{given[name]!r} and --{flag} {found[flag]} say the same thing. Give one.")
        given[name] = str(found.pop(flag))
    hyperparameters = found | ({"lora_target": given["targets"]} if "targets" in given else {})
    return TrainingWords(given.get("model"), given.get("dataset"), given.get("output"), hyperparameters)


def hyperparameter_value(text: str) -> Any:
    """Returns what a text looks like: true, false, a number, or itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _estimate(client: ApiClient, terminal: Terminal, body: dict[str, Any]) -> None:
    estimate = client.post(f"{_JOBS}?dry_run=true", body)
    engines = ", ".join(one["engine"] for one in estimate["serving"] if one["can_serve"])
    shown = {
        "rows": estimate["rows"],
        "rows cut to cutoff_len": estimate["rows_truncated"],
        "steps": estimate["steps"],
        "trainable parameters": f"{estimate['trainable_parameters']:,}",
        "peak memory, GiB": estimate["peak_memory_gib"],
        "minutes": estimate["minutes"],
        "minutes known from": estimate["minutes_basis"],
        "engines that can serve it": engines,
    }
    terminal.result(estimate, facts(shown, title="Nothing was queued"))


def watch(
    job: Annotated[str | None, typer.Argument(help="A job's id; none: the newest that has not ended.")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Follows a job: its loss live, its events, its result."""
    with talking(url, as_json=as_json) as (client, terminal):
        if job is None:
            unfinished = [one for one in client.pages(_JOBS, most=100) if one["finished_at"] is None]
            if not unfinished:
                raise ApiError("No job is waiting or running. See them all: dianda jobs list")
            job = str(unfinished[0]["id"])
            terminal.say(f"Watching {job}.")
        follow_job(client, terminal, job)


@jobs_cli.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most jobs.")] = 20,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lists jobs, newest first."""
    with talking(url, as_json=as_json) as (client, terminal):
        jobs = list(client.pages(_JOBS, most=limit))
        rows = []
        for one in jobs:
            progress = one["progress"] or {}
            steps = f"{progress['step']}/{progress['total_steps']}" if "total_steps" in progress else ""
            loss = f"{progress['loss']:.3f}" if "loss" in progress else ""
            rows.append((one["id"], one["status"], one["model"], one["fine_tuned_model"] or one["suffix"], steps, loss))
        terminal.result({"object": "list", "data": jobs}, table(("id", "status", "base model", "adapter", "step", "loss"), rows))


@jobs_cli.command()
def pause(job: Annotated[str, typer.Argument(help="A job's id.")], url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Pauses a job; a running one checkpoints first."""
    _do(job, "pause", url, as_json=as_json)


@jobs_cli.command()
def resume(job: Annotated[str, typer.Argument(help="A job's id.")], url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Lets a paused job go on from its last checkpoint."""
    _do(job, "resume", url, as_json=as_json)


@jobs_cli.command()
def cancel(job: Annotated[str, typer.Argument(help="A job's id.")], url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Cancels a job; it ends without an adapter."""
    _do(job, "cancel", url, as_json=as_json)


def _do(job: str, verb: str, url: str | None, *, as_json: bool) -> None:
    with talking(url, as_json=as_json) as (client, terminal):
        changed = client.post(f"{_JOBS}/{job}/{verb}")
        wish = "" if changed["wish"] == "none" else f", asked to {changed['wish']}"
        terminal.result(changed, f"{job} is {changed['status']}{wish}.")
