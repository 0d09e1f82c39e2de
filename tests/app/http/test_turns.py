import pytest

from app.http.turns import Busy, Turns


def test_whoever_finds_no_turn_is_refused() -> None:
    turns = Turns(1)

    with turns.take(), pytest.raises(Busy), turns.take():
        pass


def test_a_turn_comes_back_after_a_failure() -> None:
    turns = Turns(1)
    with pytest.raises(ZeroDivisionError), turns.take():
        raise ZeroDivisionError

    with turns.take():
        pass
