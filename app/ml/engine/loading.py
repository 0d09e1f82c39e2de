"""A base model from the store into memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from app.ml.engine.device import dtype_name
from app.ml.model_store import BaseModelFolder
from app.ml.tokens import TextTokenizer, load_tokenizer

transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()


@dataclass
class LoadedModel:
    """A base model on its device; `network` is transformers' module, later wrapped by peft."""

    name: str
    checksum: str
    network: Any
    tokenizer: TextTokenizer
    device: torch.device
    dtype: torch.dtype

    @property
    def precision(self) -> str:
        """`bf16` or `fp32`."""
        return dtype_name(self.dtype)


def load_base_model(folder: BaseModelFolder, *, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """Loads weights (safetensors only, no remote code) and the tokenizer; the network is frozen and in eval mode."""
    network = AutoModelForCausalLM.from_pretrained(
        folder.path, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    network.to(device)
    network.requires_grad_(False)
    network.eval()
    return LoadedModel(folder.name, folder.checksum, network, load_tokenizer(Path(folder.path)), device, dtype)
