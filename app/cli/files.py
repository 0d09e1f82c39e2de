"""`dianda data upload|list|show|split|delete`, and datasets as other commands name them: by id, or by a path to upload."""

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import ApiClient, ApiError
from app.cli.terminal import JsonOption, Terminal, UrlOption, facts, table, talking

_RECENT_FILES = 1000
_BLOCK_BYTES = 1 << 20
FileArgument = Annotated[str, typer.Argument(help="A path (uploaded, unless it is there), a file's name, or its id.")]


def file_id_of(client: ApiClient, terminal: Terminal, named: str, *, purpose: str, columns: str | None = None) -> str:
    """Returns the id of a dataset; a path is uploaded unless a file of the same bytes and purpose is there.

    What is no path may be the name of a part that was cut, or of a file that was uploaded: the newest of that name.

    Raises:
        ApiError: no such file, or the API refuses it; the text names the row.
    """
    path = Path(named)
    if not path.is_file():
        return named if named.startswith("file-") else _find_named(client, terminal, named)
    if columns is None and (found := _find_uploaded(client, path, purpose)) is not None:
        terminal.say(f"{path.name} is there already: {found}")
        return found
    uploaded = client.upload(path, purpose=purpose, columns=columns)
    report = uploaded["report"]
    terminal.say(f"{path.name} uploaded: {uploaded['id']}, {report['rows']} rows, {report['distinct_codes']} codes")
    return str(uploaded["id"])


def _find_named(client: ApiClient, terminal: Terminal, name: str) -> str:
    for file_object in client.pages("/v1/files", most=_RECENT_FILES):
        if name in (file_object["filename"], Path(file_object["filename"]).stem):
            terminal.say(f"{name} is {file_object['id']}")
            return str(file_object["id"])
    raise ApiError(f"There is no file {name!r}, neither here nor among: dianda data list")


def _find_uploaded(client: ApiClient, path: Path, purpose: str) -> str | None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    checksum = digest.hexdigest()
    for file_object in client.pages("/v1/files", most=_RECENT_FILES, purpose=purpose):
        if file_object["sha256"] == checksum:
            return str(file_object["id"])
    return None


def upload(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Alpaca JSON, JSONL, chat JSONL, CSV, TSV, XLSX.")],
    purpose: Annotated[str, typer.Option(help="fine-tune, or evals for a test set.")] = "fine-tune",
    columns: Annotated[str | None, typer.Option(help='JSON: {"question": "…", "answer": "…"}.')] = None,
    encoding: Annotated[str | None, typer.Option(help="For example gb18030; none: found by itself.")] = None,
    sheet: Annotated[str | None, typer.Option(help="Sheet of a workbook; none: the first.")] = None,
    compare_with: Annotated[
        str | None, typer.Option(help="Id of a test file, whose questions must not stand in this one.")
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Uploads a dataset and shows its report."""
    with talking(url, as_json=as_json) as (client, terminal):
        made = client.upload(path, purpose=purpose, columns=columns, encoding=encoding, sheet=sheet, compare_with=compare_with)
        terminal.result(made, _file_facts(made))


def list_files(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most files.")] = 20,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lists datasets, newest first."""
    with talking(url, as_json=as_json) as (client, terminal):
        files = list(client.pages("/v1/files", most=limit))
        rows = [(one["id"], one["filename"], one["purpose"], (one["report"] or {}).get("rows"), one["bytes"]) for one in files]
        terminal.result({"object": "list", "data": files}, table(("id", "name", "purpose", "rows", "bytes"), rows))


def show(file: Annotated[str, typer.Argument(help="A file's id.")], url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Shows a dataset's report."""
    with talking(url, as_json=as_json) as (client, terminal):
        found = client.get(f"/v1/files/{file}")
        terminal.result(found, _file_facts(found))


def split(
    file: FileArgument,
    part: Annotated[
        list[str], typer.Option("--part", help="NAME=ROWS or NAME=FRACTION; NAME=ROWS@OTHER takes them from the part OTHER.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="The same seed cuts the same file alike.")] = 0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cuts a dataset into parts that keep the shares of categories and have no question in common."""
    parts = [_part(text) for text in part]
    with talking(url, as_json=as_json) as (client, terminal):
        file_id = file_id_of(client, terminal, file, purpose="fine-tune")
        made = client.post(f"/v1/files/{file_id}/splits", {"seed": seed, "parts": parts})
        rows = [(one["name"], one["rows"], one["file"]["id"]) for one in made["data"]]
        terminal.result(made, table(("part", "rows", "file"), rows))


def delete(file: Annotated[str, typer.Argument(help="A file's id.")], url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Deletes a dataset that no unfinished job needs."""
    with talking(url, as_json=as_json) as (client, terminal):
        terminal.result(client.delete(f"/v1/files/{file}"), f"{file} is deleted.")


def _part(text: str) -> dict[str, Any]:
    name, equals, amount = text.partition("=")
    amount, at, within = amount.partition("@")
    part: dict[str, Any] = {"name": name}
    try:
        part |= {"size": int(amount)} if amount.isdecimal() else {"fraction": float(amount)}
    except ValueError:
        equals = ""
    if not (name and equals) or (at and not within):
        raise typer.BadParameter(f"{text!r}: write NAME=ROWS, NAME=FRACTION, or NAME=ROWS@OTHER.", param_hint="--part")
    return part | ({"within": within} if within else {})


def _file_facts(file: dict[str, Any]) -> Any:
    report = file["report"] or {}
    return facts(
        {
            "id": file["id"],
            "name": file["filename"],
            "rows": report.get("rows"),
            "distinct codes": report.get("distinct_codes"),
            "distinct answers": report.get("distinct_answers"),
            "questions that occur again": report.get("duplicate_question_count"),
            "questions with different answers": report.get("conflicting_question_count"),
            "rows that also stand in the other file": (report.get("leak") or {}).get("row_count"),
            "warnings": "\n".join(str(one.get("message")) for one in report.get("warnings", [])[:5]) or None,
        }
    )
