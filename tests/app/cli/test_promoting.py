from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.cli.terminal import Dianda, dialect, evaluate, worker
from tests.fixtures.api import Api, alpaca, serving
from tests.fixtures.queue import insert_adapter

__all__ = ["dialect"]
ALIAS = "telecom@production"


@pytest.fixture
def dianda(api: Api) -> Iterator[Dianda]:
    insert_adapter(api.engine)
    insert_adapter(api.engine)
    with serving(api.app) as url:
        yield Dianda(url)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "test.json"
    path.write_bytes(alpaca())
    return str(path)


def test_a_promotion_is_shown_and_kept_with_who_did_it(api: Api, dianda: Dianda) -> None:
    ran = dianda("promote", ALIAS, "telecom:1", "--by", "li.wei", "--reason", "first")

    assert ran.code == 0 and "telecom:1" in ran.out
    (move,) = api.client.get(f"/v1/aliases/{ALIAS}/history").json()["data"]
    assert (move["by"], move["reason"]) == ("li.wei", "first")


def test_the_gates_evaluations_are_posted_and_waited_for(api: Api, dianda: Dianda, rows: str) -> None:
    dianda("promote", ALIAS, "telecom:1")
    with worker(api, lambda lease: evaluate(api, lease, {"telecom:1": 20, "telecom:2": 36})):
        ran = dianda("promote", ALIAS, "telecom:2", "--gate", rows, "--evaluate")

    assert ran.code == 0, ran.err
    assert "better: exact_match 0.900 against 0.500 on 40 rows" in ran.out


def test_a_gate_without_its_evaluations_says_how_to_get_them(api: Api, dianda: Dianda, rows: str) -> None:
    dianda("promote", ALIAS, "telecom:1")

    ran = dianda("promote", ALIAS, "telecom:2", "--gate", rows)

    assert ran.code == 1 and "--evaluate" in ran.err


def test_a_worse_adapter_is_refused_with_the_numbers(api: Api, dianda: Dianda, rows: str) -> None:
    dianda("promote", ALIAS, "telecom:1")
    with worker(api, lambda lease: evaluate(api, lease, {"telecom:1": 36, "telecom:2": 20})):
        ran = dianda("promote", ALIAS, "telecom:2", "--gate", rows, "--evaluate", "--json")

    assert (ran.code, ran.lines[-1]["error"]["code"]) == (1, "worse_than_current")
    assert ran.lines[-1]["error"]["details"]["gate"]["only_baseline_right"] == 16


def test_a_candidate_is_tried_out_reported_and_ended(api: Api, dianda: Dianda) -> None:
    dianda("promote", ALIAS, "telecom:1")

    assert "telecom:2: share, 10 %" in dianda("promote", ALIAS, "--candidate", "telecom:2", "--percent", "10").out
    assert "tries out telecom:2" in dianda("aliases", "trial", ALIAS).out
    assert dianda("aliases", "end-trial", ALIAS, "--json").json["candidate"] is None


def test_aliases_are_listed_and_their_history_is_told(api: Api, dianda: Dianda) -> None:
    dianda("promote", ALIAS, "telecom:1")
    dianda("promote", ALIAS, "telecom:2", "--reason", "[new] data")
    dianda("promote", ALIAS, "previous")

    assert "telecom:1" in dianda("aliases", "list").out
    history = dianda("aliases", "history", ALIAS)
    assert "[new] data" in history.out
    assert [move["to_model"] for move in dianda("aliases", "history", ALIAS, "--json").json["data"]] == [
        "telecom:1",
        "telecom:2",
        "telecom:1",
    ]


def test_a_deleted_alias_is_gone(api: Api, dianda: Dianda) -> None:
    dianda("promote", ALIAS, "telecom:1")

    assert dianda("aliases", "delete", ALIAS).code == 0
    assert api.client.get(f"/v1/aliases/{ALIAS}").status_code == 404
