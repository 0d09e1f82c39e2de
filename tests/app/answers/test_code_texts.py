import asyncio
import time
from typing import Any

import pytest
from sqlalchemy import Engine, event

from app.answers import code_texts
from app.answers.code_texts import CodeTexts
from app.codebook import service
from app.codebook.entries import Entry
from app.db.unit_of_work import unit_of_work


@pytest.fixture
def statements(engine: Engine) -> list[str]:
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "codebook" in statement:
            seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    return seen


def write(engine: Engine, text: str) -> None:
    with unit_of_work(engine) as session:
        service.replace(session, [Entry("a_1", None, text)])


def text_of(texts: CodeTexts) -> str | None:
    return asyncio.run(texts.entries())["a_1"].text


def test_many_answers_of_a_second_read_the_book_once(engine: Engine, statements: list[str]) -> None:
    write(engine, "one")
    texts = CodeTexts(engine)
    statements.clear()
    for _ in range(50):
        assert text_of(texts) == "one"
    assert len(statements) == 2


def test_a_book_of_the_same_version_is_not_read_again(
    engine: Engine, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_texts, "_KEPT_S", 0.0)
    write(engine, "one")
    texts = CodeTexts(engine)
    text_of(texts)
    statements.clear()
    assert text_of(texts) == "one"
    assert ["codebook_entries" in statement for statement in statements] == [False]


def test_another_process_s_change_is_seen_after_a_second(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    write(engine, "one")
    texts = CodeTexts(engine)
    assert text_of(texts) == "one"
    write(engine, "two")
    assert text_of(texts) == "one"
    later = time.monotonic() + 1.1
    monkeypatch.setattr(code_texts.time, "monotonic", lambda: later)
    assert text_of(texts) == "two"


def test_a_change_of_this_process_is_seen_at_once(engine: Engine) -> None:
    write(engine, "one")
    texts = CodeTexts(engine)
    assert text_of(texts) == "one"
    write(engine, "two")
    texts.forget()
    assert text_of(texts) == "two"


def test_questions_at_once_share_one_reading(engine: Engine, statements: list[str]) -> None:
    write(engine, "one")
    texts = CodeTexts(engine)
    statements.clear()

    async def ask_together() -> None:
        books = await asyncio.gather(*(texts.entries() for _ in range(20)))
        assert {book["a_1"].text for book in books} == {"one"}

    asyncio.run(ask_together())
    assert len(statements) == 2
