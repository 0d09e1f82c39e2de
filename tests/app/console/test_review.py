import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.console.visitor import Visitor
from tests.fixtures.api import QUESTION, Api, running_api
from tests.fixtures.db import Databases, empty


@pytest.fixture(scope="module")
def keeping_api(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[Api]:
    """An API whose log keeps the questions' texts."""
    folder: Path = tmp_path_factory.mktemp("data")
    with databases.database("sqlite") as url, running_api(folder, url, answer_log_questions="text") as running:
        yield running


@pytest.fixture
def asked(keeping_api: Api) -> Iterator[tuple[Visitor, str]]:
    """A visitor, and the id of an answer to look at."""
    keeping_api.client.post("/answer", json={"question": QUESTION})
    deadline = time.monotonic() + 10
    while not (answers := keeping_api.client.get("/v1/answers").json()["data"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    yield Visitor(keeping_api), str(answers[0]["id"])
    empty(keeping_api.engine)


def verdicts(visitor: Visitor, answer_id: str) -> list[tuple[str, list[str] | None, str | None]]:
    """Returns the reviews of an answer, the last first."""
    found = visitor.api.client.get(f"/v1/answers/{answer_id}/feedback").json()["data"]
    return [(one["verdict"], one["codes"], one["reviewer"]) for one in found]


def test_an_answer_is_called_right_and_leaves_the_list(asked: tuple[Visitor, str]) -> None:
    visitor, answer_id = asked
    assert QUESTION in visitor.page("/console/review")

    response = visitor.send("/console/review", answer=answer_id, verdict="right", reviewer="li.wei")

    assert response.headers["location"] == "/console/review?reviewer=li.wei&done=reviewed"
    assert verdicts(visitor, answer_id) == [("right", ["取消方式_12", "9.9"], "li.wei")]
    assert "Nothing to review" in visitor.page("/console/review")
    assert QUESTION in visitor.page("/console/review", show="reviewed")


def test_an_answer_is_corrected_and_becomes_a_row_of_a_dataset(asked: tuple[Visitor, str]) -> None:
    visitor, answer_id = asked
    visitor.send("/console/review", answer=answer_id, verdict="corrected", codes="取消方式_1 ｜ 8.8", unknown="yes")

    response = visitor.send("/console/review/file", filename="reviewed.jsonl")

    assert verdicts(visitor, answer_id) == [("corrected", ["取消方式_1", "8.8"], None)]
    html = visitor.page(response.headers["location"])
    assert "取消方式_1" in html and QUESTION in html


def test_a_code_that_nobody_knows_is_refused_at_its_answer(asked: tuple[Visitor, str]) -> None:
    visitor, answer_id = asked

    response = visitor.send("/console/review", answer=answer_id, verdict="corrected", codes="没有_1")

    assert response.status_code == 400
    assert re.search(rf'id="codes-{answer_id}"[^>]*aria-invalid="true"', response.text)
    assert verdicts(visitor, answer_id) == []


def test_a_log_without_texts_says_what_to_set(shared_api: Api) -> None:
    assert "DIANDA_ANSWER_LOG_QUESTIONS=text" in Visitor(shared_api).page("/console/review")
