"""The load benchmark: its schedule, its counts, its slopes."""

from itertools import takewhile

import pytest

from bench.load.driver import RATES, Visit, schedule
from bench.load.memory import growth, growth_table
from bench.load.report import by_kind, first_errors, kind_table
from bench.load.visits import KINDS


def test_every_kind_of_visit_has_a_rate() -> None:
    assert set(RATES) == set(KINDS)


def test_requests_are_due_at_their_rate_and_in_order() -> None:
    due = list(takewhile(lambda visit: visit[0] < 10, schedule({"answer": 2, "page": 0.5})))

    assert [moment for moment, _ in due] == sorted(moment for moment, _ in due)
    assert [kind for _, kind in due].count("answer") == 20
    assert [moment for moment, kind in due if kind == "page"] == [1, 3, 5, 7, 9]


def test_errors_and_refused_connections_are_told_apart_and_have_no_part_in_the_times() -> None:
    visits = [
        Visit("answer", 0.1, 10.0, None),
        Visit("answer", 0.2, 30.0, None),
        Visit("answer", 0.3, 9000.0, "503 busy"),
        Visit("answer", 0.4, 1.0, "ClientConnectorError", was_refused=True),
    ]

    told = by_kind(visits)

    assert told["answer"] == {
        "requests": 4,
        "errors": 1,
        "refused_connections": 1,
        "p50_ms": 20.0,
        "p99_ms": 29.8,
        "p100_ms": 30.0,
    }
    assert first_errors(visits)[0] == "1 x answer: 503 busy (first at 0.3 s)"
    assert len(kind_table(told)) == 3


def test_a_kind_that_never_succeeded_has_no_times() -> None:
    assert by_kind([Visit("job", 0.1, 5.0, "500")])["job"]["p99_ms"] is None


def test_the_slope_is_of_what_comes_after_the_warm_up() -> None:
    # 100 MiB at once while warming up, then 36 MiB an hour.
    samples = [(float(second), (100.0 if second >= 50 else 0.0) + second * 0.01) for second in range(1000)]

    found = growth("api", samples)

    assert found.slope_mib_per_hour == pytest.approx(36.0)
    assert (found.seconds, found.first_mib) == (999.0, 102.0)
    assert len(growth_table([found])) == 3
