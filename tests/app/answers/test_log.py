"""The answer log: what is answered is written once, and nothing that happens to the log or its database stops an answer."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.to_thread import run_sync
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event, func, select
from sqlalchemy.exc import OperationalError

from app.answers import log as log_module
from app.answers.log import AnswerLog
from app.answers.models import LoggedAnswer
from app.answers.retention import AnswerRetention
from app.answers.schemas import AlternativeObject, AnswerObject, CodeObject, FallbackObject
from app.db.engine import make_engine
from app.db.unit_of_work import read_only
from app.ids import new_id
from tests.fixtures.api import BASE, QUESTION, Api, running_api
from tests.fixtures.db import Databases, empty, failing_commits
from tests.fixtures.queue import insert_adapter

DAY_S = 86_400.0


def an_answer(code: str = "取消方式_12", **fields: Any) -> AnswerObject:
    values: dict[str, Any] = {
        "id": new_id("ans"),
        "answer": code,
        "codes": [CodeObject(code=code, category="取消方式", confidence=0.9, in_vocabulary=True)],
        "confidence": 0.9,
        "calibrated": True,
        "alternatives": [AlternativeObject(answer=f"{code}|9.9", confidence=0.05)],
        "fallback": FallbackObject(triggered=False, reason=None),
        "model": "telecom@production",
        "adapter": "telecom:1",
        "passes": 2,
        "latency_ms": 5.5,
        **fields,
    }
    return AnswerObject(**values)


def add(log: AnswerLog, answer: AnswerObject, question: str = QUESTION) -> None:
    log.add(question, answer, adapter_checksum="c" * 64, mode="closed")


def write(log: AnswerLog) -> None:
    """Lets the log write all that waits, as at the api's end."""

    async def run() -> None:
        async with log.writing():
            pass

    asyncio.run(run())


def rows(engine: Engine) -> list[LoggedAnswer]:
    with read_only(engine) as session:
        return list(session.scalars(select(LoggedAnswer).order_by(LoggedAnswer.created_at, LoggedAnswer.id)))


@contextmanager
def database_away(engine: Engine) -> Iterator[None]:
    """Makes every transaction fail at its begin, as a server that was stopped does."""

    def refuse(connection: Any) -> None:
        raise OperationalError("BEGIN", {}, ConnectionRefusedError("the database is away"))

    event.listen(engine, "begin", refuse, insert=True)
    try:
        yield
    finally:
        event.remove(engine, "begin", refuse)


def wait_until(condition: Any, timeout_s: float = 10.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
    return found


class TestWriting:
    def test_an_entry_becomes_a_row_with_everything_that_was_answered(self, engine: Engine) -> None:
        log, answer = AnswerLog(engine, "text"), an_answer()
        add(log, answer)

        write(log)

        (row,) = rows(engine)
        assert (row.id, row.model, row.adapter_id, row.adapter_checksum) == (
            answer.id,
            "telecom@production",
            "telecom:1",
            "c" * 64,
        )
        assert (row.question, row.question_sha256, row.answer, row.mode) == (QUESTION, None, "取消方式_12", "closed")
        assert row.codes == [{"code": "取消方式_12", "confidence": 0.9, "in_vocabulary": True}]
        assert row.alternatives == [{"answer": "取消方式_12|9.9", "confidence": 0.05}]
        assert (row.confidence, row.is_calibrated, row.fallback_reason) == (0.9, True, None)
        assert (row.latency_ms, row.passes, row.variant) == (5.5, 2, None)
        assert abs(row.created_at - time.time()) < 60

    def test_a_hash_stands_in_the_questions_place(self, engine: Engine) -> None:
        log = AnswerLog(engine, "hash")
        add(log, an_answer())

        write(log)

        (row,) = rows(engine)
        assert (row.question, row.question_sha256) == (None, hashlib.sha256(QUESTION.encode()).hexdigest())

    def test_nothing_of_a_question_is_kept_where_the_deployment_says_so(self, engine: Engine) -> None:
        log = AnswerLog(engine, "off")
        add(log, an_answer())

        write(log)

        (row,) = rows(engine)
        assert (row.question, row.question_sha256) == (None, None)

    def test_text_that_no_database_takes_is_written_with_a_mark_in_its_place(self, engine: Engine) -> None:
        log = AnswerLog(engine, "text")
        add(log, an_answer("a\x00b\ud800c", adapter=None), "问\x00题\udfff")
        add(log, an_answer())

        write(log)

        first, second = rows(engine)
        assert (first.answer, first.question) == ("a\N{REPLACEMENT CHARACTER}b?c", "问\N{REPLACEMENT CHARACTER}题?")
        assert first.codes[0]["code"] == first.answer
        assert second.answer == "取消方式_12"

    def test_an_entry_that_is_written_twice_is_one_row(self, engine: Engine) -> None:
        answer = an_answer()
        for _ in range(2):
            log = AnswerLog(engine, "text")
            add(log, answer)
            write(log)

        assert [row.id for row in rows(engine)] == [answer.id]

    def test_a_full_queue_loses_the_newest_and_keeps_the_rest(self, engine: Engine) -> None:
        log, answers = AnswerLog(engine, "text", max_waiting=3), [an_answer() for _ in range(5)]
        for answer in answers:
            add(log, answer)

        write(log)

        assert {row.id for row in rows(engine)} == {answer.id for answer in answers[:3]}

    def test_entries_wait_while_the_database_is_away_and_are_written_when_it_is_back(self, engine: Engine) -> None:
        log, answer = AnswerLog(engine, "text"), an_answer()

        async def outage() -> None:
            async with log.writing():
                with database_away(engine):
                    add(log, answer)
                    await asyncio.sleep(0.8)
                add(log, an_answer())

        asyncio.run(outage())

        assert len(rows(engine)) == 2 and answer.id in {row.id for row in rows(engine)}

    def test_a_batch_that_the_database_refuses_does_not_stop_the_next(self, engine: Engine) -> None:
        log, after = AnswerLog(engine, "text"), an_answer()

        async def refusal() -> None:
            async with log.writing():
                with failing_commits(engine):
                    add(log, an_answer())
                    await asyncio.sleep(0.8)
                add(log, after)

        asyncio.run(refusal())

        assert [row.id for row in rows(engine)] == [after.id]

    def test_the_end_does_not_wait_for_a_database_that_is_away(self, engine: Engine) -> None:
        log = AnswerLog(engine, "text")
        add(log, an_answer())

        started = time.monotonic()
        with database_away(engine):
            write(log)

        assert time.monotonic() - started < 5
        assert rows(engine) == []


class TestRetention:
    def at(self, engine: Engine, *ages_days: float) -> None:
        log = AnswerLog(engine, "off")
        for age in ages_days:
            add(log, an_answer(id=f"ans-{age}"))
        write(log)
        with engine.begin() as connection:
            for age in ages_days:
                moved = LoggedAnswer.__table__.update().where(LoggedAnswer.id == f"ans-{age}")  # type: ignore[attr-defined]
                connection.execute(moved.values(created_at=time.time() - age * DAY_S))

    def test_answers_older_than_the_days_go(self, engine: Engine) -> None:
        self.at(engine, 0.5, 1.5, 2.5)

        assert AnswerRetention(engine, days=2, max_rows=100).enforce() == 1

        assert {row.id for row in rows(engine)} == {"ans-0.5", "ans-1.5"}

    def test_the_oldest_beyond_the_most_rows_go(self, engine: Engine) -> None:
        self.at(engine, 0.5, 1.5, 2.5, 3.5)

        assert AnswerRetention(engine, days=90, max_rows=2).enforce() == 2

        assert {row.id for row in rows(engine)} == {"ans-0.5", "ans-1.5"}

    def test_a_round_with_nothing_to_delete_deletes_nothing(self, engine: Engine) -> None:
        self.at(engine, 0.5)
        retention = AnswerRetention(engine, days=90, max_rows=1)

        assert [retention.enforce(), retention.enforce()] == [0, 0]

    def test_more_than_one_deletions_worth_goes_in_one_round(self, engine: Engine) -> None:
        log = AnswerLog(engine, "off")
        for _ in range(1200):
            add(log, an_answer())
        write(log)

        AnswerRetention(engine, days=90, max_rows=50).enforce()

        with read_only(engine) as session:
            assert session.scalar(select(func.count()).select_from(LoggedAnswer)) == 50


class TestOverHttp:
    def logged(self, api: Api, answer_id: str) -> Any:
        def find() -> Any:
            response = api.client.get(f"/v1/answers/{answer_id}")
            return response.json() if response.status_code == 200 else None

        return wait_until(find)

    def test_an_answer_is_found_by_its_id(self, api: Api) -> None:
        insert_adapter(api.engine)
        given_answer = api.client.post("/answer", json={"question": QUESTION, "model": "telecom:1", "threshold": 0.99}).json()

        logged = self.logged(api, given_answer["id"])

        for field in (
            "answer",
            "confidence",
            "calibrated",
            "alternatives",
            "fallback",
            "model",
            "adapter",
            "passes",
            "latency_ms",
        ):
            assert logged[field] == given_answer[field]
        assert [code["code"] for code in logged["codes"]] == ["取消方式_12", "9.9"]
        assert logged["question"] is None and len(logged["question_sha256"]) == 64
        assert len(logged["adapter_checksum"]) == 64

    def test_each_question_of_a_batch_is_logged(self, api: Api) -> None:
        answers = api.client.post("/answer/batch", json={"questions": [QUESTION, "别的"]}).json()["data"]

        assert [self.logged(api, one["id"])["answer"] for one in answers] == ["取消方式_12|9.9", "业务简介_1"]

    def test_a_chat_completion_is_logged(self, api: Api) -> None:
        body = {"model": BASE, "messages": [{"role": "user", "content": QUESTION}]}
        answer = api.client.post("/v1/chat/completions", json=body).json()["dianda"]

        assert self.logged(api, answer["id"])["answer"] == answer["answer"]

    def test_an_answer_that_is_not_there_is_a_404_that_says_why_it_may_be(self, api: Api) -> None:
        response = api.client.get("/v1/answers/ans-none")

        assert response.status_code == 404
        assert "DIANDA_ANSWER_LOG" in response.json()["error"]["message"]

    def test_a_page_is_newest_first_and_goes_on_after_its_last(self, api: Api) -> None:
        self.fill(api.engine, *(an_answer(model="paged") for _ in range(5)))

        first = api.client.get("/v1/answers", params={"model": "paged", "limit": 3}).json()
        rest = api.client.get("/v1/answers", params={"model": "paged", "limit": 3, "after": first["last_id"]}).json()

        assert (first["has_more"], rest["has_more"], len(rest["data"])) == (True, False, 2)
        times = [one["created_at"] for one in first["data"] + rest["data"]]
        assert times == sorted(times, reverse=True)

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            ({"model": "a"}, {"ans-a"}),
            ({"adapter": "telecom:2"}, {"ans-b"}),
            ({"fallback": True}, {"ans-b"}),
            ({"fallback": False}, {"ans-a"}),
            ({"max_confidence": 0.4}, {"ans-b"}),
            ({"since": 4e9}, set()),
            ({"until": 4e9, "max_confidence": 0.9}, {"ans-a", "ans-b"}),
        ],
    )
    def test_a_filter_keeps_what_it_says(self, api: Api, wanted: dict[str, Any], found: set[str]) -> None:
        doubtful = {"confidence": 0.3, "fallback": FallbackObject(triggered=True, reason="low_confidence")}
        empty(api.engine)
        self.fill(api.engine, an_answer(id="ans-a", model="a"), an_answer(id="ans-b", model="b", adapter="telecom:2", **doubtful))

        page = api.client.get("/v1/answers", params=wanted).json()

        assert {one["id"] for one in page["data"]} & {"ans-a", "ans-b"} == found

    def test_answers_go_on_while_the_database_is_away_and_are_logged_when_it_is_back(self, api: Api) -> None:
        insert_adapter(api.engine)
        ask = {"question": QUESTION, "model": "telecom:1"}
        assert api.client.post("/answer", json=ask).status_code == 200
        answered = []
        with database_away(api.engine):
            deadline = time.monotonic() + 1.5  # longer than names and texts are remembered
            while time.monotonic() < deadline:
                response = api.client.post("/answer", json=ask)
                assert response.status_code == 200
                answered.append(response.json()["id"])
                time.sleep(0.05)

        assert [self.logged(api, answer_id)["id"] for answer_id in (answered[0], answered[-1])] == [answered[0], answered[-1]]

    def test_what_waits_is_written_when_the_api_stops(self, tmp_path: Path, databases: Databases, dialect: str) -> None:
        with databases.database(dialect) as url:
            with running_api(tmp_path, url) as api:
                answer = api.client.post("/answer", json={"question": QUESTION}).json()
            engine = make_engine(url)
            assert [row.id for row in rows(engine)] == [answer["id"]]
            engine.dispose()

    def test_a_log_that_is_off_keeps_nothing(self, tmp_path: Path, databases: Databases) -> None:
        with databases.database("sqlite") as url:
            with running_api(tmp_path, url, answer_log=False) as api:
                assert api.client.post("/answer", json={"question": QUESTION}).status_code == 200
            engine = make_engine(url)
            assert rows(engine) == []
            engine.dispose()

    @staticmethod
    def fill(engine: Engine, *answers: AnswerObject) -> None:
        log = AnswerLog(engine, "off")
        for answer in answers:
            add(log, answer)
        write(log)


def test_batches_of_any_size_are_few_texts_of_statements(engine: Engine) -> None:
    texts = set()

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("INSERT"):
            texts.add(statement)

    log = AnswerLog(engine, "off")
    sizes = (1, 3, 7, 12, 50, 63, 100, 127, 200, 255)
    for size in sizes:
        for _ in range(size):
            add(log, an_answer())
        write(log)

    assert len(rows(engine)) == sum(sizes)
    # Each would stay prepared at the driver for as long as its connection lives.
    assert len(texts) <= 8


def test_a_busy_event_loop_has_to_hand_over_once_not_once_a_batch(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_BATCH_ROWS", 10)
    handed_over = []

    async def counted(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        handed_over.append(function)
        return await run_sync(function, *arguments, **options)

    monkeypatch.setattr(log_module, "run_sync", counted)
    empty(engine)
    log = AnswerLog(engine, "hash")
    for _ in range(100):
        add(log, an_answer())

    assert asyncio.run(log.write_waiting())

    assert len(rows(engine)) == 100
    assert len(handed_over) == 1


@settings(max_examples=15)
@given(steps=st.lists(st.one_of(st.integers(1, 700), st.sampled_from(["write", "away"])), max_size=8))
def test_whatever_the_order_of_answers_and_outages_each_answer_is_logged_once(engine: Engine, steps: list[int | str]) -> None:
    empty(engine)
    log, answered = AnswerLog(engine, "hash"), []
    for step in steps:
        if isinstance(step, int):
            for _ in range(step):
                answered.append(an_answer())
                add(log, answered[-1])
        elif step == "write":
            asyncio.run(log.write_waiting())
        else:
            with database_away(engine):
                asyncio.run(log.write_waiting())
    write(log)

    assert sorted(row.id for row in rows(engine)) == sorted(answer.id for answer in answered)
