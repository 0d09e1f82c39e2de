"""Does a device compute what the CPU computes? Asked before anything is trained on it; takes about a second.

A wrong build of a GPU stack fails in silence: losses that are plausible and weights that are not. So one training step of a
tiny random Gemma with an adapter is run on both, and its loss, gradients and weight updates are compared.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import GemmaConfig, GemmaForCausalLM

from app.ml.engine.device import arithmetic, device_facts, dtype_name, has_bf16
from app.ml.engine.lora import attach_adapter, trainable_parameters
from app.ml.errors import DeviceComputesWrongly, OutOfDeviceMemory
from app.ml.spec import FinetuneSpec

_SEED = 20_260_101
_ROWS, _TOKENS, _VOCABULARY = 4, 24, 256
_SPEC = FinetuneSpec(lora_rank=8, lora_alpha=16, use_dora=True)
# ||a - b|| / ||b|| against the CPU in fp32. Sound devices stay far below: fp32 (TF32 too) 1e-3, bf16 3e-2.
_TOLERANCES = {
    torch.float32: {"loss": 1e-3, "gradients": 1e-2, "weight updates": 1e-2},
    torch.bfloat16: {"loss": 1e-2, "gradients": 1e-1, "weight updates": 1e-1},
}
# What HIP and CUDA say where a library has no code for the card: no figures to compare, but the same cause.
_NO_KERNEL = ("invalid device function", "no kernel image", "named symbol not found")


@dataclass(frozen=True)
class _Step:
    """What one optimiser step left, on the CPU in fp32."""

    loss: torch.Tensor
    """[1]"""
    gradients: torch.Tensor
    """[trainable numbers]"""
    updates: torch.Tensor
    """[trainable numbers]: how far AdamW moved each"""

    def parts(self) -> dict[str, torch.Tensor]:
        """Returns the parts by the names that a message uses."""
        return {"loss": self.loss, "gradients": self.gradients, "weight updates": self.updates}


def check_device(
    device: torch.device, *, around_device_runs: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> dict[str, float]:
    """Compares a training step on a device, in fp32 and in bf16 where it has that, with the same step on the CPU in fp32.

    Returns the relative errors by `precision part`. `around_device_runs` makes the context of the device's runs alone, in
    which a test breaks the arithmetic. No random state changes.

    Raises:
        DeviceComputesWrongly: a part differs by more than rounding explains, or the device has no code for it.
        OutOfDeviceMemory: not even the tiny model fits.
    """
    network, ids = _tiny_gemma()
    reference = _step(network, ids, torch.device("cpu"), torch.float32)
    errors: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and not has_bf16(device):
            continue
        try:
            with around_device_runs():
                found = _step(network, ids, device, dtype)
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemory(
                f"{_title(device)} has no memory left for even a tiny model. Another process holds it, or "
                "DIANDA_MEMORY_LIMIT_GIB is too small."
            ) from error
        except RuntimeError as error:
            if any(phrase in str(error) for phrase in _NO_KERNEL):
                raise _wrong(device, f"has no code for a training step in {dtype_name(dtype)} ({_first_line(error)})") from error
            raise
        for part, value in found.parts().items():
            wanted = reference.parts()[part]
            relative = float((value - wanted).norm() / wanted.norm())
            tolerance = _TOLERANCES[dtype][part]
            if not relative <= tolerance:  # NaN is refused too
                raise _wrong(
                    device,
                    f"computes wrongly: the {part} of a tiny training step in {dtype_name(dtype)} differ from the CPU's by "
                    f"{relative:.2g} of their norm, where at most {tolerance:g} is rounding",
                )
            errors[f"{dtype_name(dtype)} {part}"] = relative
    return errors


def _tiny_gemma() -> tuple[Any, torch.Tensor]:
    """Returns a two-layer Gemma with grouped query attention and an adapter, fp32 on the CPU, and `[4, 24]` token ids."""
    config = GemmaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        hidden_activation="gelu_pytorch_tanh",
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = GemmaForCausalLM(config)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.dim() > 1:
                    # transformers' scale of 0.02 leaves attention nearly uniform: too little to be wrong about.
                    parameter.mul_(5)
        network.requires_grad_(False)
        network = attach_adapter(network, _SPEC)
        with torch.no_grad():
            for name, parameter in trainable_parameters(network).items():
                if "lora_B" in name:
                    # B begins at zero, and then A has no gradient.
                    parameter.normal_(std=0.1)
        ids = torch.randint(3, _VOCABULARY, (_ROWS, _TOKENS))
    return network, ids


def _step(network: Any, ids: torch.Tensor, device: torch.device, dtype: torch.dtype) -> _Step:
    """Runs forward, backward and one AdamW step on a copy of the network; rows of unequal length, as in training."""
    network, ids = copy.deepcopy(network), ids.to(device)
    trained = trainable_parameters(network)
    if dtype != torch.float32:
        for parameter in network.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    network.to(device)
    mask = torch.ones_like(ids)
    for row in range(_ROWS):
        mask[row, : 2 * row] = 0
    # eps of the gradients' size makes the first step follow the gradient, not its sign, which rounding may turn.
    optimiser = torch.optim.AdamW(trained.values(), lr=0.1, eps=1e-2, weight_decay=0.0)
    before = [parameter.detach().clone() for parameter in trained.values()]
    with arithmetic(network):
        logits = network(input_ids=ids, attention_mask=mask, use_cache=False).logits
    loss = cross_entropy(logits[:, -9:-1].float().flatten(0, 1), ids[:, -8:].flatten())
    torch.autograd.backward(loss)
    gradients = [parameter.grad for parameter in trained.values()]
    assert all(gradient is not None for gradient in gradients)
    flat = torch.cat([gradient.flatten().float().cpu() for gradient in gradients if gradient is not None])
    optimiser.step()
    moved = [parameter.detach() - old for parameter, old in zip(trained.values(), before, strict=True)]
    return _Step(loss.detach().float().cpu().reshape(1), flat, torch.cat([delta.flatten().float().cpu() for delta in moved]))


def _wrong(device: torch.device, what: str) -> DeviceComputesWrongly:
    facts = device_facts(device)
    advice = (
        "Check that the driver and this build of torch belong together, unset HSA_OVERRIDE_GFX_VERSION, and try "
        "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=0; or hide the card from the worker and train on the CPU."
    )
    return DeviceComputesWrongly(f"{_title(device)} {what} (torch {facts.torch_version}). {advice}")


def _title(device: torch.device) -> str:
    facts = device_facts(device)
    return f"Device {device} ({facts.kind}, {facts.name})"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
