from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.ml.engine.batching import TokenRow, collate
from app.ml.engine.head import head_at
from app.ml.engine.loading import LoadedModel
from app.ml.engine.loss import summed_loss
from app.ml.formats.example import Example
from app.ml.model_store import BaseModelFolder
from tests.app.ml.engine.training_help import CPU, EXAMPLES, FAST, run, token_rows
from tests.fixtures.tiny import PAD

# Longer than the tiny model's sliding window of 32 tokens.
LONG = Example(6, "a question that is much longer than the sliding window of this model", ("open_1", "9.9"))


def loss_of_row(base: LoadedModel, row: TokenRow) -> torch.Tensor:
    """transformers' own loss of one unpadded row, as a sum."""
    ids = torch.tensor([[*row.prompt, *row.answer]])
    labels = torch.tensor([[-100] * len(row.prompt) + list(row.answer)])
    loss: torch.Tensor = base.network(input_ids=ids, labels=labels).loss
    return loss * len(row.answer)


def test_a_padded_batch_has_the_summed_loss_of_its_rows_alone(base: LoadedModel) -> None:
    rows = token_rows(base, [*EXAMPLES, LONG])
    assert len({len(row.prompt) for row in rows}) > 3
    batch = collate(rows, pad_id=PAD, device=CPU)
    expected = sum(float(loss_of_row(base, row)) for row in rows)
    assert float(summed_loss(base.network, batch)) == pytest.approx(expected, rel=1e-5)


def test_what_pads_a_batch_does_not_matter(base: LoadedModel) -> None:
    rows = token_rows(base, [*EXAMPLES, LONG])
    losses = [float(summed_loss(base.network, collate(rows, pad_id=pad_id, device=CPU))) for pad_id in (PAD, 7)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_no_gradient_comes_from_an_attention_that_is_wrong_under_masks(
    base: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.integrations.sdpa_attention as sdpa

    seen = []
    real = torch.nn.functional.scaled_dot_product_attention

    def watched(*arguments: torch.Tensor, **options: object) -> torch.Tensor:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sdpa.torch.nn.functional, "scaled_dot_product_attention", watched)
    was = torch.backends.cuda.cudnn_sdp_enabled()
    summed_loss(base.network, collate(token_rows(base, [*EXAMPLES, LONG]), pad_id=PAD, device=CPU))

    assert seen == [False] * base.network.config.num_hidden_layers
    assert torch.backends.cuda.cudnn_sdp_enabled() == was


def test_the_head_sees_only_the_wanted_positions(base: LoadedModel) -> None:
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    wanted = torch.tensor([[True, False], [True, True]])
    with torch.inference_mode():
        everything = base.network(input_ids=ids).logits
        with head_at(base.network, wanted):
            some = base.network(input_ids=ids).logits
        after = base.network(input_ids=ids).logits
    torch.testing.assert_close(some, everything[:, -2:][wanted][None])
    assert torch.equal(after, everything)


def gradients(folder: BaseModelFolder, place: Path, *, rows: int, micro_batches: int) -> dict[str, torch.Tensor]:
    """Gradients of the only step of a run over 8 rows, before clipping."""
    spec = replace(
        FAST, per_device_train_batch_size=rows, gradient_accumulation_steps=micro_batches, num_train_epochs=1, max_grad_norm=0.0
    )
    result = run(folder, spec, place, examples=[*EXAMPLES, LONG, *EXAMPLES[:2]])
    assert result.state.step == 1
    return {name: p.grad for name, p in result.network.named_parameters() if p.grad is not None}


def test_four_micro_batches_of_two_have_the_gradient_of_one_of_eight(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    one = gradients(sharp_folder, tmp_path, rows=8, micro_batches=1)
    four = gradients(sharp_folder, tmp_path, rows=2, micro_batches=4)
    assert max(float(gradient.abs().max()) for gradient in one.values()) > 1e-3
    assert one.keys() == four.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(four[name], gradient, rtol=1e-4, atol=1e-5)
