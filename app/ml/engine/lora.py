"""LoRA, DoRA and rsLoRA adapters on a base model, through peft."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file

from app.ml.engine.flat_parameters import FlatGroup, flatten
from app.ml.errors import InvalidSpec
from app.ml.spec import FinetuneSpec

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


def attach_adapter(network: Any, spec: FinetuneSpec) -> Any:
    """Wraps a frozen network with a fresh adapter whose weights are fp32 and train.

    Raises:
        InvalidSpec: the network lacks a module that `lora_target` names.
    """
    present = {name.rpartition(".")[2] for name, _ in network.named_modules()}
    missing = [target for target in spec.lora_target if target not in present]
    if missing:
        raise InvalidSpec(f"This base model has no module {', '.join(missing)}.", param="lora_target")
    config = LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=list(spec.lora_target),
        use_rslora=spec.use_rslora,
        use_dora=spec.use_dora,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        wrapped = get_peft_model(network, config)
    if spec.use_dora:
        _start_magnitudes_exactly(wrapped)
    return wrapped


@torch.no_grad()
def _start_magnitudes_exactly(network: Any) -> None:
    # peft takes a bf16 weight's norms in bf16; from fp32 ones the adapter starts as the identity in any arithmetic.
    for module in network.modules():
        if hasattr(module, "lora_magnitude_vector") and isinstance(module.get_base_layer(), torch.nn.Linear):
            for layer in module.lora_magnitude_vector.values():
                layer.weight.copy_(torch.linalg.vector_norm(module.get_base_layer().weight, dim=1, dtype=torch.float32))


def trainable_parameters(network: Any) -> dict[str, torch.nn.Parameter]:
    """Returns the parameters that train, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def trainable_parameter_count(network: Any) -> int:
    """Returns how many numbers train, DoRA magnitudes included."""
    return sum(parameter.numel() for parameter in trainable_parameters(network).values())


def flat_groups(network: Any, spec: FinetuneSpec) -> list[FlatGroup]:
    """Lays the trainable parameters end to end, one flat parameter a learning rate, never an empty one.

    LoRA+ (arXiv 2402.12354): B learns `loraplus_lr_ratio` times as fast as A; factors on embeddings have their own rate.
    """
    plain: list[tuple[str, torch.nn.Parameter]] = []
    faster: list[tuple[str, torch.nn.Parameter]] = []
    embedding: list[tuple[str, torch.nn.Parameter]] = []
    for name, parameter in trainable_parameters(network).items():
        if spec.loraplus_lr_ratio is not None and "lora_embedding" in name:
            embedding.append((name, parameter))
        elif spec.loraplus_lr_ratio is not None and "lora_B" in name:
            faster.append((name, parameter))
        else:
            plain.append((name, parameter))
    rates = [
        ("plain", plain, spec.learning_rate),
        ("faster", faster, spec.learning_rate * (spec.loraplus_lr_ratio or 1.0)),
        ("embedding", embedding, spec.loraplus_lr_embedding),
    ]
    return [flatten(name, rate, parameters) for name, parameters, rate in rates if parameters]


def unused_settings(spec: FinetuneSpec) -> list[str]:
    """Returns one sentence for each setting that is accepted but does nothing with this spec."""
    notes = []
    if spec.loraplus_lr_ratio is not None and "embed_tokens" not in spec.lora_target:
        notes.append("loraplus_lr_embedding does nothing, because lora_target has no embed_tokens.")
    if spec.min_lr_rate and spec.lr_scheduler_type == "constant":
        notes.append("min_lr_rate does nothing with lr_scheduler_type constant.")
    return notes


def save_adapter(network: Any, folder: Path) -> None:
    """Writes `adapter_model.safetensors` and `adapter_config.json` as peft does; plain peft loads them."""
    network.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def restore_adapter(network: Any, folder: Path) -> None:
    """Copies saved adapter weights into the attached adapter, bit for bit."""
    set_peft_model_state_dict(network, load_file(folder / ADAPTER_WEIGHTS))


def load_adapter(network: Any, folder: Path, name: str) -> Any:
    """Adds a trained adapter under `name` to a network (plain or already wrapped) and returns the wrapped network.

    Only safetensors are read; the folder was verified by its manifest before.
    """
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} holds no {ADAPTER_WEIGHTS}")
    if isinstance(network, PeftModel):
        network.load_adapter(str(folder), adapter_name=name, is_trainable=False)
    else:
        network = PeftModel.from_pretrained(network, str(folder), adapter_name=name, is_trainable=False)
    network.eval()
    return network
