"""What a load run is told as: a row a kind of request."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.load.driver import Visit


def by_kind(visits: Sequence[Visit]) -> dict[str, dict[str, Any]]:
    """Returns counts and times of each kind of request; times are of those that succeeded."""
    told = {}
    for kind in dict.fromkeys(visit.kind for visit in sorted(visits, key=lambda visit: visit.due_s)):
        of_kind = [visit for visit in visits if visit.kind == kind]
        times = [visit.ms for visit in of_kind if visit.error is None]
        told[kind] = {
            "requests": len(of_kind),
            "errors": sum(visit.error is not None and not visit.was_refused for visit in of_kind),
            "refused_connections": sum(visit.was_refused for visit in of_kind),
            **{f"p{share}_ms": round(float(np.percentile(times, share)), 1) if times else None for share in (50, 99, 100)},
        }
    return told


def first_errors(visits: Sequence[Visit], most: int = 5) -> list[str]:
    """Returns the commonest errors, with their counts and when the first came."""
    first = {}
    for visit in sorted(visits, key=lambda visit: visit.due_s):
        if visit.error is not None:
            first.setdefault((visit.kind, visit.error), visit.due_s)
    counts = Counter((visit.kind, visit.error) for visit in visits if visit.error is not None)
    return [f"{count} x {kind}: {error} (first at {first[kind, error]} s)" for (kind, error), count in counts.most_common(most)]


def kind_table(told: dict[str, dict[str, Any]]) -> list[str]:
    """Returns Markdown lines."""
    lines = ["| kind | requests | errors | refused | p50 | p99 | longest |", "| --- | --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| {kind} | {row['requests']} | {row['errors']} | {row['refused_connections']} "
        f"| {row['p50_ms']} ms | {row['p99_ms']} ms | {row['p100_ms']} ms |"
        for kind, row in told.items()
    ]
    return lines
