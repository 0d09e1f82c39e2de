"""What is trained: networks by shape or with real weights, and rows whose lengths are a real dataset's."""

import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GemmaConfig, GemmaForCausalLM

from app.ml.codes import SEPARATOR, answer_tokens
from app.ml.engine.batching import TokenRow
from app.ml.engine.device import choose_dtype
from app.ml.engine.loading import LoadedModel, load_base_model
from app.ml.model_store import BaseModelFolder
from app.ml.prompting import PromptRenderer
from app.ml.spec import Precision
from app.ml.tokens import FileTokenizer, load_tokenizer

# How many of the 5,000 rows of telecom_train_5000 have so many tokens under Gemma's tokenizer: prompt with its BOS
# (mean 26.7), answer with its end (mean 8.3).
_PROMPT_LENGTHS = {
    18: 3, 19: 13, 20: 87, 21: 185, 22: 308, 23: 436, 24: 534, 25: 588, 26: 495, 27: 504, 28: 462, 29: 365, 30: 259,
    31: 208, 32: 155, 33: 131, 34: 80, 35: 69, 36: 43, 37: 26, 38: 18, 39: 12, 40: 8, 41: 5, 42: 1, 43: 1, 44: 3, 45: 1,
}  # fmt: skip
_ANSWER_LENGTHS = {
    2: 74, 3: 558, 4: 324, 5: 687, 6: 934, 7: 704, 8: 238, 9: 62, 10: 174, 11: 148, 12: 286, 13: 106, 14: 173, 15: 90,
    16: 40, 17: 7, 18: 114, 19: 11, 20: 21, 21: 64, 22: 13, 23: 9, 24: 37, 25: 7, 26: 12, 27: 6, 28: 30, 29: 3, 30: 15,
    31: 3, 32: 8, 33: 3, 34: 3, 35: 12, 36: 3, 37: 1, 38: 1, 39: 1, 40: 4, 42: 2, 45: 3, 46: 2, 50: 1, 51: 1, 52: 1,
    53: 2, 56: 1, 59: 1,
}  # fmt: skip

_SAMPLE = Path(__file__).parents[2] / "samples" / "telecom_demo.json"
MODELS = ("gemma-2b-shapes", "gemma-3-270m", "tiny")
GEMMA_2B = {
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "vocab_size": 256_000,
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 512,
}


@dataclass(frozen=True)
class ShapesTokenizer:
    """Stands in for a tokenizer where rows are ids already."""

    pad_id: int = 0
    eos_id: int = 1
    bos_id: int = 2


@dataclass(frozen=True)
class Workload:
    """One model on one device, built anew for each contestant, so that none inherits another's state or memory."""

    model: str
    device: torch.device
    store: Path
    """Folder of the model store, for real weights."""
    precision: Precision = "auto"

    @property
    def dtype(self) -> torch.dtype:
        """Returns the arithmetic that the product would choose here."""
        if self.model == "tiny":
            return torch.float32
        return choose_dtype(self.device, self.precision)

    def build(self, dtype: torch.dtype) -> LoadedModel:
        """Returns a fresh frozen network; random weights are made on the device."""
        torch.manual_seed(0)
        if self.model == "gemma-3-270m":
            folder = BaseModelFolder(self.model, (self.store / self.model).resolve(), "")
            return load_base_model(folder, device=self.device, dtype=dtype)
        torch.set_default_dtype(dtype)
        try:
            with self.device:
                network: Any = GemmaForCausalLM(GemmaConfig(**(TINY if self.model == "tiny" else GEMMA_2B)))
        finally:
            torch.set_default_dtype(torch.float32)
        network.requires_grad_(False).eval()
        tokenizer: Any = ShapesTokenizer()
        tokens: FileTokenizer = tokenizer
        return LoadedModel(self.model, "", network, tokens, self.device, dtype)

    def text_rows(self, count: int) -> list[TokenRow]:
        """Returns rows of the sample's real questions, again and again; where the weights are random, random ids."""
        if self.model != "gemma-3-270m":
            return self.rows(count, seed=3)
        tokenizer, renderer = load_tokenizer(self.store / self.model), PromptRenderer("plain")
        separator = tokenizer.encode(SEPARATOR)

        def row(example: dict[str, str]) -> TokenRow:
            codes = [tokenizer.encode(code) for code in example["output"].split(SEPARATOR)]
            answer = answer_tokens(codes, separator, tokenizer.eos_id)
            return TokenRow(tuple(renderer.encode(example["instruction"], tokenizer)), tuple(answer))

        rows = [row(example) for example in json.loads(_SAMPLE.read_text())]
        return list(itertools.islice(itertools.cycle(rows), count))

    def rows(self, count: int, *, seed: int = 0) -> list[TokenRow]:
        """Returns rows of random ids with telecom_train_5000's lengths."""
        generator = random.Random(seed)
        highest = TINY["vocab_size"] if self.model == "tiny" else 200_000
        prompts = generator.choices(list(_PROMPT_LENGTHS), list(_PROMPT_LENGTHS.values()), k=count)
        answers = generator.choices(list(_ANSWER_LENGTHS), list(_ANSWER_LENGTHS.values()), k=count)

        def ids(length: int) -> tuple[int, ...]:
            return tuple(generator.randrange(10, highest) for _ in range(length))

        return [TokenRow(ids(prompt), ids(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
