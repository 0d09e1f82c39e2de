"""An adapter folded into its base model's weights: a plain model folder for transformers, vLLM or llama.cpp.

No network is built: tensor after tensor goes from the base's files through the fp32 sum into a shard, on the CPU, so that
memory holds one shard and one matrix in fp32, never the model.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from app.ml.adapter_card import read_card
from app.ml.engine.lora import ADAPTER_WEIGHTS
from app.ml.errors import AdapterMismatch
from app.ml.tokens import SPECIAL_IDS
from app.ml.weight_headers import read_modules

MAX_SHARD_BYTES = 2 * 1024**3
_PEFT_PREFIX = "base_model.model."
_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
# What a plain model folder holds beside its weights; the store's own files stay behind.
_COPIED = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Factors:
    """An adapter on one weight `[out, in]`, or on an embedding `[rows, width]`."""

    down: torch.Tensor
    """`[r, in]`, or `[r, rows]` of an embedding."""
    up: torch.Tensor
    """`[out, r]`, or `[width, r]` of an embedding."""
    magnitude: torch.Tensor | None
    """DoRA's, `[out]` or `[width]`."""
    is_embedding: bool


def merge_adapter(
    base: Path,
    adapter: Path,
    target: Path,
    *,
    go_on: Callable[[int, int], bool],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> bool:
    """Writes the merged model into `target`, in the base's dtypes; False where `go_on` ended it before.

    `go_on` hears the tensors written so far and all of them. Where the base ties its head to an embedding that the adapter
    changes, the merged model has a head of its own: the adapter was trained with the head as it was.

    Raises:
        AdapterMismatch: the adapter has tensors that fit no weight of the base model.
    """
    factors = _read_factors(adapter)
    scale = read_card(adapter).spec.lora_scale
    unties = unties_head(base, adapter)
    with ExitStack() as opened:
        files = [opened.enter_context(safe_open(path, framework="pt")) for path in sorted(base.glob("*.safetensors"))]
        names = {name: file for file in files for name in file.keys()}  # noqa: SIM118  # a file of safetensors is no dict
        if unfitting := factors.keys() - names.keys():
            raise AdapterMismatch(f"The adapter changes {sorted(unfitting)[0]!r}, which the base model does not have.")
        shards = _Shards(target, max_shard_bytes)
        for count, (name, file) in enumerate(names.items(), start=1):
            weight = file.get_tensor(name)
            if name == _EMBEDDING and unties:
                # Of its own storage: safetensors writes no tensor twice.
                shards.add(_HEAD, weight.clone())
            shards.add(name, merged_weight(weight, factors[name], scale) if name in factors else weight)
            if not go_on(count, len(names)):
                return False
    shards.finish()
    _copy_rest(base, target, unties=unties)
    return True


def unties_head(base: Path, adapter: Path) -> bool:
    """Says whether the merged model needs a head of its own: the adapter changes an embedding that the base ties to its head."""
    # The files know best: a tied head is never stored.
    return "lm_head" not in read_modules(base) and "embed_tokens" in read_card(adapter).spec.lora_target


def merged_weight(weight: torch.Tensor, factors: Factors, scale: float) -> torch.Tensor:
    """Returns W + s B A, computed in fp32; with DoRA (arXiv 2402.09353, eq. 5) each row of it at its magnitude.

    An embedding's factors stand transposed, and its magnitudes belong to columns.
    """
    delta = factors.up.float() @ factors.down.float()
    merged = weight.float().add(delta.T if factors.is_embedding else delta, alpha=scale)
    if factors.magnitude is not None:
        across = 0 if factors.is_embedding else 1
        norm = torch.linalg.vector_norm(merged, dim=across, keepdim=True)
        merged.mul_(factors.magnitude.float().unsqueeze(across) / norm)
    return merged.to(weight.dtype).contiguous()


def _read_factors(adapter: Path) -> Mapping[str, Factors]:
    """Returns the adapter's factors by the name of the weight that they change."""
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    left, found = set(tensors), {}
    for key in tensors:
        module, _, kind = key.removesuffix(".weight").rpartition(".")
        if kind not in ("lora_A", "lora_embedding_A"):
            continue
        ending = ".weight" if kind == "lora_A" else ""
        up, magnitude = f"{module}.{kind[:-1]}B{ending}", f"{module}.lora_magnitude_vector"
        left -= {key, up, magnitude}
        found[module.removeprefix(_PEFT_PREFIX) + ".weight"] = Factors(
            tensors[key], tensors[up], tensors.get(magnitude), is_embedding=kind == "lora_embedding_A"
        )
    if left:
        raise AdapterMismatch(f"The adapter holds {sorted(left)[0]!r}, which is no factor of LoRA or DoRA.")
    return found


@dataclass
class _Shards:
    """Tensors in files of at most `max_bytes` each (a larger tensor alone), as transformers names them."""

    folder: Path
    max_bytes: int
    pending: dict[str, torch.Tensor] = field(default_factory=dict)
    pending_bytes: int = 0
    written: list[list[str]] = field(default_factory=list)
    total_bytes: int = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Takes a tensor; writes those before it where it would make the shard too large."""
        if self.pending and self.pending_bytes + tensor.nbytes > self.max_bytes:
            self._write()
        self.pending[name] = tensor
        self.pending_bytes += tensor.nbytes
        self.total_bytes += tensor.nbytes

    def finish(self) -> None:
        """Writes the last shard, gives every shard its name, and writes the index where there are several."""
        self._write()
        count = len(self.written)
        if count == 1:
            self._aside(0).rename(self.folder / "model.safetensors")
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self.written):
            file = f"model-{number + 1:05}-of-{count:05}.safetensors"
            self._aside(number).rename(self.folder / file)
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))

    def _write(self) -> None:
        save_file(self.pending, self._aside(len(self.written)), metadata={"format": "pt"})
        self.written.append(list(self.pending))
        self.pending, self.pending_bytes = {}, 0

    def _aside(self, number: int) -> Path:
        return self.folder / f"shard-{number}.tmp"


def _copy_rest(base: Path, target: Path, *, unties: bool) -> None:
    for name in _COPIED:
        if (base / name).is_file():
            shutil.copyfile(base / name, target / name)
    config = json.loads((base / "config.json").read_text())
    if not config.get("architectures"):
        # transformers does without, and forgets it for a GGUF; vLLM and llama.cpp look for nothing else.
        config["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]]
    if unties:
        config["tie_word_embeddings"] = False
    (target / "config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2, sort_keys=True))
    ids = json.loads((base / SPECIAL_IDS).read_text())
    # Answers are greedy and end where training ended them; a base's own sampling defaults would change them.
    GenerationConfig(
        bos_token_id=ids["bos_id"], eos_token_id=ids["eos_id"], pad_token_id=ids["pad_id"], do_sample=False
    ).save_pretrained(target)
