"""Feedback on answers, the review list, and datasets of reviewed answers."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from app.answers.log import AnswerLog
from app.answers.models import AnswerReview
from app.answers.retention import AnswerRetention
from app.answers.review_repository import ReviewedAnswer
from app.answers.reviewed_dataset import write_reviewed_dataset
from app.answers.schemas import CodeObject, FallbackObject
from app.blobs.keys import adapter_key
from app.db.unit_of_work import read_only
from app.durable import seal_folder
from app.errors import InvalidInput
from app.ml.adapter_card import AdapterCard, write_card
from app.ml.codes import CodeVocabulary
from app.ml.formats.canonical import CanonicalWriter
from app.ml.formats.example import Example
from app.ml.prompting import Wrapper
from app.ml.spec import PRESETS
from tests.app.answers.test_log import an_answer
from tests.fixtures.api import Api, alpaca

CHECKSUM = "c" * 64
KNOWN = ("取消方式_1", "业务简介_2", "9.9")


def log_answers(engine: Engine, *answers: tuple[str, dict[str, Any]], questions: str = "text") -> list[str]:
    """Writes answers into the log; returns their ids."""
    log = AnswerLog(engine, questions)  # type: ignore[arg-type]
    ids = []
    for question, fields in answers:
        answer = an_answer(**fields)
        ids.append(answer.id)
        log.add(question, answer, adapter_checksum=CHECKSUM, mode="closed")
    asyncio.run(log.write_waiting())
    return ids


def put_adapter(api: Api) -> None:
    """Puts the card of the adapter that answered into the blob store."""
    folder = api.settings.data_dir / "uploads" / "adapter"
    folder.mkdir()
    card = AdapterCard(
        base_model="tiny-gemma",
        base_model_checksum="b" * 64,
        dataset_checksum="d" * 64,
        spec=PRESETS["recipe"],
        precision="fp32",
        seed=3,
        wrapper=Wrapper(),
        vocabulary=CodeVocabulary(KNOWN, 2),
        metrics={},
        versions={},
    )
    write_card(folder, card)
    seal_folder(folder)
    api.app.state.blobs.put_folder(adapter_key(CHECKSUM), folder)


def give(api: Api, answer_id: str, verdict: str, **fields: Any) -> Any:
    return api.client.post(f"/v1/answers/{answer_id}/feedback", json={"verdict": verdict, **fields})


def items(api: Api, **wanted: Any) -> list[Any]:
    response = api.client.get("/v1/review", params=wanted)
    assert response.status_code == 200, response.text
    data: list[Any] = response.json()["data"]
    return data


def content(api: Api, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in api.client.get(f"/v1/files/{file_id}/content").text.splitlines()]


def pairs(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(row["instruction"], row["output"]) for row in rows]


class TestFeedback:
    def test_right_takes_the_answers_own_codes(self, api: Api) -> None:
        (answer_id,) = log_answers(api.engine, ("问", {"code": "取消方式_1"}))

        body = give(api, answer_id, "right", reviewer="li.wei", comment="ok").json()

        assert (body["verdict"], body["codes"], body["number"]) == ("right", ["取消方式_1"], 1)
        assert (body["reviewer"], body["comment"], body["answer_id"]) == ("li.wei", "ok", answer_id)

    def test_wrong_knows_no_right_codes(self, api: Api) -> None:
        (answer_id,) = log_answers(api.engine, ("问", {}))

        assert give(api, answer_id, "wrong").json()["codes"] is None

    def test_corrected_codes_of_the_vocabulary_are_taken(self, api: Api) -> None:
        put_adapter(api)
        (answer_id,) = log_answers(api.engine, ("问", {}))

        assert give(api, answer_id, "corrected", codes=["业务简介_2", "9.9"]).json()["codes"] == ["业务简介_2", "9.9"]

    def test_a_corrected_code_that_the_adapter_does_not_know_is_refused(self, api: Api) -> None:
        put_adapter(api)
        (answer_id,) = log_answers(api.engine, ("问", {}))

        response = give(api, answer_id, "corrected", codes=["业务简介_2", "业务简介_3"])

        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, "unknown_code", "codes")
        assert "业务简介_3" in error["message"]
        assert api.client.get(f"/v1/answers/{answer_id}").json()["review"] is None

    def test_an_unknown_code_is_taken_where_the_reviewer_insists(self, api: Api) -> None:
        put_adapter(api)
        (answer_id,) = log_answers(api.engine, ("问", {}))

        assert give(api, answer_id, "corrected", codes=["新_1"], allow_unknown_codes=True).status_code == 200

    def test_without_the_adapter_codes_cannot_be_checked_and_are_refused(self, api: Api) -> None:
        (answer_id,) = log_answers(api.engine, ("问", {}))

        assert give(api, answer_id, "corrected", codes=["业务简介_2"]).json()["error"]["code"] == "unknown_code"

    @pytest.mark.parametrize(
        ("verdict", "codes"),
        [
            ("corrected", None),
            ("corrected", []),
            ("right", ["取消方式_1"]),
            ("wrong", ["取消方式_1"]),
            ("corrected", ["取消方式_1|9.9"]),
            ("corrected", [" 取消方式_1"]),
            ("corrected", ["取消方式_1", "取消方式_1"]),
            ("corrected", ["  "]),
        ],
    )
    def test_codes_that_do_not_fit_the_verdict_are_refused(self, api: Api, verdict: str, codes: list[str] | None) -> None:
        (answer_id,) = log_answers(api.engine, ("问", {}))
        fields = {} if codes is None else {"codes": codes}

        response = give(api, answer_id, verdict, allow_unknown_codes=True, **fields)

        assert (response.status_code, response.json()["error"]["param"]) == (400, "codes")

    def test_an_answer_without_a_code_cannot_be_right(self, api: Api) -> None:
        (answer_id,) = log_answers(api.engine, ("问", {"answer": "", "codes": []}))

        assert give(api, answer_id, "right").json()["error"]["param"] == "verdict"

    def test_the_last_word_counts_and_all_are_kept(self, api: Api) -> None:
        (answer_id,) = log_answers(api.engine, ("问", {}))
        for verdict in ("right", "wrong", "right"):
            give(api, answer_id, verdict, reviewer=verdict)

        history = api.client.get(f"/v1/answers/{answer_id}/feedback").json()["data"]

        assert [(one["number"], one["verdict"]) for one in history] == [(3, "right"), (2, "wrong"), (1, "right")]
        assert api.client.get(f"/v1/answers/{answer_id}").json()["review"]["verdict"] == "right"

    def test_an_answer_that_is_not_in_the_log_is_a_404(self, api: Api) -> None:
        assert give(api, "ans-none", "right").status_code == 404
        assert api.client.get("/v1/answers/ans-none/feedback").status_code == 404

    def test_reviews_go_with_their_answer(self, api: Api) -> None:
        ids = log_answers(api.engine, ("旧", {}), ("新", {}))
        give(api, ids[0], "right")

        AnswerRetention(api.engine, days=90, max_rows=1).enforce()

        with read_only(api.engine) as session:
            assert session.scalars(select(AnswerReview)).all() == []
        assert [answer["id"] for answer in api.client.get("/v1/answers").json()["data"]] == [ids[1]]


class TestReviewList:
    def test_the_least_sure_come_first_page_by_page(self, api: Api) -> None:
        log_answers(api.engine, *((f"问{share}", {"confidence": share / 10}) for share in (5, 2, 9, 7, 1)))

        first = api.client.get("/v1/review", params={"limit": 3}).json()
        rest = api.client.get("/v1/review", params={"limit": 3, "after": first["last_id"]}).json()

        found = [item["answer"]["confidence"] for item in first["data"] + rest["data"]]
        assert found == [0.1, 0.2, 0.5, 0.7, 0.9]
        assert (first["has_more"], rest["has_more"]) == (True, False)

    def test_answers_without_their_question_are_left_out(self, api: Api) -> None:
        log_answers(api.engine, ("问", {}), questions="hash")

        assert items(api) == []

    def test_reviewed_answers_are_left_out_unless_wanted_and_marked(self, api: Api) -> None:
        ids = log_answers(api.engine, ("一", {}), ("二", {}))
        give(api, ids[0], "wrong")

        assert [item["id"] for item in items(api)] == [ids[1]]
        (done,) = items(api, reviewed=True)
        assert (done["id"], done["answer"]["review"]["verdict"]) == (ids[0], "wrong")

    def test_a_shadow_stands_beside_its_answer_and_not_in_the_list(self, api: Api) -> None:
        log_answers(
            api.engine,
            ("一", {"id": "ans-1", "variant": "primary"}),
            ("一", {"id": "ans-1-shadow", "code": "业务简介_2", "variant": "shadow"}),
            ("二", {"id": "ans-2", "variant": "primary"}),
            ("二", {"id": "ans-2-shadow", "variant": "shadow"}),
        )

        found = {item["id"]: (item["disagreement"], item["shadow"]["answer"]) for item in items(api)}
        assert found == {"ans-1": (True, "业务简介_2"), "ans-2": (False, "取消方式_12")}
        assert [item["id"] for item in items(api, disagreement=True)] == ["ans-1"]
        assert [item["id"] for item in items(api, disagreement=False)] == ["ans-2"]

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            ({"fallback": True}, ["ans-b"]),
            ({"fallback": False}, ["ans-a"]),
            ({"max_confidence": 0.5}, ["ans-b"]),
            ({"model": "a"}, ["ans-a"]),
            ({"adapter": "telecom:2"}, ["ans-b"]),
        ],
    )
    def test_a_filter_keeps_what_it_says(self, api: Api, wanted: dict[str, Any], found: list[str]) -> None:
        handed_over = FallbackObject(triggered=True, reason="out_of_scope")
        log_answers(
            api.engine,
            ("一", {"id": "ans-a", "model": "a"}),
            ("二", {"id": "ans-b", "adapter": "telecom:2", "confidence": 0.3, "fallback": handed_over}),
        )

        assert [item["id"] for item in items(api, **wanted)] == found

    def test_a_page_after_nothing_is_refused(self, api: Api) -> None:
        assert api.client.get("/v1/review", params={"after": "ans-none"}).json()["error"]["param"] == "after"


class TestFilesFromAnswers:
    def reviewed(self, api: Api) -> None:
        """A right one, a corrected one, one that is only wrong."""
        ids = log_answers(api.engine, ("怎么取消", {"code": "取消方式_1"}), ("多少钱", {}), ("什么", {}))
        assert give(api, ids[0], "right").status_code == 200
        assert give(api, ids[1], "corrected", codes=["业务简介_2", "9.9"], allow_unknown_codes=True).status_code == 200
        assert give(api, ids[2], "wrong").status_code == 200

    def test_reviewed_answers_become_a_dataset(self, api: Api) -> None:
        self.reviewed(api)

        file = api.client.post("/v1/files/from_answers", json={}).json()

        assert pairs(content(api, file["id"])) == [("怎么取消", "取消方式_1"), ("多少钱", "业务简介_2|9.9")]
        assert (file["report"]["rows"], file["purpose"], file["filename"]) == (2, "fine-tune", "reviewed.jsonl")
        told = file["provenance"]
        assert (told["kind"], told["questions"], told["corrected"], told["only_wrong"]) == ("answers", 2, 1, 1)
        assert file["parent_id"] is None

    def test_a_job_trains_on_it_as_on_any_file(self, api: Api) -> None:
        self.reviewed(api)
        file = api.client.post("/v1/files/from_answers", json={}).json()

        assert api.post_job(file["id"]).status_code == 200

    def test_a_version_keeps_the_parents_rows_and_puts_reviews_in_the_place_of_theirs(self, api: Api) -> None:
        parent = api.file_id(
            content=alpaca(
                (
                    {"instruction": "怎么取消", "output": "取消方式_99"},
                    {"instruction": "什么", "output": "业务简介_7"},
                    {"instruction": "怎么开通", "output": "开通方式_98"},
                )
            )
        )
        self.reviewed(api)

        file = api.client.post("/v1/files/from_answers", json={"parent": parent}).json()

        assert pairs(content(api, file["id"])) == [
            ("什么", "业务简介_7"),
            ("怎么开通", "开通方式_98"),
            ("怎么取消", "取消方式_1"),
            ("多少钱", "业务简介_2|9.9"),
        ]
        assert file["parent_id"] == parent
        assert (file["provenance"]["parent_rows"], file["provenance"]["replaced_parent_rows"]) == (2, 1)
        assert file["provenance"]["parent_sha256"] == api.client.get(f"/v1/files/{parent}").json()["sha256"]

    def test_a_parents_rows_may_be_left_out(self, api: Api) -> None:
        parent = api.file_id(purpose="evals")
        self.reviewed(api)

        file = api.client.post("/v1/files/from_answers", json={"parent": parent, "include_parent_rows": False}).json()

        assert (file["report"]["rows"], file["parent_id"], file["purpose"]) == (2, parent, "evals")

    def test_only_the_answers_that_were_asked_for_are_taken(self, api: Api) -> None:
        ids = log_answers(api.engine, ("一", {"model": "a"}), ("二", {"model": "b"}))
        for answer_id in ids:
            give(api, answer_id, "right")

        file = api.client.post("/v1/files/from_answers", json={"model": "b"}).json()

        assert [question for question, _ in pairs(content(api, file["id"]))] == ["二"]
        assert file["provenance"]["model"] == "b"
        assert api.client.post("/v1/files/from_answers", json={"reviewed_since": 4e9}).status_code == 400

    def test_nothing_reviewed_is_refused_with_what_to_do(self, api: Api) -> None:
        response = api.client.post("/v1/files/from_answers", json={})

        assert response.status_code == 400
        assert "DIANDA_ANSWER_LOG_QUESTIONS" in response.json()["error"]["message"]
        assert api.client.get("/v1/files").json()["data"] == []

    def test_a_parent_that_is_not_there_is_a_404(self, api: Api) -> None:
        self.reviewed(api)

        response = api.client.post("/v1/files/from_answers", json={"parent": "file-none"})

        assert (response.status_code, response.json()["error"]["param"]) == (404, "parent")


def write_parent(path: Path, rows: list[tuple[str, str]]) -> Path:
    with CanonicalWriter(path) as writer:
        for number, (question, code) in enumerate(rows, start=1):
            writer.write(Example(number, question, (code,)))
    return path


def read_pairs(path: Path) -> list[tuple[str, str]]:
    return pairs([json.loads(line) for line in path.read_text().splitlines()])


def test_reviewed_questions_get_the_wrapper_of_their_parent(tmp_path: Path) -> None:
    wrapped = [(f"回答用户的问题,{number}号{'甲乙'[number % 2]},应该怎么做？", "业务简介_1") for number in range(25)]
    parent = write_parent(tmp_path / "parent", wrapped)
    reviewed = [
        ReviewedAnswer("怎么取消", ("取消方式_1",), False, 1.0),
        ReviewedAnswer("3号乙", ("取消方式_3",), False, 2.0),
        ReviewedAnswer("回答用户的问题,怎么取消,应该怎么做？", ("取消方式_2",), True, 3.0),
    ]

    counts = write_reviewed_dataset(tmp_path / "out", reviewed, parent_rows=parent)

    rows = read_pairs(tmp_path / "out")
    assert rows[-2:] == [
        ("回答用户的问题,3号乙,应该怎么做？", "取消方式_3"),
        ("回答用户的问题,怎么取消,应该怎么做？", "取消方式_2"),
    ]
    assert (len(rows), counts.replaced_parent_rows, counts.questions) == (26, 1, 2)


_QUESTIONS = st.sampled_from(["甲", "乙", "丙", "丁"])


@settings(max_examples=60)
@given(
    reviewed=st.lists(st.tuples(_QUESTIONS, st.one_of(st.none(), st.sampled_from(["a_1", "a_2", "b_1"]))), max_size=12),
    parent=st.lists(st.tuples(_QUESTIONS, st.sampled_from(["p_1", "p_2"])), max_size=6),
)
def test_of_every_question_the_last_review_counts_and_no_other_row_is_lost(
    tmp_path_factory: pytest.TempPathFactory, reviewed: list[tuple[str, str | None]], parent: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("reviewed")
    last: dict[str, str | None] = dict(reviewed)
    right = {question: code for question, code in last.items() if code is not None}
    answers = [
        ReviewedAnswer(question, None if code is None else (code,), False, float(place))
        for place, (question, code) in enumerate(reviewed)
    ]

    def write() -> None:
        write_reviewed_dataset(folder / "out", answers, parent_rows=write_parent(folder / "parent", parent))

    if not right:
        with pytest.raises(InvalidInput):
            write()
        return
    write()

    rows = read_pairs(folder / "out")
    assert dict(rows[len(rows) - len(right) :]) == right
    assert rows[: len(rows) - len(right)] == [row for row in parent if row[0] not in right]


def test_codes_of_a_logged_answer_stay_what_they_were(api: Api) -> None:
    codes = [CodeObject(code=code, category="x", confidence=0.5, in_vocabulary=True) for code in ("a_1", "b_2")]
    (answer_id,) = log_answers(api.engine, ("问", {"answer": "a_1|b_2", "codes": codes}))

    assert give(api, answer_id, "right").json()["codes"] == ["a_1", "b_2"]
