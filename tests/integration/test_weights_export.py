"""An adapter of the real Gemma 3 270M, exported: plain transformers and plain peft compute what training left."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.ml.engine.merging import merge_adapter
from app.ml.export_folders import write_merged_card, write_peft_export
from app.ml.formats.example import Example
from app.ml.model_store import GEMMA3_270M, BaseModelFolder, ModelStore
from app.ml.prompting import PromptRenderer
from app.ml.spec import FinetuneSpec
from app.ml.tokens import load_tokenizer
from app.settings import DEFAULT_BASE_MODELS, Settings
from tests.app.ml.engine.training_help import publish, run

pytestmark = [pytest.mark.weights, pytest.mark.timeout(600)]

QUESTION = "百度流量月包怎么取消"
ROWS = (Example(1, QUESTION, ("取消方式_12", "9.9")), Example(2, "怎么开通彩铃", ("开通方式_98",)))
# The recipe's kind of adapter; two steps so large that the weights' rounding cannot hide them.
SPEC = FinetuneSpec(
    lora_rank=8,
    lora_alpha=16,
    use_dora=True,
    use_rslora=True,
    lora_target=("q_proj", "v_proj"),
    learning_rate=2e-2,
    num_train_epochs=2,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=1,
    precision="fp32",
)


@torch.no_grad()
def logits_of(network: Any, ids: list[int]) -> torch.Tensor:
    network.eval()
    logits: torch.Tensor = network(input_ids=torch.tensor([ids])).logits[0].float()
    return logits


@pytest.fixture(scope="module")
def base() -> BaseModelFolder:
    """The product's own store, as `make demo` uses it."""
    store = ModelStore(Settings(data_dir=Path(__file__).parents[2] / ".dianda").models_dir, DEFAULT_BASE_MODELS)
    return store.import_in_subprocess(GEMMA3_270M)


def test_a_merged_and_a_peft_export_compute_what_was_trained(base: BaseModelFolder, tmp_path: Path) -> None:
    result = run(base, SPEC, tmp_path / "checkpoints", examples=ROWS)
    adapter, merged, peft = tmp_path / "adapter", tmp_path / "merged", tmp_path / "peft"
    publish(result, adapter, base, SPEC, ROWS)
    merged.mkdir()
    peft.mkdir()
    ids = PromptRenderer(SPEC.template).encode(QUESTION, load_tokenizer(base.path))
    trained = logits_of(result.network, ids)
    del result

    assert merge_adapter(base.path, adapter, merged, go_on=lambda done, total: True, max_shard_bytes=200 * 1024**2)
    write_merged_card(adapter, merged, name="telecom:1", base=base.path)
    write_peft_export(adapter, peft, name="telecom:1", base=base.path)

    assert AutoTokenizer.from_pretrained(merged)(f"{QUESTION}\n").input_ids == ids
    network = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    shift = (logits_of(network, ids) - trained).abs().max()
    by_peft = PeftModel.from_pretrained(network, str(peft))
    assert (logits_of(by_peft, ids) - trained).abs().max() < 1e-3
    # The files are bf16, as the base's: what peft merges in fp32, rounded alike, gives the same logits, but for a rounding
    # here and there that fp32's last bit tips.
    rounded = by_peft.merge_and_unload()
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    wanted = logits_of(rounded, ids)
    del rounded, by_peft, network
    plain = logits_of(AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), ids)
    assert (plain - wanted).abs().max() < 1e-3 * shift
    # And beside what the adapter changes, the rounding is small.
    assert (plain - trained).abs().max() < 0.1 * shift
