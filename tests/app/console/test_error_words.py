import ast
import re
from pathlib import Path

import pytest

import app
from app.console.words import words_of_errors
from app.http.errors import CODE_OF_STATUS, HTTP_ERROR
from app.jobs.leases import WORKER_LOST
from app.jobs.states import JobStatus
from tests.app.console.visitor import Visitor
from tests.fixtures.api import BASE, Api
from tests.fixtures.queue import insert_job

ROOT = Path(app.__file__).parents[1]
WORDS = words_of_errors("zh")


def codes_in_source() -> set[str]:
    """Returns the codes of every class and of every call that names one, those of the worker and the torch zone too."""
    found: set[str] = set()
    for path in (*ROOT.glob("app/**/*.py"), *ROOT.glob("worker/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                for line in node.body:
                    if isinstance(line, ast.Assign | ast.AnnAssign) and "code" in _names(line):
                        found |= _texts(line.value)
            elif isinstance(node, ast.keyword) and node.arg == "code":
                found |= _texts(node.value)
    return found


def _names(line: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = line.targets if isinstance(line, ast.Assign) else [line.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _texts(value: ast.expr | None) -> set[str]:
    return {value.value} if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value else set()


CODES = codes_in_source() | {*CODE_OF_STATUS.values(), HTTP_ERROR, WORKER_LOST}


def test_every_code_that_the_product_can_raise_is_explained_in_chinese_and_no_other() -> None:
    assert len(CODES) > 50
    assert set(WORDS) == CODES


@pytest.mark.parametrize("code", sorted(WORDS))
def test_an_explanation_says_what_is_wrong_and_then_what_to_do(code: str) -> None:
    sentences = re.findall(r"[^。]+。", WORDS[code])

    assert "".join(sentences) == WORDS[code]
    assert len(sentences) >= 2
    assert re.search(r"请", sentences[-1])


def test_a_form_speaks_chinese_and_keeps_the_services_own_words(shared_api: Api) -> None:
    response = Visitor(shared_api, "zh").send("/console/ask", question="问", model=BASE, threshold="much")

    assert WORDS["wrong_field"] in response.text
    assert '<code>wrong_field</code> <span lang="en">threshold must be a number.</span>' in response.text


def test_a_page_of_an_error_speaks_chinese_and_keeps_the_services_own_words(shared_api: Api) -> None:
    html = Visitor(shared_api, "zh").get("/console/nothing").text

    assert WORDS["not_found"] in html
    assert '<span lang="en">There is no such page.' in html


def test_a_failed_job_speaks_chinese_and_keeps_the_workers_own_words(api: Api) -> None:
    job_id = insert_job(api.engine, status=JobStatus.FAILED, error_code=WORKER_LOST, error_message="Lost 3 times.")

    html = Visitor(api, "zh").page(f"/console/jobs/{job_id}")

    assert WORDS[WORKER_LOST] in html
    assert '<span lang="en">Lost 3 times.</span>' in html


def test_english_pages_say_what_the_service_says_alone(shared_api: Api) -> None:
    html = Visitor(shared_api).get("/console/nothing").text

    assert "There is no such page." in html
    assert not any(text in html for text in WORDS.values())
