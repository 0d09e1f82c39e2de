from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.answers.backend import AnswererUnavailable, AnswerRequest, AnswerResult, Candidate, ConfidentCode, Overloaded
from app.answers.backends.answerer import RefusedByAnswerer
from app.answers.backends.scripted import ScriptedBackend
from app.errors import AppError, Internal
from tests.fixtures.api import BASE, QUESTION, Api, running_api
from tests.fixtures.db import Databases
from tests.fixtures.queue import insert_adapter


class FixedBackend(ScriptedBackend):
    """Gives one result, or raises one error, whatever is asked."""

    def __init__(self, outcome: AnswerResult | AppError) -> None:
        super().__init__({})
        self.outcome = outcome

    async def answer(self, request: AnswerRequest) -> list[AnswerResult]:
        if isinstance(self.outcome, AppError):
            raise self.outcome
        return [self.outcome for _ in request.questions]


@pytest.fixture
def swap_backend(api: Api) -> Iterator[Any]:
    """Yields a function that puts another answer backend into the running API for one test."""
    answers = api.app.state.answers
    before = answers._backend

    def swap(outcome: AnswerResult | AppError) -> None:
        answers._backend = FixedBackend(outcome)

    yield swap
    answers._backend = before


def ask(api: Api, question: str = QUESTION, **fields: Any) -> Any:
    return api.client.post("/answer", json={"question": question, **fields})


def chat(api: Api, *messages: tuple[str, str], **fields: Any) -> Any:
    body = {"model": BASE, "messages": [{"role": role, "content": content} for role, content in messages], **fields}
    return api.client.post("/v1/chat/completions", json=body)


class TestOneQuestion:
    def test_an_answer_has_its_codes_with_category_and_confidence(self, api: Api) -> None:
        body = ask(api).json()

        assert body["object"] == "answer" and body["id"].startswith("ans-")
        assert body["answer"] == "取消方式_12|9.9"
        assert body["codes"] == [
            {"code": "取消方式_12", "category": "取消方式", "text": None, "confidence": 0.9, "in_vocabulary": True},
            {"code": "9.9", "category": "value", "text": None, "confidence": 0.9, "in_vocabulary": True},
        ]
        assert body["confidence"] == 0.81
        assert body["fallback"] == {"triggered": False, "reason": None}
        assert (body["model"], body["adapter"], body["alternatives"]) == (BASE, None, [])
        assert body["latency_ms"] >= 0

    def test_a_confidence_below_the_threshold_hands_over_to_a_human(self, api: Api) -> None:
        assert ask(api, threshold=0.82).json()["fallback"] == {"triggered": True, "reason": "low_confidence"}

    def test_a_confidence_at_the_threshold_does_not(self, api: Api) -> None:
        assert ask(api, threshold=0.81).json()["fallback"]["triggered"] is False

    @pytest.mark.parametrize("codes", [(), (ConfidentCode("胡说_1", 0.99, False),)])
    def test_an_answer_without_a_valid_code_hands_over_to_a_human(
        self, api: Api, swap_backend: Any, codes: tuple[ConfidentCode, ...]
    ) -> None:
        swap_backend(AnswerResult(Candidate(codes, 0.99), (), 1, 1))

        assert ask(api).json()["fallback"] == {"triggered": True, "reason": "no_valid_code"}

    def test_alternatives_are_shown_as_texts(self, api: Api, swap_backend: Any) -> None:
        other = Candidate((ConfidentCode("a_1", 0.2, True), ConfidentCode("b_2", 0.5, True)), 0.1)
        swap_backend(AnswerResult(Candidate((ConfidentCode("c_3", 0.9, True),), 0.9), (other,), 1, 1))

        assert ask(api, alternatives=1).json()["alternatives"] == [{"answer": "a_1|b_2", "confidence": 0.1}]

    def test_the_backend_is_told_model_checksum_and_alternatives(self, api: Api) -> None:
        insert_adapter(api.engine, checksum="d" * 64)

        ask(api, model="telecom:1", alternatives=3)

        assert api.backend.requests == [AnswerRequest((QUESTION,), BASE, "d" * 64, 3, deadline_s=60.0)]

    def test_mode_and_precision_reach_the_backend(self, api: Api) -> None:
        ask(api, mode="open_values", precision=0.95)

        assert (api.backend.requests[-1].mode, api.backend.requests[-1].precision) == ("open_values", 0.95)

    def test_what_shall_decide_reaches_the_backend(self, api: Api) -> None:
        ask(api, alternatives=7, decide_by="set")

        assert (api.backend.requests[-1].decide_by, api.backend.requests[-1].alternatives) == ("set", 7)

    @pytest.mark.parametrize("wishes", [{}, {"alternatives": 3, "precision": 0.9}])
    def test_a_decision_over_sets_is_refused_where_it_cannot_be(self, api: Api, wishes: dict[str, Any]) -> None:
        response = ask(api, decide_by="expected_f1", **wishes)

        assert (response.status_code, response.json()["error"]["param"]) == (400, "decide_by")

    def test_a_threshold_beside_a_precision_is_refused(self, api: Api) -> None:
        response = ask(api, threshold=0.5, precision=0.95)

        assert (response.status_code, response.json()["error"]["param"]) == (400, "precision")

    def test_what_the_backend_says_of_an_answer_is_shown(self, api: Api, swap_backend: Any) -> None:
        best = Candidate((ConfidentCode("a_1", 0.9, True),), 0.9)
        swap_backend(AnswerResult(best, (), 1, 1, passes=4, calibrated=True))

        body = ask(api).json()

        assert (body["passes"], body["calibrated"]) == (4, True)

    def test_a_request_that_finds_no_turn_gets_429_and_when_to_come_back(self, api: Api) -> None:
        (route,) = [route for route in api.app.router.routes if getattr(route, "path", "") == "/answer"]
        turns = route._turns  # type: ignore[attr-defined]
        taken, turns._taken = turns._taken, turns._at_once
        try:
            response = ask(api)
        finally:
            turns._taken = taken

        assert (response.status_code, response.json()["error"]["code"]) == (429, "too_busy")
        assert int(response.headers["retry-after"]) >= 1

    @pytest.mark.parametrize("question", [" ", "\n\t", "\u3000"])
    def test_a_blank_question_is_refused(self, api: Api, question: str) -> None:
        response = ask(api, question)

        assert (response.status_code, response.json()["error"]["param"]) == (400, "question")
        assert api.backend.requests == []

    def test_an_empty_question_is_refused(self, api: Api) -> None:
        assert ask(api, "").status_code == 422

    def test_a_question_over_the_limit_is_413(self, api: Api) -> None:
        response = ask(api, "长" * 2001)

        assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
        assert response.json()["error"]["param"] == "question"

    def test_a_question_of_exactly_the_limit_is_answered(self, api: Api) -> None:
        assert ask(api, "长" * 2000).status_code == 200

    @pytest.mark.parametrize("model", ["nobody", "telecom:9", "telecom@production"])
    def test_an_unknown_model_is_404(self, api: Api, model: str) -> None:
        response = ask(api, model=model)

        assert (response.status_code, response.json()["error"]["param"]) == (404, "model")

    @pytest.mark.parametrize("fields", [{"alternatives": 8}, {"alternatives": -1}, {"threshold": 1.1}, {"threshold": "0.5"}])
    def test_a_field_out_of_range_is_named(self, api: Api, fields: dict[str, Any]) -> None:
        response = ask(api, **fields)

        assert (response.status_code, response.json()["error"]["param"]) == (422, next(iter(fields)))

    @pytest.mark.parametrize(
        ("error", "status", "code"),
        [
            (Overloaded("Too many wait."), 429, "overloaded"),
            (AnswererUnavailable("It loads."), 503, "answerer_unavailable"),
            (RefusedByAnswerer("Too long.", param="question"), 400, "invalid_request"),
            (Internal("The answerer failed."), 500, "internal"),
        ],
    )
    def test_a_backends_error_becomes_its_status(
        self, api: Api, swap_backend: Any, error: AppError, status: int, code: str
    ) -> None:
        swap_backend(error)

        response = ask(api)

        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert ("retry-after" in response.headers) == (status in (429, 503))


class TestAliases:
    def test_a_promotion_is_seen_by_the_very_next_answer(self, api: Api) -> None:
        first, second = insert_adapter(api.engine), insert_adapter(api.engine)
        seen = []
        for adapter_id in (first, second, first):
            api.client.put("/v1/aliases/telecom@production", json={"to": adapter_id})
            seen.append(ask(api, model="telecom@production").json()["adapter"])

        assert seen == [first, second, first]

    def test_a_promotion_by_another_process_is_seen_within_its_promise(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        from app.adapters import aliases
        from app.answers import model_names
        from app.db.unit_of_work import unit_of_work

        first, second = insert_adapter(api.engine), insert_adapter(api.engine)
        api.client.put("/v1/aliases/telecom@production", json={"to": first})
        ask(api, model="telecom@production")
        with unit_of_work(api.engine) as session:
            aliases.point(session, "telecom@production", aliases.Move(first, second, None), aliases.Author())
        monkeypatch.setattr(model_names, "_KEPT_S", 0.0)

        assert ask(api, model="telecom@production").json()["adapter"] == second

    def test_a_promotion_whose_commit_fails_changes_no_answer(self, api: Api) -> None:
        from tests.fixtures.db import failing_commits

        first, second = insert_adapter(api.engine), insert_adapter(api.engine)
        api.client.put("/v1/aliases/telecom@production", json={"to": first})
        with failing_commits(api.engine):
            assert api.client.put("/v1/aliases/telecom@production", json={"to": second}).status_code == 500

        assert ask(api, model="telecom@production").json()["adapter"] == first

    def test_a_deleted_model_is_404_at_once(self, api: Api) -> None:
        adapter_id = insert_adapter(api.engine)
        ask(api, model=adapter_id)
        api.client.delete(f"/v1/models/{adapter_id}")

        assert ask(api, model=adapter_id).status_code == 404


class TestBatches:
    def test_a_batch_is_answered_in_order(self, api: Api) -> None:
        body = api.client.post("/answer/batch", json={"questions": ["别的", QUESTION]}).json()

        assert (body["object"], [item["answer"] for item in body["data"]]) == ("list", ["业务简介_1", "取消方式_12|9.9"])

    def test_a_batch_is_one_request_to_the_backend(self, api: Api) -> None:
        api.client.post("/answer/batch", json={"questions": ["甲", "乙"]})

        assert [request.questions for request in api.backend.requests] == [("甲", "乙")]

    def test_too_many_questions_are_413(self, api: Api) -> None:
        response = api.client.post("/answer/batch", json={"questions": ["问"] * 65})

        assert (response.status_code, response.json()["error"]["param"]) == (413, "questions")

    def test_the_blank_question_of_a_batch_is_named(self, api: Api) -> None:
        response = api.client.post("/answer/batch", json={"questions": ["问", " "]})

        assert (response.status_code, response.json()["error"]["param"]) == (400, "questions.1")

    def test_the_only_question_of_a_batch_is_named_as_such(self, api: Api) -> None:
        response = api.client.post("/answer/batch", json={"questions": [" "]})

        assert (response.status_code, response.json()["error"]["param"]) == (400, "questions.0")

    def test_an_empty_batch_is_refused(self, api: Api) -> None:
        assert api.client.post("/answer/batch", json={"questions": []}).status_code == 422


class TestChat:
    def test_the_last_user_message_is_the_question(self, api: Api) -> None:
        body = chat(api, ("system", "短答"), ("user", "别的"), ("assistant", "业务简介_1"), ("user", QUESTION)).json()

        assert api.backend.requests[0].questions == (QUESTION,)
        assert body["choices"][0]["message"] == {"role": "assistant", "content": "取消方式_12|9.9", "refusal": None}
        assert body["choices"][0]["finish_reason"] == "stop"
        assert body["usage"] == {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
        assert body["dianda"]["codes"][0]["code"] == "取消方式_12"

    def test_sampling_fields_change_nothing(self, api: Api) -> None:
        response = chat(api, ("user", QUESTION), temperature=0.0, top_p=0.5, n=1, max_tokens=5, seed=1, user="me")

        assert response.json()["choices"][0]["message"]["content"] == "取消方式_12|9.9"

    def test_only_system_messages_are_refused(self, api: Api) -> None:
        response = chat(api, ("system", "短答"))

        assert (response.status_code, response.json()["error"]["param"]) == (400, "messages")

    def test_a_blank_message_is_refused(self, api: Api) -> None:
        response = chat(api, ("user", " "))

        assert (response.status_code, response.json()["error"]["param"]) == (400, "messages")

    @pytest.mark.parametrize("fields", [{"tools": []}, {"n": 2}, {"max_tokens": 0}])
    def test_what_is_not_offered_is_refused(self, api: Api, fields: dict[str, Any]) -> None:
        response = chat(api, ("user", QUESTION), **fields)

        assert (response.status_code, response.json()["error"]["param"]) == (422, next(iter(fields)))

    def test_a_stream_brings_the_answer_and_its_end(self, api: Api) -> None:
        response = chat(api, ("user", QUESTION), stream=True)

        assert response.headers["content-type"].startswith("text/event-stream")
        assert "取消方式_12|9.9" in response.text
        assert response.text.rstrip().endswith("data: [DONE]")


def test_the_limits_are_the_deployments(tmp_path: Path, databases: Databases) -> None:
    with (
        databases.database("sqlite") as url,
        running_api(tmp_path, url, max_question_chars=10, max_batch_questions=1) as api,
    ):
        assert ask(api, "十一个字的问题太长了吧吧").status_code == 413
        assert api.client.post("/answer/batch", json={"questions": ["甲", "乙"]}).status_code == 413
