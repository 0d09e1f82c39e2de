"""Named overrides of the job spec. Each is what a user would post as `hyperparameters`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.ml.spec import FinetuneSpec, resolve_spec

Overrides = Mapping[str, Any]

# Plain LoRA on all linear layers, as the first look at the H100 had it.
LORA: Overrides = {
    "preset": "quick",
    "num_train_epochs": 8.0,
    "per_device_train_batch_size": 64,
    "warmup_ratio": 0.05,
    "eval_strategy": "no",
}
TEACHER_SEEDS = "teacher_seeds"
"""In a variant: train it with these seeds first, and let it learn from those adapters (`distill_from`)."""
ANSWER_FORMAT, CODE_TOKENS = "answer_format", "code_tokens"
"""In a variant: what codes are made of; besides the spec's own formats `code_tokens` (see `bench.quality.code_tokens`)."""
CODE_LEARNING_RATE = "code_learning_rate"
"""In a variant with code tokens: the peak learning rate of their embeddings; by default the adapter's."""
_NOT_IN_SPEC = {TEACHER_SEEDS, CODE_LEARNING_RATE}
_ALLOWED: Overrides = {**LORA, "lora_alpha": 64, "learning_rate": 2e-4, "loss_over": "allowed"}
_AUTO: Overrides = {"preset": "auto", "eval_strategy": "no"}
_DIRECT: Overrides = {"preset": "direct", "eval_strategy": "no"}
# What is told apart, one ingredient a line; combinations of other kinds come from a variants file.
VARIANTS: Mapping[str, Overrides] = {
    "recipe": {"preset": "recipe", "eval_strategy": "no"},
    "lora": LORA,
    "lora_scaled": {**LORA, "use_rslora": True},
    "lora_scaled_more": {**LORA, "use_rslora": True, "lora_alpha": 64, "learning_rate": 2e-4},
    "code_tokens": {**LORA, ANSWER_FORMAT: CODE_TOKENS},
    "single_tokens": {**LORA, ANSWER_FORMAT: "single_tokens"},
    "allowed": _ALLOWED,
    "neighbours_4": {**_ALLOWED, "prompt_neighbours": 4},
    "neighbours_8": {**_ALLOWED, "prompt_neighbours": 8},
    "neighbours_12": {**_ALLOWED, "prompt_neighbours": 12},
    "neighbours_4_by_answers": {**_ALLOWED, "prompt_neighbours": 4, "prompt_neighbours_by": "answers"},
    "neighbours_8_by_answers": {**_ALLOWED, "prompt_neighbours": 8, "prompt_neighbours_by": "answers"},
    "phrases": {**_ALLOWED, "augment_phrases": 0.7},
    "noise": {**_ALLOWED, "augment_noise": 0.05},
    "canonical": {**_ALLOWED, "code_order": "canonical"},
    "shuffled": {**_ALLOWED, "code_order": "shuffled"},
    # The preset, and the preset with one thing changed.
    "auto": _AUTO,
    "auto_without_inferences": {**_AUTO, "augment_inferences": 0.0},
    "auto_without_joins": {**_AUTO, "augment_joins": 0.0},
    "auto_without_phrases": {**_AUTO, "augment_phrases": 0.0},
    "auto_without_smoothing": {**_AUTO, "label_smoothing_factor": 0.0},
    "auto_without_neighbours": {**_AUTO, "prompt_neighbours": 0},
    "auto_never_alone": {**_AUTO, "prompt_alone": 0.0},
    "auto_hiding_30": {**_AUTO, "prompt_neighbours_hidden": 0.3},
    "auto_showing_all": {**_AUTO, "prompt_neighbours_hidden": 0.0},
    "auto_neighbours_by_text": {**_AUTO, "prompt_neighbours_by": "text"},
    "auto_8_neighbours": {**_AUTO, "prompt_neighbours": 8},
    "auto_16_neighbours": {**_AUTO, "prompt_neighbours": 16},
    "auto_alone_30_800_steps": {**_AUTO, "prompt_alone": 0.3, "min_train_steps": 800},
    "auto_without_code_exchange": {**_AUTO, "prompt_codes_exchanged": 0.0},
    "auto_without_classifier": {**_AUTO, "classifier_weight": 0.0},
    "auto_without_synonyms": {**_AUTO, "augment_synonyms": 0.0},
    "auto_300_steps": {**_AUTO, "min_train_steps": 300},
    "auto_smoothed_10": {**_AUTO, "label_smoothing_factor": 0.1},
    "auto_phrases_90": {**_AUTO, "augment_phrases": 0.9},
    "auto_inferences_60": {**_AUTO, "augment_inferences": 0.6},
    "auto_noise": {**_AUTO, "augment_noise": 0.05},
    "auto_average": {**_AUTO, "ema_decay": 0.99},
    "auto_dropout": {**_AUTO, "lora_dropout": 0.1},
    "auto_scaled_more": {**_AUTO, "lora_alpha": 64, "learning_rate": 2e-4},
    "auto_loss_over_vocabulary": {**_AUTO, "loss_over": "vocabulary"},
    "auto_single_tokens": {**_AUTO, ANSWER_FORMAT: "single_tokens"},
    "auto_code_tokens": {**_AUTO, ANSWER_FORMAT: CODE_TOKENS},
    "direct": _DIRECT,
    "direct_without_repetition": {**_DIRECT, "prompt_repeats_question": False},
    "direct_without_synonyms": {**_DIRECT, "augment_synonyms": 0.0},
    "direct_without_inferences": {**_DIRECT, "augment_inferences": 0.0},
    "direct_without_smoothing": {**_DIRECT, "label_smoothing_factor": 0.0},
    "direct_without_joins": {**_DIRECT, "augment_joins": 0.0},
    "direct_without_phrases": {**_DIRECT, "augment_phrases": 0.0},
    "direct_loss_over_vocabulary": {**_DIRECT, "loss_over": "vocabulary"},
    "direct_single_tokens": {**_DIRECT, ANSWER_FORMAT: "single_tokens"},
}


def find_variants(names: Sequence[str], file: Path | None, changes: Overrides) -> dict[str, dict[str, Any]]:
    """Returns the named variants; a JSON file of `{"name": {…}}` adds to those here, and without names is taken whole.

    A variant of the file may say `"from": "lora"`. `changes` override all of them.

    Raises:
        InvalidSpec: an override is none of the job spec's.
        SystemExit: there is no such variant.
    """
    added: dict[str, dict[str, Any]] = {} if file is None else json.loads(file.read_text())
    known: dict[str, dict[str, Any]] = {name: dict(overrides) for name, overrides in VARIANTS.items()}
    for name, overrides in added.items():
        parent = overrides.get("from")
        if parent is not None and parent not in known:
            raise SystemExit(f"Variant {name!r} is from {parent!r}, which is none listed before it: {sorted(known)}.")
        known[name] = {**({} if parent is None else known[parent]), **{key: v for key, v in overrides.items() if key != "from"}}
    wanted = list(names) or list(added)
    if missing := [name for name in wanted if name not in known]:
        raise SystemExit(f"There is no variant {missing}. Known: {sorted(known)}.")
    chosen = {name: {**known[name], **changes} for name in wanted}
    for overrides in chosen.values():
        spec_of(overrides)
    return chosen


def spec_of(overrides: Overrides) -> FinetuneSpec:
    """Resolves a variant as the product resolves a request."""
    asked = {name: value for name, value in overrides.items() if name not in _NOT_IN_SPEC}
    if asked.get(ANSWER_FORMAT) == CODE_TOKENS:
        del asked[ANSWER_FORMAT]
    if TEACHER_SEEDS in overrides:
        # A job names adapters that are there; a run trains its own.
        asked["distill_from"] = [f"teacher:{seed}" for seed in overrides[TEACHER_SEEDS]]
    return resolve_spec(asked)


def teachers_of(overrides: Overrides) -> dict[int, dict[str, Any]]:
    """Returns, by seed, the overrides of the adapters that a variant learns from: its own, without teachers."""
    alone = {name: value for name, value in overrides.items() if name != TEACHER_SEEDS and not name.startswith("distill_")}
    return {int(seed): alone for seed in overrides.get(TEACHER_SEEDS, ())}
