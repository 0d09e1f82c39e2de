import torch
from hypothesis import given
from hypothesis import strategies as st

from app.ml.engine.batching import TokenRow
from app.ml.engine.packed.packs import pack_rows, plan_packs, recurring_shape, shape_of, token_count

ROWS = st.lists(
    st.builds(
        lambda prompt, answer: TokenRow(tuple(range(1, prompt + 1)), tuple(range(100, 100 + answer))),
        st.integers(1, 60),
        st.integers(1, 12),
    ),
    min_size=1,
    max_size=40,
)


@given(ROWS, st.integers(1, 400))
def test_every_row_is_in_one_pack_and_no_pack_of_several_rows_is_over_budget(rows: list[TokenRow], budget: int) -> None:
    packs = list(plan_packs(rows, budget))
    flat = [row for pack in packs for row in pack]
    assert sorted(map(token_count, flat)) == sorted(map(token_count, rows))
    for pack in packs:
        assert pack
        assert len(pack) == 1 or sum(map(token_count, pack)) <= budget


@given(ROWS, st.booleans())
def test_a_pack_holds_every_token_once_and_knows_what_follows_it(rows: list[TokenRow], is_rounded: bool) -> None:
    host = pack_rows(rows, recurring_shape(shape_of(rows), ()) if is_rounded else None)
    pack, shape = host.on(torch.device("cpu")), host.shape
    real = sum(map(token_count, rows))
    assert len(set(pack.places.tolist())) == shape.tokens, "two tokens in one place"
    assert max(pack.places.tolist()) < shape.rows * shape.width
    assert pack.ids[:real].tolist() == [token for row in rows for token in (*row.prompt, *row.answer[:-1])]
    assert host.label_count == sum(len(row.answer) for row in rows)
    assert pack.labels[: host.label_count].tolist() == [token for row in rows for token in row.answer]
    assert (pack.labels[host.label_count :] < 0).all()
    # Whoever predicts an answer's later token is the token before it.
    for place, label in zip(pack.trained.tolist(), pack.labels[: host.label_count].tolist(), strict=False):
        if pack.ids[place] >= 100:
            assert label == pack.ids[place] + 1


@given(ROWS)
def test_a_new_shape_is_rounded_up(rows: list[TokenRow]) -> None:
    shape = recurring_shape(shape_of(rows), ())
    assert shape.holds(shape_of(rows))
    assert (shape.tokens % 128, shape.trained % 128, shape.width % 16) == (0, 0, 0)


@given(ROWS, st.lists(ROWS, max_size=6))
def test_a_known_shape_is_taken_again_only_where_it_holds_the_rows_at_little_cost(
    rows: list[TokenRow], others: list[list[TokenRow]]
) -> None:
    exact = shape_of(rows)
    known = [recurring_shape(shape_of(other), ()) for other in others]
    shape, fresh = recurring_shape(exact, known), recurring_shape(exact, ())
    assert shape.holds(exact)
    assert shape.cost <= fresh.cost * 1.06
    pack = pack_rows(rows, shape).on(torch.device("cpu"))
    assert len(set(pack.places.tolist())) == shape.tokens
    assert max(pack.places.tolist()) < shape.rows * shape.width


def test_a_shape_that_was_met_is_met_again() -> None:
    rows = [TokenRow((1,) * 20, (2,) * 8)] * 64
    first = recurring_shape(shape_of(rows), ())
    assert recurring_shape(shape_of([*rows[:63], TokenRow((1,) * 21, (2,) * 7)]), [first]) == first
