from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.ml.engine import evaluating
from app.ml.engine.batching import collate, tokenize_examples
from app.ml.engine.evaluating import HeldOut, evaluate, prepare_held_out, score_generated
from app.ml.engine.loading import LoadedModel
from app.ml.engine.loss import summed_loss
from app.ml.errors import DatasetFormatError, NonFiniteLoss, NothingToTrain, OutOfDeviceMemory
from app.ml.formats.example import Example
from app.ml.model_store import BaseModelFolder
from app.ml.prompting import PromptRenderer
from tests.app.ml.engine.training_help import (
    CPU,
    EXAMPLES,
    FAST,
    Published,
    grammar_for,
    held_out_rows,
    load,
    run,
)
from tests.fixtures.tiny import PAD

UNSEEN = (Example(1, "how to stop plan B", ("stop_1",)), Example(2, "how to open B", ("open_1",)))


def scores_of(base: LoadedModel, network: object, held_out: HeldOut, *, batch_rows: int = 2) -> dict[str, float]:
    scores = evaluate(base, network, held_out, batch_rows=batch_rows, is_cut_short=lambda: False)
    assert scores is not None
    return scores


def test_rows_that_were_learnt_by_heart_score_full_marks(sharp_folder: BaseModelFolder, published: dict[str, Published]) -> None:
    base = load(sharp_folder)
    scores = scores_of(base, published["lora"].network, held_out_rows(base, EXAMPLES))
    assert (scores["rows"], scores["exact_match"], scores["set_f1"], scores["invalid_rate"]) == (5, 1.0, 1.0, 0.0)
    assert scores["eval_loss"] < 0.05


def test_the_loss_is_the_mean_over_all_answer_tokens_however_they_are_cut(
    base: LoadedModel, published: dict[str, Published]
) -> None:
    network, held_out = published["lora"].network, held_out_rows(base, (*UNSEEN, *EXAMPLES))
    with torch.no_grad():
        one_by_one = [float(summed_loss(network, collate([row], pad_id=PAD, device=CPU))) for row in held_out.rows]
    expected = sum(one_by_one) / sum(len(row.answer) for row in held_out.rows)
    for batch_rows in (1, 3, 64):
        assert scores_of(base, network, held_out, batch_rows=batch_rows)["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_an_evaluation_leaves_the_random_state_and_the_mode_as_they_were(
    base: LoadedModel, published: dict[str, Published]
) -> None:
    network, held_out = published["lora"].network, held_out_rows(base, UNSEEN)
    for is_training in (True, False):
        network.train(is_training)
        before = torch.get_rng_state()
        scores_of(base, network, held_out)
        assert torch.equal(torch.get_rng_state(), before)
        assert {module.training for module in network.modules()} == {is_training}
    assert all(parameter.grad is None or parameter.grad.is_leaf for parameter in network.parameters())


def test_an_evaluation_that_fails_leaves_the_random_state_and_the_mode_as_they_were(
    base: LoadedModel, published: dict[str, Published], monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw_and_fail(*_: object) -> torch.Tensor:
        return torch.rand(3).sum() * torch.nan

    network = published["lora"].network.train()
    monkeypatch.setattr(evaluating, "summed_loss", draw_and_fail)
    before = torch.get_rng_state()
    with pytest.raises(NonFiniteLoss):
        scores_of(base, network, held_out_rows(base, UNSEEN))
    assert torch.equal(torch.get_rng_state(), before)
    assert network.training
    network.eval()


def test_an_evaluation_is_cut_short_after_the_batch_in_which_it_was_asked(
    base: LoadedModel, published: dict[str, Published]
) -> None:
    held_out = held_out_rows(base, EXAMPLES * 8)
    # 40 rows of loss, 8 a batch, then 40 answers, 16 a batch.
    for last in range(1, 9):
        asked = 0

        def is_cut_short(last: int = last) -> bool:
            nonlocal asked
            asked += 1
            return asked == last

        assert evaluate(base, published["lora"].network, held_out, batch_rows=8, is_cut_short=is_cut_short) is None
        assert asked == last


def test_prompts_are_spread_evenly_over_the_file_and_the_loss_keeps_all_rows(base: LoadedModel) -> None:
    held_out = held_out_rows(base, EXAMPLES)
    few = held_out.spread(2)
    assert list(few.expected) == [EXAMPLES[0].codes, EXAMPLES[2].codes]
    assert [few.prompts[0], few.prompts[1]] == [held_out.prompts[0], held_out.prompts[2]]
    assert few.rows == held_out.rows
    assert held_out.spread(5) is held_out


def test_a_code_that_training_never_showed_counts_as_wrong_not_as_a_fault(
    base: LoadedModel, published: dict[str, Published]
) -> None:
    examples = (Example(1, "how to stop plan A", ("never_seen",)),)
    rows, _ = tokenize_examples(examples, PromptRenderer("plain"), base.tokenizer, cutoff_len=512)
    held_out = replace(held_out_rows(base, EXAMPLES), rows=rows, expected=[("never_seen",)] * 5)
    scores = scores_of(base, published["lora"].network, held_out)
    assert (scores["exact_match"], scores["invalid_rate"]) == (0.0, 0.0)


def test_a_device_that_is_short_of_memory_gets_smaller_batches(
    base: LoadedModel, published: dict[str, Published], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, held_out = published["lora"].network, held_out_rows(base, EXAMPLES * 4)
    whole = scores_of(base, network, held_out, batch_rows=16)
    decode, sizes = evaluating.decode_constrained, []

    def decode_few(network: object, prompts: list[object], *rest: object, **more: object) -> object:
        sizes.append(len(prompts))
        if len(prompts) > 5:
            raise torch.OutOfMemoryError
        return decode(network, prompts, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluating, "decode_constrained", decode_few)
    assert scores_of(base, network, held_out, batch_rows=16) == whole
    assert sizes == [16, 8, 4, 4, 4, 4, 4]


def test_a_device_without_memory_for_one_row_says_what_to_do(
    base: LoadedModel, published: dict[str, Published], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(evaluating, "summed_loss", fail)
    with pytest.raises(OutOfDeviceMemory, match="eval_strategy"):
        scores_of(base, published["lora"].network, held_out_rows(base, EXAMPLES))


def test_a_held_out_question_that_no_answerer_takes_is_refused_before_training(base: LoadedModel) -> None:
    examples = [EXAMPLES[0], Example(7, "x" * 2047, ("info_1",))]
    with pytest.raises(DatasetFormatError, match="Row 7 of the validation file") as caught:
        prepare_held_out(examples, PromptRenderer("plain"), base, grammar_for(base), cutoff_len=4096)
    assert caught.value.param == "validation_file"


def test_a_held_out_answer_beyond_the_cutoff_has_no_loss_but_is_still_asked(base: LoadedModel) -> None:
    held_out, left_out = prepare_held_out(EXAMPLES, PromptRenderer("plain"), base, grammar_for(base), cutoff_len=20)
    assert (len(held_out.rows), left_out, len(held_out.prompts)) == (4, 1, 5)
    with pytest.raises(NothingToTrain):
        prepare_held_out(EXAMPLES[2:3], PromptRenderer("plain"), base, grammar_for(base), cutoff_len=16)


def test_generated_answers_are_scored_like_those_of_the_published_adapter(
    sharp_folder: BaseModelFolder, published: dict[str, Published]
) -> None:
    from app.ml.engine.answering import AnswerEngine
    from app.ml.metrics import score_answers

    adapter, base = published["dora"], load(sharp_folder)
    engine = AnswerEngine(load(sharp_folder))
    engine.load(adapter.checksum, adapter.folder)
    answers = engine.answer([one.question for one in EXAMPLES], checksum=adapter.checksum)
    expected = score_answers(
        [answer.best.codes for answer in answers], [one.codes for one in adapter.examples], engine.vocabulary_of(adapter.checksum)
    )
    held_out, _ = prepare_held_out(
        adapter.examples, PromptRenderer("plain"), base, grammar_for(base, adapter.examples), cutoff_len=512
    )
    assert score_generated(base, adapter.network, held_out, is_cut_short=lambda: False) == expected


def test_a_trained_network_may_be_evaluated_in_the_middle_of_training(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    # Decoding runs in inference mode: none of its tensors may be met again by a backward pass.
    result = run(sharp_folder, replace(FAST, num_train_epochs=3, use_dora=True, lora_dropout=0.1), tmp_path, held_out=UNSEEN)
    assert [entry["step"] for entry in result.state.evaluations] == [1, 2, 3]


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_the_drafted_engine_gives_the_scores_of_padded_decoding(
    sharp_folder: BaseModelFolder, published: dict[str, Published], tmp_path: Path, name: str
) -> None:
    base, network, examples = load(sharp_folder), published[name].network, (*EXAMPLES, *UNSEEN) * 3
    drafted, asked = held_out_rows(base, examples, scratch=tmp_path), []

    def is_cut_short() -> bool:
        asked.append(1)
        return False

    before = {name: value.clone() for name, value in network.state_dict().items()}
    scores = score_generated(base, network, drafted, is_cut_short=is_cut_short)
    assert scores == score_generated(base, network, replace(drafted, adapter=None), is_cut_short=lambda: False)
    assert len(asked) == 2, "21 rows, 16 a batch"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not list(tmp_path.iterdir()), "the copy of the adapter is gone"


def test_an_adapter_that_the_drafted_engine_knows_not_is_scored_padded(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    spec = replace(FAST, num_train_epochs=1, lora_target=("q_proj", "embed_tokens"))
    result = run(sharp_folder, spec, tmp_path / "checkpoints", held_out=UNSEEN)
    assert result.state.evaluations[-1]["rows"] == 2


def test_without_memory_for_the_drafted_engine_rows_are_answered_padded(
    sharp_folder: BaseModelFolder, published: dict[str, Published], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.ml.engine.answering import AnswerEngine

    base, network = load(sharp_folder), published["lora"].network
    held_out, tried = held_out_rows(base, EXAMPLES, scratch=tmp_path), []

    def fail(*_: object, **__: object) -> None:
        tried.append(1)
        raise torch.OutOfMemoryError

    expected = score_generated(base, network, held_out, is_cut_short=lambda: False)
    for method in ("load_unsealed", "answer"):
        with monkeypatch.context() as patch:
            patch.setattr(AnswerEngine, method, fail)
            assert score_generated(base, network, held_out, is_cut_short=lambda: False) == expected
    assert len(tried) == 2
