import torch
from hypothesis import given
from hypothesis import strategies as st

from app.ml.engine.batching import TokenRow
from app.ml.engine.packed.packs import pack_rows, plan_packs, token_count

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
    host = pack_rows(rows, is_rounded=is_rounded)
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
def test_shapes_recur_when_rounded(rows: list[TokenRow]) -> None:
    shape = pack_rows(rows, is_rounded=True).shape
    assert (shape.tokens % 128, shape.trained % 64, shape.width % 16) == (0, 0, 0)
