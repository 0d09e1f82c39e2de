import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ml.engine.batching import IGNORED, SameRows, TokenRow, collate, epoch_order, micro_batches, step_rows, tokenize_examples
from app.ml.engine.loading import LoadedModel
from app.ml.errors import NothingToTrain
from app.ml.formats.example import Example
from app.ml.prompting import PromptRenderer
from tests.app.ml.engine.training_help import CPU
from tests.fixtures.tiny import BOS, EOS, PAD

ROWS = st.lists(
    st.builds(
        TokenRow,
        st.lists(st.integers(0, 255), min_size=1, max_size=6).map(tuple),
        st.lists(st.integers(0, 255), min_size=1, max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=7,
)


def test_a_batch_is_laid_out_as_drawn_by_hand() -> None:
    batch = collate([TokenRow((1, 2, 3), (4, 5)), TokenRow((6,), (7, 8, 9))], pad_id=0, device=CPU)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 0], [0, 0, 6, 7, 8]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 3], [0, 0, 0, 1, 2]]
    assert batch.labels.tolist() == [[4, 5, IGNORED], [7, 8, 9]]
    assert batch.label_count == 5


@given(ROWS)
def test_the_last_positions_of_a_batch_predict_each_rows_answer(rows: list[TokenRow]) -> None:
    batch = collate(rows, pad_id=PAD, device=CPU)
    width = max(len(row.answer) for row in rows)
    for index, row in enumerate(rows):
        seen = batch.input_ids[index][batch.attention_mask[index] == 1].tolist()
        assert seen == [*row.prompt, *row.answer[:-1]]
        assert batch.position_ids[index][batch.attention_mask[index] == 1].tolist() == list(range(len(seen)))
        # The first answer token is predicted where the prompt's last token stands.
        assert int(batch.input_ids[index, -width]) == row.prompt[-1]
        assert batch.labels[index].tolist() == [*row.answer, *[IGNORED] * (width - len(row.answer))]


def test_an_answer_is_tokenized_code_by_code_with_its_end(base: LoadedModel) -> None:
    rows, dropped = tokenize_examples([Example(1, "q", ("ab", "c"))], PromptRenderer("plain"), base.tokenizer, cutoff_len=64)
    encode = base.tokenizer.encode
    assert rows == [TokenRow((BOS, *encode("q\n")), (*encode("ab"), *encode("|"), *encode("c"), EOS))]
    assert dropped == 0


def test_a_long_prompt_loses_its_start_but_not_its_bos(base: LoadedModel) -> None:
    (row,), _ = tokenize_examples(
        [Example(1, "x" * 50 + "tail", ("ab",))], PromptRenderer("plain"), base.tokenizer, cutoff_len=16
    )
    assert len(row.prompt) + len(row.answer) == 16
    assert row.prompt[0] == BOS
    assert base.tokenizer.decode(row.prompt[1:]) == "x" * 7 + "tail\n"


def test_a_row_whose_answer_does_not_fit_is_left_out(base: LoadedModel) -> None:
    examples = [Example(1, "q", ("x" * 20,)), Example(2, "q", ("x",))]
    rows, dropped = tokenize_examples(examples, PromptRenderer("plain"), base.tokenizer, cutoff_len=16)
    assert (len(rows), dropped) == (1, 1)


def test_nothing_to_train_is_said(base: LoadedModel) -> None:
    with pytest.raises(NothingToTrain) as caught:
        tokenize_examples([Example(1, "q", ("x" * 20,))], PromptRenderer("plain"), base.tokenizer, cutoff_len=16)
    assert caught.value.param == "cutoff_len"


@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_visits_every_row_once_in_a_repeatable_order(count: int, seed: int, epoch: int) -> None:
    order = epoch_order(count, seed=seed, epoch=epoch)
    assert sorted(order) == list(range(count))
    assert order == epoch_order(count, seed=seed, epoch=epoch)


def test_epochs_and_seeds_have_their_own_orders() -> None:
    orders = {tuple(epoch_order(30, seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@given(st.integers(1, 20), st.integers(1, 8))
def test_the_steps_of_an_epoch_share_its_rows(count: int, batch_size: int) -> None:
    rows = [TokenRow((number,), (0,)) for number in range(count)]
    steps = -(-count // batch_size)
    taken = [step_rows(SameRows(rows), step, batch_size=batch_size, seed=3) for step in range(2 * steps)]
    for epoch in (taken[:steps], taken[steps:]):
        assert sorted(row.prompt[0] for part in epoch for row in part) == list(range(count))
        assert all(len(part) == batch_size for part in epoch[:-1])


@given(ROWS, st.integers(1, 4))
def test_micro_batches_hold_every_row_of_a_step(rows: list[TokenRow], size: int) -> None:
    parts = list(micro_batches(rows, size))
    assert all(1 <= len(part) <= size for part in parts)
    key = TokenRow.__hash__
    assert sorted((row for part in parts for row in part), key=key) == sorted(rows, key=key)
