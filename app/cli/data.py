"""`dianda data check`: looks at a dataset file where it lies; needs no running product."""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.datasets.upload_options import UploadOptions
from app.errors import AppError
from app.ml.formats.reading import iterate_examples
from app.ml.formats.report import RARE_CODE_ROWS, DatasetReport, check_dataset

data_cli = typer.Typer(no_args_is_help=True, help="Dataset files: Alpaca JSON, JSONL, chat JSONL, CSV, TSV, XLSX.")
_MOST_ROWS = 15


@data_cli.callback()
def data() -> None:
    """Looks at dataset files where they lie (check), and works with those that were uploaded."""


@data_cli.command()
def check(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The file, as it would be uploaded.")],
    compare_with: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A test file, whose questions must not stand in this one.")
    ] = None,
    columns: Annotated[str | None, typer.Option(help='JSON: {"question": "…", "answer": "…"}.')] = None,
    dataset_info: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="LLaMA-Factory's dataset_info.json.")
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="For example gb18030; none: found by itself.")] = None,
    sheet: Annotated[str | None, typer.Option(help="Sheet of a workbook; none: the first.")] = None,
    rare_code_rows: Annotated[int, typer.Option(min=1, help="Codes seen in fewer rows are listed as rare.")] = RARE_CODE_ROWS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Reports what an upload would report. Exit code 1: the file cannot be used as it is."""
    console = Console(highlight=False)
    try:
        options = UploadOptions.of_form(
            filename=path.name,
            columns=columns,
            dataset_info=None if dataset_info is None else dataset_info.read_text(encoding="utf-8-sig"),
            encoding=encoding,
            sheet=sheet,
        )
        with tempfile.TemporaryDirectory() as scratch:
            others = None
            if compare_with is not None:
                rows = Path(scratch) / "others"
                check_dataset(compare_with, rows_to=rows)
                others = iterate_examples(rows)
            report = check_dataset(path, options.read, compare_with=others, rare_code_rows=rare_code_rows)
    except AppError as error:
        if as_json:
            print(
                json.dumps(
                    {"is_check_passed": False, "error": {"code": error.code, "message": error.message}}, ensure_ascii=False
                )
            )
        else:
            console.print(f"[red]{error.message}[/red]")
        raise typer.Exit(1) from error
    if as_json:
        print(json.dumps(report.to_mapping(), ensure_ascii=False, indent=1))
    else:
        _show(console, path, report)
    if not report.is_check_passed:
        raise typer.Exit(1)


def _show(console: Console, path: Path, report: DatasetReport) -> None:
    verdict = "[green]can be used[/green]" if report.is_check_passed else "[red]cannot be used as it is[/red]"
    console.print(f"[bold]{path.name}[/bold] {verdict}")
    facts = Table("", "", show_header=False)
    encoding = f", {report.encoding}" if report.encoding else ""
    for name, value in (
        ("format", f"{report.format}{encoding}"),
        ("rows", report.rows),
        ("rows with errors", report.error_count),
        ("distinct codes", report.distinct_codes),
        ("distinct answers", report.distinct_answers),
        ("most codes in an answer", report.codes_per_answer_max),
        (f"codes in fewer than {report.rare_code_rows} rows", report.rare_code_count),
        ("questions that occur again", report.duplicate_question_count),
        ("questions with different answers", report.conflicting_question_count),
        ("longest question, characters", report.question_chars_max),
    ):
        facts.add_row(name, str(value))
    if report.leak is not None:
        facts.add_row("rows whose question is in the other file", str(report.leak["row_count"]))
    console.print(facts)
    _show_list(console, "Errors", report.errors, ("row", "field", "reason"), report.error_count)
    _show_list(console, "Warnings", report.warnings, ("code", "message", "count"), len(report.warnings))
    categories = Table("category", "rows", title="Categories")
    for category, count in list(report.categories.items())[:_MOST_ROWS]:
        categories.add_row(category, str(count))
    console.print(categories)


def _show_list(console: Console, title: str, rows: list[dict[str, Any]], columns: tuple[str, ...], total: int) -> None:
    if not rows:
        return
    table = Table(*columns, title=f"{title} ({total})")
    for row in rows[:_MOST_ROWS]:
        table.add_row(*("" if row.get(column) is None else str(row[column]) for column in columns))
    console.print(table)
