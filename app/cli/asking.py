"""`dianda ask` and `dianda chat`: questions in, codes with confidences out."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any

import typer
from rich.table import Table

from app.cli.client import ApiClient, ApiError
from app.cli.terminal import JsonOption, Terminal, UrlOption, table, talking

_BATCH_QUESTIONS = 64
ModelArgument = Annotated[str | None, typer.Argument(help="Alias, adapter or base model; none: the deployment's base model.")]
AlternativesOption = Annotated[int, typer.Option(min=0, max=7, help="Other answers to show.")]
_HELP = "/model NAME  asks another model · /alternatives N · /history · /quit (or Ctrl-D)"


def ask(
    questions: Annotated[list[str] | None, typer.Argument(help="Questions; none: a line each from stdin.")] = None,
    model: Annotated[str | None, typer.Option(help="Alias, adapter or base model; none: the deployment's base model.")] = None,
    alternatives: AlternativesOption = 0,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Hand over below this confidence.")] = None,
    precision: Annotated[float | None, typer.Option(help="Wished share of right answers among those not handed over.")] = None,
    mode: Annotated[str, typer.Option(help="closed, open_values or free.")] = "closed",
    decide_by: Annotated[
        str | None, typer.Option(help="What is best among the alternatives: answer, set or expected_f1.")
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answers questions; with --json one answer a line."""
    wishes = {
        "model": model,
        "alternatives": alternatives,
        "threshold": threshold,
        "precision": precision,
        "mode": mode,
        "decide_by": decide_by,
    }
    body = {name: value for name, value in wishes.items() if value is not None}
    given = iter(questions) if questions else (line.strip() for line in sys.stdin)
    with talking(url, as_json=as_json) as (client, terminal):
        for part in _batches(question for question in given if question):
            answers = client.post("/answer/batch", {"questions": part, **body})["data"]
            if as_json:
                for question, answer in zip(part, answers, strict=True):
                    terminal.result({"question": question, **answer})
            else:
                terminal.result({}, _answer_table(part, answers))


def chat(
    model: ModelArgument = None,
    alternatives: AlternativesOption = 2,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Asks and answers until /quit: an answer's codes, how sure each is, and what else it might have been."""
    with talking(url, as_json=as_json) as (client, terminal):
        _Chat(client, terminal, model, alternatives).run()


class _Chat:
    """A conversation on the terminal, each question by itself."""

    def __init__(self, client: ApiClient, terminal: Terminal, model: str | None, alternatives: int) -> None:
        self._client = client
        self._terminal = terminal
        self._model = model
        self._alternatives = alternatives
        self._history: list[tuple[str, str, float]] = []

    def run(self) -> None:
        """Reads lines until the end of input or /quit."""
        if model := self._model:
            self._client.get(f"/v1/models/{model}")
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401, PLC0415  # arrow keys and history, where Python has it
        self._terminal.say(_HELP)
        for line in _lines():
            words = line.split()
            if not words:
                continue
            if words[0] in ("/quit", "/exit"):
                return
            try:
                if line.startswith("/"):
                    self._command(words)
                else:
                    self._ask(line)
            except ApiError as error:
                # One question that cannot be answered ends no conversation.
                self._terminal.fail(error)

    def _ask(self, question: str) -> None:
        body: dict[str, Any] = {"question": question, "alternatives": self._alternatives}
        if self._model is not None:
            body["model"] = self._model
        answer = self._client.post("/answer", body)
        self._history.append((question, answer["answer"], answer["confidence"]))
        self._terminal.result({"question": question, **answer}, *_shown(answer))

    def _command(self, words: list[str]) -> None:
        match words:
            case ["/model", name]:
                self._client.get(f"/v1/models/{name}")
                self._model = name
                self._terminal.say(f"Asking {name}.")
            case ["/alternatives", count] if count.isdecimal() and int(count) <= 7:
                self._alternatives = int(count)
            case ["/history"]:
                past = {"history": [{"question": q, "answer": a, "confidence": c} for q, a, c in self._history]}
                self._terminal.result(past, table(("question", "answer", "confidence"), self._history))
            case _:
                self._terminal.say(_HELP)


def _lines() -> Iterator[str]:
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return


def _shown(answer: dict[str, Any]) -> Iterator[Table | str]:
    codes = [(code["code"], code["category"], f"{code['confidence']:.2f}", code["text"]) for code in answer["codes"]]
    by = answer["adapter"] or answer["model"]
    title = f"{by} · confidence {answer['confidence']:.2f}" + ("" if answer["calibrated"] else " (not calibrated)")
    yield table(("code", "category", "confidence", "text"), codes, title=title)
    if answer["alternatives"]:
        others = [(other["answer"], f"{other['confidence']:.2f}") for other in answer["alternatives"]]
        yield table(("or", "confidence"), others)
    if answer["fallback"]["triggered"]:
        yield f"Hand over to a human: {answer['fallback']['reason']}"


def _answer_table(questions: list[str], answers: list[dict[str, Any]]) -> Table:
    rows = []
    for question, answer in zip(questions, answers, strict=True):
        others = "\n".join(f"{other['answer']} {other['confidence']:.2f}" for other in answer["alternatives"])
        handed = answer["fallback"]["reason"] or ""
        rows.append((question, answer["answer"], f"{answer['confidence']:.2f}", handed, others))
    has_others = any(row[4] for row in rows)
    columns = ("question", "answer", "confidence", "hand over", "alternatives")
    return table(columns if has_others else columns[:4], rows if has_others else [row[:4] for row in rows])


def _batches(questions: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(questions)
    while part := list(islice(rest, _BATCH_QUESTIONS)):
        yield part
