"""What is planned from the memory that is free: packs, and whether layers are computed twice."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from app.ml.engine import token_budget
from app.ml.engine.batching import TokenRow
from app.ml.engine.loading import LoadedModel
from app.ml.engine.token_budget import needs_checkpointing, plan_token_budget
from app.ml.estimates import shapes_of, tokens_that_fit
from tests.app.ml.engine.training_help import FAST

SPEC = replace(FAST, lora_dropout=0.0)

LONGEST = 400
ROWS = [TokenRow((5,) * 300, (6,) * (LONGEST - 300)), TokenRow((5,) * 20, (6,) * 5)]


@pytest.fixture
def free_for(base: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets a device have as much free memory as so many tokens of a pack need."""
    shapes = shapes_of(base.network.config.to_dict(), weight_bytes=0)

    def leave(tokens: int) -> None:
        free = next(
            blocks << 16
            for blocks in range(1, 1 << 20)
            if tokens_that_fit(shapes, SPEC, int((blocks << 16) * 0.85), is_fp32=True) >= tokens
        )
        monkeypatch.setattr(token_budget, "free_memory_bytes", lambda device: free)

    return leave


def test_a_row_that_fits_is_computed_once(base: LoadedModel, free_for: Callable[[int], None]) -> None:
    free_for(LONGEST)

    assert not needs_checkpointing(base, SPEC, ROWS)


def test_a_row_that_does_not_fit_otherwise_is_computed_twice(base: LoadedModel, free_for: Callable[[int], None]) -> None:
    free_for(LONGEST // 2)

    assert needs_checkpointing(base, SPEC, ROWS)


def test_what_was_asked_for_need_not_be_switched_on(base: LoadedModel, free_for: Callable[[int], None]) -> None:
    free_for(LONGEST // 2)

    assert not needs_checkpointing(base, replace(SPEC, gradient_checkpointing=True), ROWS)


def test_where_nothing_at_all_is_free_it_would_not_help(base: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_budget, "free_memory_bytes", lambda device: 0)

    assert not needs_checkpointing(base, SPEC, ROWS)


def test_a_pack_has_the_tokens_that_fit(base: LoadedModel, free_for: Callable[[int], None]) -> None:
    free_for(1000)

    assert 1000 <= plan_token_budget(base, SPEC, ROWS, is_packed=True) < 1100


def test_a_pack_has_room_for_the_longest_row_in_any_case(base: LoadedModel, free_for: Callable[[int], None]) -> None:
    free_for(LONGEST // 2)

    assert plan_token_budget(base, SPEC, ROWS, is_packed=True) == LONGEST - 1
