"""A file of results as Markdown tables: means over seeds, with a bootstrap over rows."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from bench.quality.scoring import difference, mean_over_seeds

Results = Sequence[Mapping[str, Any]]


def tables(results: Results, *, mode: str) -> str:
    """Returns one table a data set and part, and for CLINC150 one of its scope."""
    blocks = []
    of_mode = [result for result in results if result["mode"] == mode]
    for data_set in _in_order(result["data_set"] for result in of_mode):
        mine = [result for result in of_mode if result["data_set"] == data_set]
        for part in _in_order(name for result in mine for name in result["parts"]):
            blocks.append(_part_table(data_set, part, [result for result in mine if part in result["parts"]]))
        if scope := [result for result in mine if result.get("scope")]:
            blocks.append(_scope_table(data_set, scope))
    return "\n".join(blocks)


def _part_table(data_set: str, part: str, results: Results) -> str:
    rows = results[0]["parts"][part]["rows"]
    lines = [
        f"### {data_set}, {part}: {rows} rows",
        "",
        "| contestant | seeds | exact match | 95 % | over the first | set F1 | micro F1 | known codes | unseen code "
        "| ECE | band | NLL | Brier | accuracy at 90 % | seconds |",
        "| --- " * 15 + "|",
    ]
    first: list[str] = []
    for variant in _in_order(result["variant"] for result in results):
        runs = [result for result in results if result["variant"] == variant]
        parts = [run["parts"][part] for run in runs]
        rights = [one["right"] for one in parts]
        mean, (low, high) = mean_over_seeds(rights)
        over = ""
        if first:
            gain, (least, most) = difference(rights, first)
            over = f"{gain:+.3f} ({least:+.3f} to {most:+.3f})"
        first = first or rights
        known = [one.get("by_codes", {}).get("seen", {}).get("exact_match") for one in parts]
        unseen = [one.get("by_codes", {}).get("unseen", {}).get("exact_match") for one in parts]
        lines.append(
            f"| {variant} | {len(runs)} | {mean:.3f} | {low:.3f} to {high:.3f} | {over} | {_mean(parts, 'set_f1')} "
            f"| {_mean(parts, 'micro_f1')} | {_shown(known)} | {_shown(unseen)} | {_mean(parts, 'ece')} | {_band(parts)} "
            f"| {_mean(parts, 'nll')} | {_mean(parts, 'brier')} | {_mean(parts, 'accuracy_at_90')} "
            f"| {fmean(run['seconds']['job'] for run in runs):.0f} |"
        )
    return "\n".join([*lines, ""])


def _scope_table(data_set: str, results: Results) -> str:
    lines = [
        f"### {data_set}: out of scope",
        "",
        "| contestant | part | seeds | in-scope accuracy at the threshold | out-of-scope recall there | without: in scope "
        "| out of scope |",
        "| --- " * 7 + "|",
    ]
    for variant in _in_order(result["variant"] for result in results):
        runs = [result["scope"] for result in results if result["variant"] == variant]
        for part in runs[0]:
            found = [run[part] for run in runs]
            cells = [
                _mean(found, name)
                for name in (
                    "in_scope_accuracy",
                    "out_of_scope_recall",
                    "in_scope_accuracy_without",
                    "out_of_scope_recall_without",
                )
            ]
            lines.append(f"| {variant} | {part} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _mean(parts: Sequence[Mapping[str, Any]], name: str) -> str:
    return _shown([part.get(name) for part in parts])


def _shown(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.3f}" if known else ""


def _band(parts: Sequence[Mapping[str, Any]]) -> str:
    bands = [part["ece_band"] for part in parts if part.get("ece_band")]
    return f"{fmean(low for low, _ in bands):.3f} to {fmean(high for _, high in bands):.3f}" if bands else ""
