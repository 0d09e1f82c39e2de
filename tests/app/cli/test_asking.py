from collections.abc import Iterator

import pytest

from tests.app.cli.terminal import Dianda, dialect
from tests.fixtures.api import BASE, QUESTION, Api, serving
from tests.fixtures.queue import insert_adapter

__all__ = ["dialect"]


@pytest.fixture
def dianda(api: Api) -> Iterator[Dianda]:
    with serving(api.app) as url:
        yield Dianda(url)


class TestAsking:
    def test_an_answer_is_shown_with_its_confidence(self, api: Api, dianda: Dianda) -> None:
        ran = dianda("ask", QUESTION)

        assert ran.code == 0
        assert "取消方式_12|9.9" in ran.out and "0.81" in ran.out

    def test_as_json_each_answer_is_a_line_with_its_question(self, api: Api, dianda: Dianda) -> None:
        lines = dianda("ask", "别的", QUESTION, "--json").lines

        assert [(line["question"], line["answer"]) for line in lines] == [("别的", "业务简介_1"), (QUESTION, "取消方式_12|9.9")]

    def test_questions_come_from_stdin_in_batches(self, api: Api, dianda: Dianda) -> None:
        ran = dianda("ask", "--json", stdin="".join(f"第{number}问\n\n" for number in range(70)))

        assert len(ran.lines) == 70
        assert [len(request.questions) for request in api.backend.requests] == [64, 6]

    def test_a_question_with_brackets_is_shown_as_it_is(self, api: Api, dianda: Dianda) -> None:
        assert "[bold]怎么取消[/bold]" in dianda("ask", "[bold]怎么取消[/bold]").out

    def test_what_a_terminal_would_obey_is_shown_as_a_mark(self, api: Api, dianda: Dianda) -> None:
        out = dianda("ask", "问\x1b[2J题").out

        assert "\x1b" not in out and "问\ufffd[2J题" in out

    def test_a_table_of_chinese_has_straight_borders(self, api: Api, dianda: Dianda) -> None:
        from rich.cells import cell_len

        widths = {cell_len(line) for line in dianda("ask", "短", "一个长得多的问题该怎么办").out.splitlines()}

        assert len(widths) == 1

    def test_an_unknown_model_is_refused_with_what_to_do(self, api: Api, dianda: Dianda) -> None:
        ran = dianda("ask", QUESTION, "--model", "nobody@production")

        assert ran.code == 1 and "PUT /v1/aliases" in ran.err


class TestChatting:
    def test_a_conversation_answers_line_by_line_until_quit(self, api: Api, dianda: Dianda) -> None:
        ran = dianda("chat", stdin=f"{QUESTION}\n\n/quit\n不再问\n")

        assert ran.code == 0
        assert "取消方式_12" in ran.out and "confidence 0.81 (not calibrated)" in ran.out
        assert len(api.backend.requests) == 1

    def test_another_model_is_asked_after_the_command(self, api: Api, dianda: Dianda) -> None:
        adapter_id = insert_adapter(api.engine)

        lines = dianda("chat", "--json", stdin=f"问\n/model {adapter_id}\n问\n").lines

        assert [line["adapter"] for line in lines] == [None, adapter_id]

    def test_an_error_ends_no_conversation(self, api: Api, dianda: Dianda) -> None:
        ran = dianda("chat", stdin=f"/model nobody\n{'长' * 3000}\n{QUESTION}\n")

        assert ran.code == 0
        assert "no model 'nobody'" in ran.err and "2000 characters" in ran.err and "取消方式_12" in ran.out

    def test_a_model_that_is_none_is_refused_before_the_first_question(self, api: Api, dianda: Dianda) -> None:
        assert dianda("chat", "nobody").code == 1

    def test_the_history_has_what_was_asked(self, api: Api, dianda: Dianda) -> None:
        lines = dianda("chat", BASE, "--json", stdin=f"{QUESTION}\n/history\n").lines

        assert [(one["question"], one["answer"]) for one in lines[-1]["history"]] == [(QUESTION, "取消方式_12|9.9")]

    def test_a_command_that_is_none_shows_those_that_are(self, api: Api, dianda: Dianda) -> None:
        assert "/history" in dianda("chat", stdin="/what\n").err
