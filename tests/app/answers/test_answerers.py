"""Several answerers behind one api: who is asked, who stands in, who is asked again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from app.answers.backend import AnswererUnavailable, AnswerRequest, AnswerResult, Candidate, Overloaded, ServingPaused
from app.answers.backends import answerers
from app.answers.backends.answerer import AnswererBackend
from app.answers.backends.answerers import AnswererPool
from app.errors import AppError, InvalidInput
from app.main import create_app
from tests.fixtures.api import make_settings

Result = TypeVar("Result")
ASK = AnswerRequest(("问",), "tiny", None, 0)
ANSWER = AnswerResult(Candidate((), 1.0), (), 1, 1)


class Answerer:
    """An answerer whose failure a test chooses; it counts what it was asked."""

    def __init__(self, failure: AppError | None = None, *, takes_s: float = 0) -> None:
        self.failure = failure
        self.takes_s = takes_s
        self.asked: list[AnswerRequest] = []

    async def answer(self, request: AnswerRequest) -> list[AnswerResult]:
        self.asked.append(request)
        await asyncio.sleep(self.takes_s)
        if self.failure is not None:
            raise self.failure
        return [ANSWER]

    async def health(self) -> str | None:
        return None if self.failure is None else self.failure.message

    async def find_pause(self) -> str | None:
        return self.failure.message if isinstance(self.failure, ServingPaused) else None

    async def close(self) -> None:
        pass


def use(members: list[Answerer], ask: Callable[[AnswererPool], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        pool = AnswererPool({f"answerer-{n}": member for n, member in enumerate(members)}, timeout_s=5)
        try:
            return await ask(pool)
        finally:
            await pool.close()

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answerers, "_LOOK_S", 0.01)


def test_a_question_that_one_answerer_lost_is_answered_by_the_other() -> None:
    lost, other = Answerer(AnswererUnavailable("gone")), Answerer()

    assert use([lost, other], lambda pool: pool.answer(ASK)) == [ANSWER]
    assert (len(lost.asked), len(other.asked)) == (1, 1)


def test_an_answerer_that_is_away_is_asked_no_more() -> None:
    away, other = Answerer(AnswererUnavailable("gone")), Answerer()

    async def ask(pool: AnswererPool) -> None:
        for _ in range(5):
            await pool.answer(ASK)

    use([away, other], ask)
    assert (len(away.asked), len(other.asked)) == (1, 5)


def test_an_answerer_that_is_healthy_again_is_asked_again() -> None:
    back, other = Answerer(AnswererUnavailable("gone")), Answerer()

    async def ask(pool: AnswererPool) -> None:
        await pool.answer(ASK)
        back.failure = None
        await asyncio.sleep(0.1)
        for _ in range(4):
            await pool.answer(ASK)

    use([back, other], ask)
    assert len(back.asked) == 3


def test_while_one_leaves_its_card_to_a_job_the_other_answers() -> None:
    paused, other = Answerer(ServingPaused("paused")), Answerer()

    assert use([paused, other], lambda pool: pool.answer(ASK)) == [ANSWER]
    assert use([paused, other], lambda pool: pool.find_pause()) == "paused"


def test_where_all_leave_their_cards_the_refusal_says_so() -> None:
    with pytest.raises(ServingPaused):
        use([Answerer(ServingPaused("paused")), Answerer(ServingPaused("paused"))], lambda pool: pool.answer(ASK))


def test_an_answerer_that_pauses_is_not_away() -> None:
    pauses, other = Answerer(ServingPaused("paused")), Answerer()

    async def ask(pool: AnswererPool) -> None:
        await pool.answer(ASK)
        pauses.failure = None
        for _ in range(4):
            await pool.answer(ASK)

    use([pauses, other], ask)
    assert len(pauses.asked) == 3


def test_questions_go_to_the_least_busy_answerer() -> None:
    slow, quick = Answerer(takes_s=0.3), Answerer()

    async def ask(pool: AnswererPool) -> None:
        first = asyncio.create_task(pool.answer(ASK))
        await asyncio.sleep(0)
        for _ in range(4):
            await pool.answer(ASK)
        await first

    use([slow, quick], ask)
    assert (len(slow.asked), len(quick.asked)) == (1, 4)


def test_idle_answerers_take_turns() -> None:
    members = [Answerer(), Answerer()]

    async def ask(pool: AnswererPool) -> None:
        for _ in range(6):
            await pool.answer(ASK)

    use(members, ask)
    assert [len(member.asked) for member in members] == [3, 3]


def test_a_full_answerer_s_question_goes_to_the_other() -> None:
    full, other = Answerer(Overloaded("full")), Answerer()

    assert use([full, other], lambda pool: pool.answer(ASK)) == [ANSWER]
    assert len(other.asked) == 1


def test_a_refused_question_is_not_asked_twice() -> None:
    members = [Answerer(InvalidInput("no")), Answerer(InvalidInput("no"))]

    with pytest.raises(InvalidInput):
        use(members, lambda pool: pool.answer(ASK))
    assert sorted(len(member.asked) for member in members) == [0, 1]


def test_with_everybody_away_the_error_says_so_and_each_was_asked() -> None:
    members = [Answerer(AnswererUnavailable("gone")), Answerer(AnswererUnavailable("gone"))]

    with pytest.raises(AnswererUnavailable):
        use(members, lambda pool: pool.answer(ASK))
    assert [len(member.asked) for member in members] == [1, 1]


def test_the_second_try_gets_what_is_left_of_the_deadline() -> None:
    slow, other = Answerer(AnswererUnavailable("gone"), takes_s=0.2), Answerer()

    use([slow, other], lambda pool: pool.answer(AnswerRequest(("问",), "tiny", None, 0, deadline_s=1.0)))
    left_s = other.asked[0].deadline_s
    assert left_s is not None and 0.1 < left_s <= 0.8


def test_no_second_try_is_made_after_the_deadline() -> None:
    slow, other = Answerer(AnswererUnavailable("gone"), takes_s=0.2), Answerer()

    with pytest.raises(AnswererUnavailable):
        use([slow, other], lambda pool: pool.answer(AnswerRequest(("问",), "tiny", None, 0, deadline_s=0.1)))
    assert other.asked == []


def test_one_healthy_answerer_is_enough() -> None:
    away = Answerer(AnswererUnavailable("gone"))

    assert use([away, Answerer()], lambda pool: pool.health()) is None
    assert use([away, away], lambda pool: pool.health()) == "gone"


def test_closing_ends_the_looking_for_one_that_stays_away() -> None:
    started = time.monotonic()

    use([Answerer(AnswererUnavailable("gone")), Answerer()], lambda pool: pool.answer(ASK))

    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("addresses", "kind"),
    [("http://a:1", AnswererBackend), ("http://a:1,http://b:2/", AnswererPool), ("http://a:1, ", AnswererBackend)],
)
def test_the_setting_names_one_answerer_or_several(tmp_path: Path, addresses: str, kind: type[object]) -> None:
    from app.main import build_answer_backend

    settings = make_settings(tmp_path, "sqlite://", answerer_url=addresses)
    backend = build_answer_backend(settings, None, None, None)  # type: ignore[arg-type]

    assert type(backend) is kind


def test_the_api_starts_over_two_answerers_that_are_away(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, "sqlite://", answerer_url="http://127.0.0.1:9,http://127.0.0.1:10")

    assert create_app(settings).state.answers is not None
