"""`dianda evaluate` and `dianda compare`: models on the same rows, with what chance would explain."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from app.cli.client import ApiClient, ApiError
from app.cli.files import FileArgument, file_id_of
from app.cli.terminal import JsonOption, Terminal, UrlOption, table, talking
from app.cli.waiting import ENDED, wait_for_success
from app.ml.paired import PairedComparison, compare_paired, holm_adjusted, verdict_of

_RECENT_EVALUATIONS = 500
_HEADLINE = ("exact_match", "ordered_match", "set_f1", "micro_f1", "invalid_rate", "fallback_rate", "ece")
MaxRowsOption = Annotated[int | None, typer.Option(min=1, help="Take only the first rows of the file.")]


def evaluate(
    model: Annotated[str, typer.Argument(help="Base model, adapter, alias or checkpoint (ftckpt-…).")],
    file: FileArgument,
    max_rows: MaxRowsOption = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Hand over below this confidence.")] = None,
    precision: Annotated[float | None, typer.Option(help="Wished share of right answers among those not handed over.")] = None,
    decide_by: Annotated[
        str | None, typer.Option(help="What is best among the beam's answers: answer, set or expected_f1.")
    ] = None,
    wrong: Annotated[int, typer.Option(min=0, max=1000, help="Show so many wrong rows.")] = 5,
    detach: Annotated[bool, typer.Option("--detach", help="Queue the evaluation and return at once.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answers a file's questions with a model and holds the answers against the file's."""
    with talking(url, as_json=as_json) as (client, terminal):
        asked = {"max_rows": max_rows, "threshold": threshold, "precision": precision, "decide_by": decide_by}
        body = {"model": model, "file": file_id_of(client, terminal, file, purpose="evals")}
        posted = client.post("/v1/evaluations", {**body, **{name: value for name, value in asked.items() if value is not None}})
        if detach:
            terminal.result(posted, posted["id"])
            return
        done = wait_for_evaluation(client, terminal, posted)
        shown: list[Any] = [_metrics_table([done])]
        if not as_json:
            shown += _wrong_rows(client, done, wrong)
        terminal.result(done, *shown)


def compare(
    models: Annotated[list[str], typer.Argument(help="Two models or more; the others are held against the first.")],
    file: Annotated[str, typer.Option("--file", help="Test file: a path to upload, a name or an id.")],
    max_rows: MaxRowsOption = None,
    differing: Annotated[int, typer.Option(min=0, max=1000, help="Show so many rows that not all got alike.")] = 5,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compares models on the same rows: metrics with intervals, and whether chance explains the difference.

    Evaluations that are there are used; those that are missing are posted and waited for.
    """
    if len(models) < 2 or len(set(models)) < len(models):
        raise typer.BadParameter("Name two models or more, each once.")
    with talking(url, as_json=as_json) as (client, terminal):
        file_id = file_id_of(client, terminal, file, purpose="evals")
        found = [_evaluation_of(client, terminal, model, file_id, max_rows) for model in models]
        rows = [_rows_of(client, evaluation["id"]) for evaluation in found]
        shared = sorted(set.intersection(*(set(one) for one in rows)))
        if not shared:
            raise ApiError("The evaluations have no row in common. Compare again with the same --max-rows.")
        compared = [_compare(rows[0], other, shared) for other in rows[1:]]
        adjusted = holm_adjusted([one.exact_match_p for one in compared])
        comparisons = [
            {"model": model, "baseline": models[0], **asdict(one), "exact_match_p_adjusted": p, "verdict": verdict_of(one, p)}
            for model, one, p in zip(models[1:], compared, adjusted, strict=True)
        ]
        evaluated = [
            {"model": model, "adapter": one["adapter"], "evaluation": one["id"], "metrics": one["metrics"]}
            for model, one in zip(models, found, strict=True)
        ]
        terminal.result(
            {"object": "comparison", "file": file_id, "rows": len(shared), "models": evaluated, "comparisons": comparisons},
            _metrics_table(found),
            comparison_table(models[0], list(zip(models[1:], comparisons, strict=True))),
            *_differing_rows(models, rows, shared, differing),
        )


def wait_for_evaluation(client: ApiClient, terminal: Terminal, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Shows an evaluation's progress until it has its metrics, and returns it; Ctrl-C leaves it running.

    Raises:
        WorkFailed: it ended without.
    """
    path = f"/v1/evaluations/{evaluation['id']}"
    if evaluation["status"] == "succeeded":
        return evaluation
    try:
        return wait_for_success(terminal.notes, f"Evaluating {evaluation['model']}", lambda: client.get(path))
    except KeyboardInterrupt:
        raise ApiError(f"{evaluation['id']} goes on. Look at it with GET {path}, or run the command again later.") from None


def _evaluation_of(client: ApiClient, terminal: Terminal, model: str, file_id: str, max_rows: int | None) -> dict[str, Any]:
    # An alias is what it stands for now: an evaluation of what it stood for last week is none of it.
    named = model if model.startswith("ftckpt-") else str(client.get(f"/v1/models/{model}")["id"])
    for one in client.pages("/v1/evaluations", most=_RECENT_EVALUATIONS):
        name = one["checkpoint"] or one["adapter"] or one["base_model"]
        # One that chose its answers otherwise would tell of the choice as much as of the model.
        is_usable = one["decide_by"] == "answer" and (one["status"] == "succeeded" or one["status"] not in ENDED)
        if is_usable and (name, one["file"], one["max_rows"]) == (named, file_id, max_rows):
            return wait_for_evaluation(client, terminal, one)
    body = {"model": named, "file": file_id, **({} if max_rows is None else {"max_rows": max_rows})}
    return wait_for_evaluation(client, terminal, client.post("/v1/evaluations", body))


def _rows_of(client: ApiClient, evaluation_id: str) -> dict[int, dict[str, Any]]:
    return {row["row"]: row for row in client.pages(f"/v1/evaluations/{evaluation_id}/rows", limit=1000, most=10_000_000)}


def _compare(baseline: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]], shared: list[int]) -> PairedComparison:
    sides = [[(bool(rows[row]["match"]), float(rows[row]["set_f1"])) for row in shared] for rows in (baseline, other)]
    return compare_paired(sides[0], sides[1])


def _metrics_table(evaluations: list[dict[str, Any]]) -> Table:
    lines: list[tuple[str, ...]] = [("rows", *(str(one["metrics"]["rows"]) for one in evaluations))]
    for name in _HEADLINE:
        if any(one["metrics"].get(name) is not None for one in evaluations):
            lines.append(
                (name, *(with_interval(one["metrics"], one["metrics"].get("intervals") or {}, name) for one in evaluations))
            )
    return table(("", *(one["adapter"] or one["model"] for one in evaluations)), lines)


def with_interval(metrics: Mapping[str, Any], intervals: Mapping[str, Any], name: str) -> str:
    """Returns a metric with its interval, as far as there are any."""
    value, interval = metrics.get(name), intervals.get(name)
    if value is None:
        return ""
    return f"{value:.3f}" + (f"  ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def comparison_table(baseline: str, comparisons: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """Returns a line for each name and its numbers against the baseline."""
    rows = []
    for name, one in comparisons:
        low, high = one["set_f1_interval"]
        rows.append(
            (
                name,
                f"{100 * one['exact_match_difference']:+.1f} points",
                f"{one['only_this_right']} won, {one['only_baseline_right']} lost of {one['rows']}",
                f"{one['exact_match_p_adjusted']:.3g}",
                one["verdict"],
                f"{100 * one['set_f1_difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
            )
        )
    return table(("", "exact match", "rows", "p", "verdict", "set F1, points"), rows, title=f"Against {baseline}")


def _differing_rows(models: list[str], rows: list[dict[int, dict[str, Any]]], shared: list[int], most: int) -> list[Table]:
    places = [place for place in shared if len({one[place]["match"] for one in rows}) > 1][:most]
    if not places:
        return []
    first = rows[0]
    lines = [
        (first[place]["question"], "|".join(first[place]["expected"]), *("|".join(one[place]["given"]) for one in rows))
        for place in places
    ]
    return [table(("question", "expected", *models), lines, title="Rows that not all got right")]


def _wrong_rows(client: ApiClient, evaluation: dict[str, Any], most: int) -> list[Table]:
    shown = []
    if confusions := (evaluation["metrics"].get("confusions") or [])[:5]:
        pairs = [(one["expected"] or "—", one["given"] or "—", one["rows"]) for one in confusions]
        shown.append(table(("expected", "given", "rows"), pairs, title="Most frequent confusions"))
    if most:
        path = f"/v1/evaluations/{evaluation['id']}/rows"
        wrong = list(client.pages(path, limit=most, most=most, wrong="true"))
        rows = [
            (row["row"], row["question"], "|".join(row["expected"]), "|".join(row["given"]), f"{row['confidence']:.2f}")
            for row in wrong
        ]
        if rows:
            shown.append(table(("row", "question", "expected", "given", "confidence"), rows, title="Wrong rows"))
    return shown
