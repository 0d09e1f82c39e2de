import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.service import ResolvedCandidate
from app.answers.models import LoggedAnswer
from app.answers.variants import is_chosen
from app.db.unit_of_work import unit_of_work
from app.errors import Internal
from tests.app.promotions.naming_backend import NamingBackend, away
from tests.fixtures.api import Api
from tests.fixtures.queue import insert_adapter

ALIAS = "telecom@production"
OWN, TRIED = "a" * 64, "b" * 64
QUESTIONS = [f"第{number}个问题" for number in range(60)]


@pytest.fixture
def backend(api: Api) -> Iterator[NamingBackend]:
    """An alias on telecom:1, telecom:2 beside it, and a backend whose answers name their adapter."""
    naming, answers = NamingBackend(), api.app.state.answers
    before = answers._backend
    answers._backend = naming
    insert_adapter(api.engine, checksum=OWN)
    insert_adapter(api.engine, checksum=TRIED)
    put(api, to="telecom:1")
    yield naming
    answers._backend = before


def put(api: Api, **fields: Any) -> httpx2.Response:
    return api.client.put(f"/v1/aliases/{ALIAS}", json=fields)


def try_out(api: Api, **fields: Any) -> httpx2.Response:
    return put(api, candidate={"model": "telecom:2", **fields})


def ask(api: Api, question: str, **fields: Any) -> dict[str, Any]:
    response = api.client.post("/answer", json={"question": question, "model": ALIAS, **fields})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def report(api: Api) -> dict[str, Any]:
    body: dict[str, Any] = api.client.get(f"/v1/aliases/{ALIAS}/candidate").json()
    return body


def eventually(read: Callable[[], Any], wanted: Any) -> None:
    deadline = time.monotonic() + 15
    while read() != wanted:
        assert time.monotonic() < deadline, f"{read()} did not become {wanted}"
        time.sleep(0.02)


def log_pairs(api: Api, pairs: list[tuple[str, str]], *, reason: str | None = None) -> None:
    """Puts answers of both sides of a shadow trial into the log."""
    since = api.client.get(f"/v1/aliases/{ALIAS}").json()["candidate"]["since"]
    with unit_of_work(api.engine) as session:
        for number, (own, tried) in enumerate(pairs):
            for answer, adapter, variant, suffix, latency_ms in (
                (own, "telecom:1", "primary", "", 10.0 + number),
                (tried, "telecom:2", "shadow", "-shadow", 20.0 + number),
            ):
                session.add(
                    LoggedAnswer(
                        id=f"ans-{number}{suffix}", created_at=since + 5.0 + number, model=ALIAS, adapter_id=adapter,
                        answer=answer, codes=[], confidence=0.9, is_calibrated=False, alternatives=[],
                        fallback_reason=reason if suffix else None, mode="closed", latency_ms=latency_ms, passes=1,
                        variant=variant,
                    )
                )  # fmt: skip


class TestShares:
    def test_without_a_trial_no_answer_has_a_variant(self, api: Api, backend: NamingBackend) -> None:
        assert ask(api, "问")["variant"] is None

    def test_a_share_of_questions_gets_the_candidate_always_the_same_ones(self, api: Api, backend: NamingBackend) -> None:
        try_out(api, percent=50)

        first = [ask(api, question) for question in QUESTIONS]
        again = [ask(api, question) for question in QUESTIONS]

        assert [answer["adapter"] for answer in first] == [answer["adapter"] for answer in again]
        tried = [answer for answer in first if answer["variant"] == "candidate"]
        assert 15 <= len(tried) <= 45
        assert all(answer["adapter"] == "telecom:2" and answer["answer"] == f"版本_{TRIED}" for answer in tried)
        others = [answer for answer in first if answer["variant"] == "primary"]
        assert len(tried) + len(others) == len(QUESTIONS)
        assert all(answer["adapter"] == "telecom:1" and answer["answer"] == f"版本_{OWN}" for answer in others)

    def test_one_user_gets_one_adapter_whatever_is_asked(self, api: Api, backend: NamingBackend) -> None:
        try_out(api, percent=50)

        seen = {user: {ask(api, question, user=user)["adapter"] for question in QUESTIONS[:5]} for user in "甲乙丙丁戊己"}

        assert all(len(adapters) == 1 for adapters in seen.values())
        assert set.union(*seen.values()) == {"telecom:1", "telecom:2"}

    def test_a_batch_is_answered_in_order_each_question_by_its_own_adapter(self, api: Api, backend: NamingBackend) -> None:
        try_out(api, percent=50)
        alone = [ask(api, question)["adapter"] for question in QUESTIONS]

        body = api.client.post("/answer/batch", json={"questions": QUESTIONS, "model": ALIAS}).json()

        assert [answer["adapter"] for answer in body["data"]] == alone

    def test_a_candidate_that_answers_everybody(self, api: Api, backend: NamingBackend) -> None:
        try_out(api, percent=100)

        assert {ask(api, question)["variant"] for question in QUESTIONS[:9]} == {"candidate"}

    def test_the_candidate_is_loaded_before_it_is_asked(self, api: Api, backend: NamingBackend) -> None:
        try_out(api, percent=100)
        ask(api, "问")

        assert backend.cold == [("你好",), ("你好",)]

    def test_after_the_trial_everybody_gets_the_alias_s_own(self, api: Api, backend: NamingBackend) -> None:
        try_out(api, percent=100)
        ask(api, "问")

        assert api.client.delete(f"/v1/aliases/{ALIAS}/candidate").json()["candidate"] is None
        assert (ask(api, "问")["adapter"], ask(api, "问")["variant"]) == ("telecom:1", None)

    def test_the_candidate_is_promoted_by_its_role(self, api: Api, backend: NamingBackend) -> None:
        try_out(api, percent=10)

        body = put(api, to="candidate").json()

        assert (body["model"], body["candidate"]) == ("telecom:2", None)


class TestShadows:
    def test_a_shadow_answers_beside_and_nobody_sees_it(self, api: Api, backend: NamingBackend) -> None:
        try_out(api, mode="shadow")
        backend.answered.clear()

        answer = ask(api, "问")

        assert (answer["adapter"], answer["variant"]) == ("telecom:1", "primary")
        eventually(lambda: backend.answered, [OWN, TRIED])

    def test_a_shadow_that_hangs_delays_nobody(self, api: Api, backend: NamingBackend) -> None:
        try_out(api, mode="shadow")
        backend.held_checksum = TRIED
        backend.held = asyncio.Event()

        # More than run beside at once: the further ones are left out.
        answers = [ask(api, question) for question in QUESTIONS[:20]]

        assert {answer["adapter"] for answer in answers} == {"telecom:1"}
        assert TRIED not in backend.answered[2:]
        api.client.portal.call(backend.held.set)  # type: ignore[union-attr]

    @pytest.mark.parametrize("error", [away(), Internal("broken")])
    def test_a_shadow_that_fails_is_no_failure_of_the_answer(self, api: Api, backend: NamingBackend, error: Any) -> None:
        try_out(api, mode="shadow")
        backend.errors[TRIED] = error

        assert ask(api, "问")["answer"] == f"版本_{OWN}"

    def test_both_answers_are_logged_and_compared(self, api: Api, backend: NamingBackend) -> None:
        try_out(api, mode="shadow")
        ask(api, "问")

        eventually(lambda: report(api)["both"], {"answers": 1, "same_codes": 0, "agreement": 0.0})
        assert (report(api)["primary"]["answers"], report(api)["tried"]["answers"]) == (1, 1)


class TestReports:
    def test_agreement_is_of_the_questions_that_both_answered(self, api: Api, backend: NamingBackend) -> None:
        try_out(api, mode="shadow")
        log_pairs(api, [("a_1|b_2", "b_2|a_1"), ("a_1", "a_2"), ("c_3", "c_3"), ("d_4", "d_4")])

        body = report(api)

        assert body["both"] == {"answers": 4, "same_codes": 3, "agreement": 0.75}
        assert body["primary"] == {
            "model": "telecom:1",
            "answers": 4,
            "fallback_rate": 0.0,
            "latency_ms": {"p50": 11.0, "p95": 13.0},
        }
        assert body["tried"]["latency_ms"] == {"p50": 21.0, "p95": 23.0}

    def test_the_fallback_rate_is_each_sides_own(self, api: Api, backend: NamingBackend) -> None:
        try_out(api, mode="shadow")
        log_pairs(api, [("a_1", "a_1")], reason="low_confidence")

        assert (report(api)["primary"]["fallback_rate"], report(api)["tried"]["fallback_rate"]) == (0.0, 1.0)

    def test_a_trial_that_has_seen_no_question_has_no_rates(self, api: Api, backend: NamingBackend) -> None:
        try_out(api, percent=5)

        body = report(api)

        assert body["candidate"]["model"] == "telecom:2" and body["candidate"]["percent"] == 5.0
        assert body["tried"] == {"model": "telecom:2", "answers": 0, "fallback_rate": None, "latency_ms": None}
        assert body["both"]["agreement"] is None

    def test_an_alias_without_a_trial_has_no_report(self, api: Api, backend: NamingBackend) -> None:
        assert api.client.get(f"/v1/aliases/{ALIAS}/candidate").status_code == 404


class TestRefusals:
    def test_a_share_without_its_percent_is_refused(self, api: Api, backend: NamingBackend) -> None:
        response = try_out(api)

        assert (response.status_code, response.json()["error"]["param"]) == (400, "candidate.percent")

    @pytest.mark.parametrize("percent", [0, 101, -1])
    def test_a_percentage_that_is_none_is_refused(self, api: Api, backend: NamingBackend, percent: float) -> None:
        response = try_out(api, percent=percent)

        assert (response.status_code, response.json()["error"]["param"]) == (422, "candidate.percent")

    def test_the_alias_s_own_adapter_is_no_candidate(self, api: Api, backend: NamingBackend) -> None:
        response = put(api, candidate={"model": "telecom:1", "percent": 5})

        assert (response.status_code, response.json()["error"]["param"]) == (400, "candidate.model")

    def test_an_adapter_of_another_base_model_is_no_candidate(self, api: Api, backend: NamingBackend) -> None:
        other = insert_adapter(api.engine, name="care", base_model="other-base")

        response = put(api, candidate={"model": other, "percent": 5})

        assert (response.status_code, response.json()["error"]["param"]) == (400, "candidate.model")

    def test_an_unknown_candidate_is_404(self, api: Api, backend: NamingBackend) -> None:
        response = put(api, candidate={"model": "telecom:9", "percent": 5})

        assert (response.status_code, response.json()["error"]["param"]) == (404, "candidate.model")

    def test_a_candidate_is_not_deleted(self, api: Api, backend: NamingBackend) -> None:
        try_out(api, percent=5)

        response = api.client.delete("/v1/models/telecom:2")

        assert response.status_code == 409 and ALIAS in response.json()["error"]["message"]


def test_the_history_tells_of_trials(api: Api, backend: NamingBackend) -> None:
    try_out(api, percent=5)
    try_out(api, mode="shadow")
    api.client.delete(f"/v1/aliases/{ALIAS}/candidate", params={"by": "li.wei"})

    moves = api.client.get(f"/v1/aliases/{ALIAS}/history").json()["data"]

    assert [(move["action"], move["candidate"]) for move in moves] == [
        ("candidate_removed", None),
        ("candidate_set", {"mode": "shadow", "percent": 100.0}),
        ("candidate_set", {"mode": "share", "percent": 5.0}),
        ("moved", None),
    ]
    assert moves[0]["by"] == "li.wei"


def test_an_alias_that_goes_to_another_base_model_tries_nothing_out_any_more(api: Api, backend: NamingBackend) -> None:
    try_out(api, percent=5)
    other = insert_adapter(api.engine, name="care", base_model="other-base")

    assert put(api, to=other).json()["candidate"] is None


@given(st.text(max_size=20), st.floats(0.1, 100), st.floats(0.1, 100))
def test_whoever_is_chosen_stays_chosen_when_the_share_grows(key: str, one: float, other: float) -> None:
    small, large = (ResolvedCandidate("telecom:2", TRIED, "share", percent) for percent in sorted((one, other)))

    assert is_chosen(large, alias=ALIAS, key=key) or not is_chosen(small, alias=ALIAS, key=key)


def test_the_share_of_askers_is_the_percentage() -> None:
    candidate = ResolvedCandidate("telecom:2", TRIED, "share", 10)

    chosen = sum(is_chosen(candidate, alias=ALIAS, key=f"user-{number}") for number in range(10_000))

    assert 900 < chosen < 1100
