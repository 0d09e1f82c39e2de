"""Where a command writes: its result to stdout, as tables or as JSON; everything else to stderr. And how it ends."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any
from unicodedata import category

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from app.cli.client import ApiClient, ApiError, ApiUnreachable
from app.cli.waiting import WorkFailed
from app.settings import Settings

UrlOption = Annotated[str | None, typer.Option("--url", help="Where the API is; none: DIANDA_HOST and DIANDA_PORT.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON: one object, or one a line where there are several.")]

REFUSED, UNREACHABLE, WORK_FAILED, INTERRUPTED = 1, 3, 4, 130
"""Exit codes; 2 is a wrong command line."""
_WIDTH_WITHOUT_TERMINAL = 120


class Terminal:
    """The two streams of a command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.notes = Console(stderr=True, highlight=False)
        self._out = Console(highlight=False, width=_width(), soft_wrap=False)

    def say(self, text: str) -> None:
        """Tells a person something that is no result; silent where a program reads."""
        if not self.as_json:
            self.notes.print(Text(text), soft_wrap=True)

    def result(self, value: Mapping[str, Any], *shown: RenderableType) -> None:
        """Prints a result: the object where JSON is wanted, else what shows it."""
        if self.as_json:
            print(json.dumps(value, ensure_ascii=False), flush=True)
            return
        for one in shown:
            self._out.print(one)

    def fail(self, error: ApiError) -> None:
        """Prints an error: to stderr in words, or to stdout as the API's own error body."""
        if self.as_json:
            body = {"message": str(error), "code": error.code, "param": error.param, "details": error.details or None}
            print(json.dumps({"error": body}, ensure_ascii=False), flush=True)
        else:
            self.notes.print(Text(str(error), style="red"), soft_wrap=True)


@contextmanager
def talking(url: str | None, *, as_json: bool) -> Iterator[tuple[ApiClient, Terminal]]:
    """Yields the API and the terminal; an error of the API ends the command with its exit code."""
    terminal = Terminal(as_json=as_json)
    try:
        with ApiClient(url or _own_url(), key=_key()) as client:
            yield client, terminal
    except ApiError as error:
        terminal.fail(error)
        code = REFUSED
        if isinstance(error, ApiUnreachable):
            code = UNREACHABLE
        elif isinstance(error, WorkFailed):
            code = WORK_FAILED
        raise typer.Exit(code) from error


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """Returns a table whose cells are plain text: a question may hold brackets, and Chinese takes two columns a character."""
    made = Table(title=title, title_justify="left")
    for column in columns:
        # An id that is cut short is of no use.
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*("" if cell is None else _plain(cell) for cell in row))
    return made


def facts(pairs: Mapping[str, object], *, title: str | None = None) -> Table:
    """Returns a table of names and values; what is None is left out."""
    made = Table("", "", title=title, title_justify="left", show_header=False)
    for name, value in pairs.items():
        if value is not None:
            made.add_row(name, _plain(value))
    return made


def _plain(value: object) -> Text:
    # A model that writes freely may write what a terminal obeys.
    return Text("".join(char if char == "\n" or category(char)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for char in str(value)))


def _key() -> str | None:
    key = Settings().api_key
    return None if key is None else key.get_secret_value()


def _own_url() -> str:
    settings = Settings()
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104  # where it listens, not where it is
    return f"http://{host}:{settings.port}"


def _width() -> int | None:
    if sys.stdout.isatty():
        return None
    # A pipe has no width; 80 columns would break most tables.
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and int(columns) > 0 else _WIDTH_WITHOUT_TERMINAL
