from typing import Any

import httpx2
import pytest

from tests.app.promotions.evaluated import evaluate
from tests.fixtures.api import Api
from tests.fixtures.queue import insert_adapter

ALIAS = "/v1/aliases/telecom@production"
ROWS = 40


@pytest.fixture
def adapters(api: Api) -> tuple[str, str]:
    """The adapter that the alias points to, and another."""
    first, second = insert_adapter(api.engine), insert_adapter(api.engine)
    put(api, to=first)
    return first, second


@pytest.fixture
def file_id(api: Api) -> str:
    return api.file_id(purpose="evals")


def put(api: Api, **fields: Any) -> httpx2.Response:
    return api.client.put(ALIAS, json=fields)


def right(count: int) -> list[bool]:
    return [row < count for row in range(ROWS)]


class TestRefusals:
    def test_an_adapter_that_is_worse_beyond_noise_is_refused_with_the_numbers(
        self, api: Api, adapters: tuple[str, str], file_id: str
    ) -> None:
        first, second = adapters
        ids = [evaluate(api, first, file_id, right(36)), evaluate(api, second, file_id, right(26))]

        response = put(api, to=second, gate={"file": file_id})

        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (409, "worse_than_current", "to")
        gate = error["details"]["gate"]
        assert (gate["rows"], gate["baseline"], gate["candidate"]) == (ROWS, 0.9, 0.65)
        assert (gate["only_this_right"], gate["only_baseline_right"], gate["exact_match_p"]) == (0, 10, 0.001953)
        assert gate["evaluations"] == {"baseline": ids[0], "candidate": ids[1]}
        assert "exact_match 0.650 against 0.900" in error["message"] and "40 rows" in error["message"]
        assert api.client.get(ALIAS).json()["model"] == first

    def test_a_refusal_leaves_no_trace_in_the_history(self, api: Api, adapters: tuple[str, str], file_id: str) -> None:
        first, second = adapters
        evaluate(api, first, file_id, right(36))
        evaluate(api, second, file_id, right(26))
        put(api, to=second, gate={"file": file_id})

        assert len(api.client.get(f"{ALIAS}/history").json()["data"]) == 1

    def test_a_fall_that_chance_explains_is_let_through_and_called_so(
        self, api: Api, adapters: tuple[str, str], file_id: str
    ) -> None:
        first, second = adapters
        evaluate(api, first, file_id, right(36))
        evaluate(api, second, file_id, right(34))

        body = put(api, to=second, gate={"file": file_id}).json()

        assert (body["model"], body["promotion"]["gate"]["verdict"]) == (second, "not distinguishable")

    def test_a_better_adapter_is_let_through_and_the_history_has_the_numbers(
        self, api: Api, adapters: tuple[str, str], file_id: str
    ) -> None:
        first, second = adapters
        evaluate(api, first, file_id, right(20))
        evaluate(api, second, file_id, right(38))
        put(api, to=second, gate={"file": file_id})

        gate = api.client.get(f"{ALIAS}/history").json()["data"][0]["gate"]

        assert (gate["verdict"], gate["rows"], gate["exact_match_difference"]) == ("better", ROWS, 0.45)

    def test_set_f1_can_be_the_judge(self, api: Api, adapters: tuple[str, str], file_id: str) -> None:
        first, second = adapters
        evaluate(api, first, file_id, right(40))
        evaluate(api, second, file_id, right(0))

        gate = put(api, to=second, gate={"file": file_id, "metric": "set_f1"}).json()["error"]["details"]["gate"]

        assert (gate["metric"], gate["baseline"], gate["candidate"]) == ("set_f1", 1.0, 0.5)

    @pytest.mark.parametrize("evaluated", [0, 1])
    def test_an_evaluation_that_is_missing_is_asked_for(
        self, api: Api, adapters: tuple[str, str], file_id: str, evaluated: int
    ) -> None:
        evaluate(api, adapters[evaluated], file_id, right(40))
        missing = adapters[1 - evaluated]

        error = put(api, to=adapters[1], gate={"file": file_id}).json()["error"]

        assert (error["code"], error["param"]) == ("evaluation_missing", "gate.file")
        assert error["details"]["missing"] == {"model": missing, "file": file_id}
        assert "POST /v1/evaluations" in error["message"] and missing in error["message"]

    def test_an_evaluation_that_is_under_way_is_named(self, api: Api, adapters: tuple[str, str], file_id: str) -> None:
        evaluate(api, adapters[0], file_id, right(40))
        running = api.client.post("/v1/evaluations", json={"model": adapters[1], "file": file_id}).json()["id"]

        error = put(api, to=adapters[1], gate={"file": file_id}).json()["error"]

        assert error["details"]["under_way"] == running

    def test_evaluations_without_a_row_in_common_judge_nothing(self, api: Api, adapters: tuple[str, str], file_id: str) -> None:
        evaluate(api, adapters[0], file_id, right(40))
        evaluate(api, adapters[1], file_id, right(40), first_row=100)

        assert put(api, to=adapters[1], gate={"file": file_id}).json()["error"]["code"] == "evaluation_missing"

    def test_the_newest_evaluation_judges(self, api: Api, adapters: tuple[str, str], file_id: str) -> None:
        evaluate(api, adapters[0], file_id, right(40))
        evaluate(api, adapters[1], file_id, right(0))
        evaluate(api, adapters[1], file_id, right(40))

        assert put(api, to=adapters[1], gate={"file": file_id}).status_code == 200

    def test_an_evaluation_that_chose_its_answers_otherwise_judges_nothing(
        self, api: Api, adapters: tuple[str, str], file_id: str
    ) -> None:
        evaluate(api, adapters[0], file_id, right(40))
        evaluate(api, adapters[1], file_id, right(40), decide_by="set")

        assert put(api, to=adapters[1], gate={"file": file_id}).json()["error"]["code"] == "evaluation_missing"


class TestDeletingWhatJudges:
    def test_the_newest_evaluation_of_a_gates_adapter_is_not_deleted_but_an_older_one_is(
        self, api: Api, adapters: tuple[str, str], file_id: str
    ) -> None:
        older, newest = evaluate(api, adapters[0], file_id, right(30)), evaluate(api, adapters[0], file_id, right(36))
        put(api, to=adapters[0], gate={"file": file_id})

        refused = api.client.delete(f"/v1/evaluations/{newest}")

        assert refused.status_code == 409
        assert "the gate of alias 'telecom@production'" in refused.json()["error"]["message"]
        assert api.client.delete(f"/v1/evaluations/{older}").status_code == 200

    def test_that_of_a_candidate_is_not_deleted_either(self, api: Api, adapters: tuple[str, str], file_id: str) -> None:
        evaluate(api, adapters[0], file_id, right(36))
        tried = evaluate(api, adapters[1], file_id, right(36))
        put(api, to=adapters[0], gate={"file": file_id})
        put(api, candidate={"model": adapters[1], "percent": 10})

        assert api.client.delete(f"/v1/evaluations/{tried}").status_code == 409
        api.client.delete(f"{ALIAS}/candidate")
        assert api.client.delete(f"/v1/evaluations/{tried}").status_code == 200

    def test_on_another_file_or_without_a_gate_it_is_deleted(self, api: Api, adapters: tuple[str, str], file_id: str) -> None:
        put(api, to=adapters[0], gate={"file": file_id})
        elsewhere = evaluate(api, adapters[0], api.file_id(purpose="evals"), right(36))
        of_another = evaluate(api, adapters[1], file_id, right(36))

        assert api.client.delete(f"/v1/evaluations/{elsewhere}").status_code == 200
        assert api.client.delete(f"/v1/evaluations/{of_another}").status_code == 200

    def test_the_history_keeps_the_numbers_of_an_evaluation_that_is_gone(
        self, api: Api, adapters: tuple[str, str], file_id: str
    ) -> None:
        before = evaluate(api, adapters[0], file_id, right(20))
        evaluate(api, adapters[1], file_id, right(38))
        put(api, to=adapters[1], gate={"file": file_id})

        assert api.client.delete(f"/v1/evaluations/{before}").status_code == 200
        assert api.client.get(f"{ALIAS}/history").json()["data"][0]["gate"]["baseline"] == 0.5


class TestForce:
    def test_a_worse_adapter_is_forced_with_a_reason_and_the_history_says_so(
        self, api: Api, adapters: tuple[str, str], file_id: str
    ) -> None:
        evaluate(api, adapters[0], file_id, right(36))
        evaluate(api, adapters[1], file_id, right(10))

        assert put(api, to=adapters[1], gate={"file": file_id}, force=True, reason="new products").status_code == 200

        move = api.client.get(f"{ALIAS}/history").json()["data"][0]
        assert (move["forced"], move["reason"], move["gate"]["verdict"]) == (True, "new products", "worse")

    @pytest.mark.parametrize("fields", [{}, {"reason": " "}])
    def test_force_without_a_reason_is_refused(self, api: Api, adapters: tuple[str, str], fields: dict[str, str]) -> None:
        response = put(api, to=adapters[1], force=True, **fields)

        assert (response.status_code, response.json()["error"]["param"]) == (400, "reason")

    def test_force_needs_no_evaluation(self, api: Api, adapters: tuple[str, str], file_id: str) -> None:
        body = put(api, to=adapters[1], gate={"file": file_id}, force=True, reason="fire").json()

        assert body["promotion"]["gate"]["verdict"] == "not judged"


class TestTheKeptGate:
    def test_a_gate_is_kept_and_judges_the_next_promotion_too(self, api: Api, adapters: tuple[str, str], file_id: str) -> None:
        evaluate(api, adapters[0], file_id, right(36))
        evaluate(api, adapters[1], file_id, right(10))
        put(api, to=adapters[0], gate={"file": file_id})

        assert api.client.get(ALIAS).json()["gate"] == {"file": file_id, "metric": "exact_match"}
        assert put(api, to=adapters[1]).json()["error"]["code"] == "worse_than_current"

    def test_the_way_back_passes_no_gate(self, api: Api, adapters: tuple[str, str], file_id: str) -> None:
        evaluate(api, adapters[0], file_id, right(10))
        evaluate(api, adapters[1], file_id, right(36))
        put(api, to=adapters[1], gate={"file": file_id})

        body = put(api, to="previous").json()

        assert (body["model"], body["promotion"]["gate"], body["gate"]["file"]) == (adapters[0], None, file_id)

    def test_a_gate_is_taken_away_only_by_force(self, api: Api, adapters: tuple[str, str], file_id: str) -> None:
        put(api, to=adapters[0], gate={"file": file_id})

        assert put(api, to=adapters[1], gate="none").json()["error"]["param"] == "gate"
        assert put(api, to=adapters[1], gate="none", force=True, reason="another file").json()["gate"] is None

    def test_the_first_adapter_of_an_alias_has_nothing_to_be_worse_than(self, api: Api, file_id: str) -> None:
        body = put(api, to=insert_adapter(api.engine), gate={"file": file_id}).json()

        assert body["promotion"]["gate"]["verdict"] == "no baseline"

    def test_a_gate_without_a_promotion_is_refused(self, api: Api, adapters: tuple[str, str], file_id: str) -> None:
        response = put(api, gate={"file": file_id}, candidate={"model": adapters[1], "percent": 5})

        assert (response.status_code, response.json()["error"]["param"]) == (400, "gate")


def test_an_alias_that_moves_while_its_promotion_is_judged_is_409(
    api: Api, adapters: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.adapters import aliases
    from app.db.unit_of_work import unit_of_work

    third = insert_adapter(api.engine)
    answers = api.app.state.answers
    rehearse = answers.rehearse

    async def somebody_is_faster(**adapter: str) -> None:
        await rehearse(**adapter)
        with unit_of_work(api.engine) as session:
            aliases.point(session, "telecom@production", aliases.Move(adapters[0], third, None), aliases.Author())

    monkeypatch.setattr(answers, "rehearse", somebody_is_faster)

    response = put(api, to=adapters[1])

    assert (response.status_code, response.json()["error"]["code"]) == (409, "alias_moved")
    assert api.client.get(ALIAS).json()["model"] == third
