from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.jobs.leases import Lease
from tests.app.cli.terminal import Dianda, dialect, evaluate, fail, worker
from tests.fixtures.api import BASE, Api, alpaca, serving
from tests.fixtures.queue import insert_adapter

__all__ = ["dialect"]


@pytest.fixture
def dianda(api: Api) -> Iterator[Dianda]:
    with serving(api.app) as url:
        yield Dianda(url)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "test.json"
    path.write_bytes(alpaca())
    return str(path)


@pytest.fixture
def answering(api: Api) -> Callable[[Lease], None]:
    """telecom:1 gets 36 of 40 rows right, telecom:2 gets 20, the base model none."""
    insert_adapter(api.engine)
    insert_adapter(api.engine)
    return lambda lease: evaluate(api, lease, {"telecom:1": 36, "telecom:2": 20, None: 0})


class TestEvaluating:
    def test_metrics_are_shown_with_intervals_and_wrong_rows(
        self, api: Api, dianda: Dianda, rows: str, answering: Callable[[Lease], None]
    ) -> None:
        with worker(api, answering):
            ran = dianda("evaluate", "telecom:1", rows)

        assert ran.code == 0, ran.err
        assert "0.900  (0.100 to 0.900)" in ran.out
        assert "[第37问]怎么取消" in ran.out and "取消方式_2" in ran.out and "[第36问]" not in ran.out

    def test_as_json_it_is_the_evaluation(self, api: Api, dianda: Dianda, rows: str, answering: Callable[[Lease], None]) -> None:
        with worker(api, answering):
            done = dianda("evaluate", "telecom:1", rows, "--json").json

        assert (done["object"], done["status"], done["metrics"]["exact_match"]) == ("evaluation", "succeeded", 0.9)

    def test_how_answers_are_chosen_can_be_asked_for(self, api: Api, dianda: Dianda, rows: str) -> None:
        posted = dianda("evaluate", BASE, rows, "--decide-by", "set", "--detach", "--json").json

        assert posted["decide_by"] == "set"

    def test_one_that_fails_ends_with_4(self, api: Api, dianda: Dianda, rows: str) -> None:
        with worker(api, lambda lease: fail(api, lease)):
            assert dianda("evaluate", BASE, rows).code == 4


class TestComparing:
    def test_an_evaluation_that_chose_its_answers_otherwise_is_not_used(
        self, api: Api, dianda: Dianda, rows: str, answering: Callable[[Lease], None]
    ) -> None:
        with worker(api, answering):
            other = dianda("evaluate", "telecom:1", rows, "--decide-by", "set", "--json").json
            compared = dianda("compare", "telecom:1", "telecom:2", "--file", rows, "--json").json

        assert other["id"] not in {one["evaluation"] for one in compared["models"]}

    def test_the_difference_and_what_chance_says_of_it_are_shown(
        self, api: Api, dianda: Dianda, rows: str, answering: Callable[[Lease], None]
    ) -> None:
        with worker(api, answering):
            ran = dianda("compare", "telecom:1", "telecom:2", "--file", rows)

        assert ran.code == 0, ran.err
        assert "-40.0 points" in ran.out and "0 won, 16 lost" in ran.out and "worse" in ran.out
        assert "[第21问]怎么取消" in ran.out

    def test_as_json_the_numbers_are_there(self, api: Api, dianda: Dianda, rows: str, answering: Callable[[Lease], None]) -> None:
        with worker(api, answering):
            compared = dianda("compare", BASE, "telecom:1", "telecom:2", "--file", rows, "--json").json

        assert compared["rows"] == 40
        assert [(one["model"], one["baseline"], one["verdict"]) for one in compared["comparisons"]] == [
            ("telecom:1", BASE, "better"),
            ("telecom:2", BASE, "better"),
        ]

    def test_evaluations_that_are_there_are_used_again(
        self, api: Api, dianda: Dianda, rows: str, answering: Callable[[Lease], None]
    ) -> None:
        with worker(api, answering):
            dianda("evaluate", "telecom:1", rows)
            for _ in range(2):
                dianda("compare", "telecom:1", "telecom:2", "--file", rows)

        assert len(api.client.get("/v1/evaluations").json()["data"]) == 2

    def test_an_alias_is_compared_as_what_it_stands_for_now(
        self, api: Api, dianda: Dianda, rows: str, answering: Callable[[Lease], None]
    ) -> None:
        api.client.put("/v1/aliases/telecom@production", json={"to": "telecom:1"})
        with worker(api, answering):
            dianda("compare", "telecom@production", BASE, "--file", rows)
            api.client.put("/v1/aliases/telecom@production", json={"to": "telecom:2"})
            compared = dianda("compare", "telecom@production", BASE, "--file", rows, "--json").json

        assert compared["models"][0]["adapter"] == "telecom:2"

    def test_one_model_is_no_comparison(self, api: Api, dianda: Dianda, rows: str) -> None:
        assert dianda("compare", "telecom:1", "--file", rows).code == 2
