"""What a user asks of a fine-tuning run: data, never code or a path.

Field names are LLaMA-Factory's where it has one. Plain frozen dataclasses, because the training process and the
device machines run them without pydantic.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from app.ml.errors import InvalidSpec
from app.ml.spec_values import ALL_LINEAR, LORA_TARGETS, WORD_LISTS, checked_value

SPEC_VERSION = 1

Template = Literal["plain", "default"]
Scheduler = Literal["cosine", "linear", "constant"]
Precision = Literal["auto", "bf16", "fp32"]
EvalStrategy = Literal["no", "epoch"]
LossOver = Literal["vocabulary", "allowed"]
CodeOrder = Literal["given", "canonical", "shuffled"]
NeighboursBy = Literal["text", "answers"]
AnswerFormat = Literal["spelled", "single_tokens"]
BestMetric = Literal["exact_match", "set_f1", "eval_loss", "invalid_rate"]

_ROWS_OF_FULL_EXCHANGE = 2_000
_MOST_SCORES = 32


def _ranged(default: Any, low: float, high: float, unit: str, doc: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "unit": unit, "doc": doc})


def _choice(default: Any, choices: tuple[str, ...], doc: str) -> Any:
    return field(default=default, metadata={"choices": choices, "unit": "name", "doc": doc})


def _switch(default: bool, doc: str) -> Any:
    return field(default=default, metadata={"unit": "true or false", "doc": doc})


@dataclass(frozen=True, kw_only=True)
class FinetuneSpec:
    """The hyperparameters of one fine-tuning run; `metadata` of a field holds its range, unit and meaning."""

    template: Template = _choice("plain", ("plain", "default"), "Prompt template (see app.ml.prompting).")
    cutoff_len: int = _ranged(512, 16, 8192, "tokens", "Longest prompt plus answer; longer prompts lose their start.")
    lora_rank: int = _ranged(64, 1, 512, "dimensions", "Rank of the LoRA factors.")
    lora_alpha: int = _ranged(16, 1, 4096, "factor", "Numerator of the LoRA scale.")
    lora_dropout: float = _ranged(0.0, 0.0, 0.9, "fraction", "Dropout on the input of the LoRA branch.")
    lora_target: tuple[str, ...] = field(
        default=ALL_LINEAR,
        metadata={
            "choices": LORA_TARGETS,
            "unit": "module names",
            "doc": "Modules that get an adapter; 'all' = all linear ones.",
        },
    )
    use_rslora: bool = _switch(False, "Scale by alpha / sqrt(rank) instead of alpha / rank (arXiv 2312.03732).")
    use_dora: bool = _switch(False, "Weight-decomposed adaptation (arXiv 2402.09353).")
    loraplus_lr_ratio: float | None = _ranged(None, 0.01, 1000.0, "factor", "LoRA+: lr of B over lr of A (arXiv 2402.12354).")
    loraplus_lr_embedding: float = _ranged(1e-6, 0.0, 1.0, "per step", "LoRA+: lr of LoRA factors on embeddings.")
    learning_rate: float = _ranged(4e-4, 1e-8, 1.0, "per step", "Peak learning rate of AdamW.")
    lr_scheduler_type: Scheduler = _choice("cosine", ("cosine", "linear", "constant"), "Schedule after warm-up.")
    warmup_ratio: float = _ranged(0.0, 0.0, 1.0, "fraction of steps", "Share of steps of linear warm-up.")
    min_lr_rate: float = _ranged(0.0, 0.0, 1.0, "fraction of the peak", "Where cosine and linear end, instead of at 0.")
    num_train_epochs: float = _ranged(3.0, 0.01, 1000.0, "epochs", "Passes over the training rows.")
    per_device_train_batch_size: int = _ranged(8, 1, 4096, "rows", "Rows of one micro-batch.")
    gradient_accumulation_steps: int = _ranged(8, 1, 4096, "micro-batches", "Micro-batches of one optimiser step.")
    weight_decay: float = _ranged(0.0, 0.0, 1.0, "per step", "Decoupled weight decay of AdamW.")
    max_grad_norm: float = _ranged(1.0, 0.0, 1000.0, "L2 norm", "Gradient clipping; 0 switches it off.")
    # So that one spec fits files of any size.
    min_train_steps: int | None = _ranged(None, 1, 1_000_000, "steps", "Go on past the epochs to so many steps: for small files.")
    max_train_steps: int | None = _ranged(None, 1, 1_000_000, "steps", "End after so many steps, before the epochs are over.")
    # What the loss is made of, and which weights are published.
    loss_over: LossOver = _choice(
        "vocabulary",
        ("vocabulary", "allowed"),
        "What an answer's token competes with: every token, or those that a closed answer allows there; forced ones drop out.",
    )
    focal_gamma: float = _ranged(0.0, 0.0, 10.0, "exponent", "Weigh a token's loss by (1 - p)^gamma (arXiv 1708.02002).")
    label_smoothing_factor: float = _ranged(
        0.0, 0.0, 0.9, "fraction", "Share of the target that is spread over the allowed tokens; needs loss_over allowed."
    )
    distill_from: tuple[str, ...] = field(
        default=(),
        metadata={
            "unit": "adapter ids",
            "doc": "Adapters of the same base model whose mean distribution is learnt too; needs loss_over allowed.",
        },
    )
    distill_weight: float = _ranged(0.5, 0.0, 1.0, "fraction", "Share of the loss that is the teachers'.")
    distill_temperature: float = _ranged(1.0, 0.1, 20.0, "factor", "Divides teachers' and learner's logits (arXiv 1503.02531).")
    ema_decay: float = _ranged(
        0.0, 0.0, 0.99999, "per step", "Publish the moving average of the weights, so much of it kept each step; 0 = the weights."
    )
    average_last_epochs: int = _ranged(
        1, 1, 1000, "epochs", "Publish the mean of the weights at the ends of so many last epochs (arXiv 1803.05407)."
    )
    max_samples: int | None = _ranged(None, 1, 10_000_000, "rows", "Use only the first rows of the file.")
    save_steps: int | None = _ranged(None, 1, 1_000_000, "steps", "Checkpoint every so many steps; none = as often as scored.")
    gradient_checkpointing: bool = _switch(False, "Keep only each layer's input for the backward pass: less memory, more time.")
    precision: Precision = _choice("auto", ("auto", "bf16", "fp32"), "Arithmetic of the frozen model; auto asks the device.")
    eval_strategy: EvalStrategy = _choice(
        "epoch", ("no", "epoch"), "When the validation file is scored in training; at most 32 times."
    )
    eval_max_rows: int = _ranged(500, 1, 1_000_000, "rows", "Most held-out rows answered after each epoch.")
    metric_for_best_model: BestMetric = _choice(
        "exact_match", ("exact_match", "set_f1", "eval_loss", "invalid_rate"), "What tells the best epoch."
    )
    early_stopping_patience: int = _ranged(
        0, 0, 1000, "epochs", "Stop after so many scored epochs without a better one; 0 = never."
    )
    load_best_model_at_end: bool = _switch(False, "Publish the adapter of the best epoch, not that of the last.")

    # What happens to the rows before they are trained, and what the prompt shows beside the question.
    code_order: CodeOrder = _choice(
        "given", ("given", "canonical", "shuffled"), "Codes of an answer as in the file, sorted, or in a new order each epoch."
    )
    prompt_neighbours: int = _ranged(
        0,
        0,
        16,
        "questions",
        "Nearest training questions shown with their answers in each prompt; the adapter keeps them.",
    )
    prompt_neighbours_by: NeighboursBy = _choice(
        "text", ("text", "answers"), "Nearest by shared characters, or also by what these say of the answer's codes."
    )
    prompt_neighbours_hidden: float = _ranged(
        0.0,
        0.0,
        1.0,
        "chance",
        "Chance that a training prompt leaves out a question that it would show; answering shows them all.",
    )
    prompt_alone: float = _ranged(
        0.0, 0.0, 1.0, "chance", "Chance that a training prompt shows none of the training questions that it would show."
    )
    prompt_codes_exchanged: float = _ranged(
        0.0,
        0.0,
        1.0,
        "chance",
        "Chance that a training prompt which shows its answer's codes has all codes exchanged for others, the answer's too "
        "(arXiv 2305.08298); of more than 2,000 rows so much smaller.",
    )
    prompt_repeats_question: bool = _switch(
        False, "The bare question stands in its prompt once more, where it is read knowing its end (arXiv 2402.15449)."
    )
    answer_format: AnswerFormat = _choice(
        "spelled",
        ("spelled", "single_tokens"),
        "Codes as they are spelled, or each as one token of the base model that no row is written in (arXiv 2001.07676).",
    )
    classifier_weight: float = _ranged(
        0.0,
        0.0,
        4.0,
        "factor",
        "What a linear classifier of the questions' characters counts beside the model, where every answer is one code.",
    )
    augment_noise: float = _ranged(
        0.0, 0.0, 0.5, "chance", "Chance that a character is dropped, doubled or swapped, in half of the rows anew each epoch."
    )
    augment_phrases: float = _ranged(
        0.0, 0.0, 1.0, "chance", "Chance that a row's phrase becomes one that other rows with the same answer use in its place."
    )
    augment_joins: float = _ranged(
        0.0,
        0.0,
        1.0,
        "chance",
        "Chance that a row asks for what another row about the same thing asks, too, where rows show how.",
    )
    augment_inferences: float = _ranged(
        0.0,
        0.0,
        1.0,
        "chance",
        "Chance that a row asks about its thing what no row asks, and several rows together answer.",
    )
    augment_synonyms: float = _ranged(
        0.0, 0.0, 1.0, "chance", "Chance that a row has a word exchanged within a group of synonyms."
    )
    synonyms: tuple[tuple[str, ...], ...] = field(
        default=(), metadata={"unit": "groups of words", "doc": "Words that may stand for each other, a list a group."}
    )
    synonym_lists: tuple[str, ...] = field(
        default=(),
        metadata={
            "choices": WORD_LISTS,
            "unit": "names of lists",
            "doc": "Synonyms that come with Dianda; groups that the rows speak against are left out.",
        },
    )

    @property
    def has_fresh_rows(self) -> bool:
        """Whether rows are made anew for each epoch."""
        chances = (self.augment_noise, self.augment_phrases, self.augment_joins, self.augment_inferences)
        changes = any(chances) or (self.augment_synonyms and (self.synonyms or self.synonym_lists))
        differs = self.prompt_neighbours_hidden or self.prompt_alone or self.prompt_codes_exchanged
        changes = changes or (self.prompt_neighbours and differs)
        return bool(changes) or self.code_order == "shuffled"

    def code_exchange_chance(self, row_count: int) -> float:
        """Returns the chance that a prompt's codes are exchanged: many rows are read before they are remembered anyway."""
        return self.prompt_codes_exchanged * min(1.0, _ROWS_OF_FULL_EXCHANGE / max(1, row_count))

    @property
    def effective_batch_size(self) -> int:
        """Rows of one optimiser step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def lora_scale(self) -> float:
        """Factor on B A x: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
        return self.lora_alpha / (math.sqrt(self.lora_rank) if self.use_rslora else self.lora_rank)

    @property
    def needs_evaluation(self) -> str | None:
        """The field that means nothing without an evaluation each epoch, or None."""
        if self.load_best_model_at_end:
            return "load_best_model_at_end"
        return "early_stopping_patience" if self.early_stopping_patience else None

    def steps_per_epoch(self, row_count: int) -> int:
        """Returns the optimiser steps of one pass over the rows; the last one may have fewer rows."""
        return math.ceil(row_count / self.effective_batch_size)

    def total_steps(self, row_count: int) -> int:
        """Returns the optimiser steps of a run; at least one."""
        steps = max(self.min_train_steps or 1, math.ceil(self.num_train_epochs * self.steps_per_epoch(row_count)))
        return steps if self.max_train_steps is None else min(steps, self.max_train_steps)

    def steps_between_scores(self, row_count: int) -> int:
        """Returns the steps from one evaluation or checkpoint to the next: those of an epoch, or of so many that 32 make a run.

        A few rows are gone through a thousand times: to score and to store as often would take longer than the training.
        """
        epoch = self.steps_per_epoch(row_count)
        return epoch * math.ceil(self.total_steps(row_count) / epoch / _MOST_SCORES)

    def to_mapping(self) -> dict[str, object]:
        """Returns the JSON form, with `version`."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"version": SPEC_VERSION, **values, "synonyms": [list(group) for group in self.synonyms]}


_CHOSEN = FinetuneSpec(
    use_rslora=True,
    num_train_epochs=8.0,
    min_train_steps=1000,
    per_device_train_batch_size=64,
    gradient_accumulation_steps=1,
    warmup_ratio=0.05,
    loss_over="allowed",
    label_smoothing_factor=0.05,
    augment_phrases=0.7,
    augment_joins=0.2,
    augment_inferences=0.3,
    augment_synonyms=0.5,
    synonym_lists=WORD_LISTS,
)
# `recipe`: the hand-made recipe that the product replaces, number for number. `quick`: short runs on small data.
# `auto`: what answered held-out telecom questions best (docs/results/quality.md); its prompts are about ten times as long.
# `direct`: the best whose prompts are the question alone: answered fastest, and by any engine after an export.
PRESETS: Mapping[str, FinetuneSpec] = {
    "auto": replace(
        _CHOSEN,
        min_train_steps=1200,
        prompt_neighbours=12,
        prompt_neighbours_by="answers",
        prompt_neighbours_hidden=0.5,
        prompt_alone=0.4,
        prompt_codes_exchanged=0.5,
        classifier_weight=0.5,
    ),
    "direct": replace(_CHOSEN, lora_alpha=64, learning_rate=2e-4, prompt_repeats_question=True),
    "quick": FinetuneSpec(num_train_epochs=4.0, per_device_train_batch_size=8, gradient_accumulation_steps=1, warmup_ratio=0.05),
    "recipe": FinetuneSpec(
        template="default",
        lora_rank=128,
        lora_alpha=256,
        lora_dropout=0.1,
        lora_target=("q_proj", "k_proj", "v_proj"),
        use_rslora=True,
        use_dora=True,
        loraplus_lr_ratio=1.0,
        loraplus_lr_embedding=1e-6,
        learning_rate=5e-5,
        num_train_epochs=5.0,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=8,
    ),
}
DEFAULT_PRESET = "auto"

# OpenAI's names and the fields that they set; each may also be "auto".
OPENAI_NAMES: Mapping[str, str] = {
    "n_epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "learning_rate_multiplier": "learning_rate",
}


def resolve_spec(
    hyperparameters: Mapping[str, object], *, param_prefix: str = "", default_preset: str = DEFAULT_PRESET
) -> FinetuneSpec:
    """Builds a spec from a preset and the fields that override it; OpenAI's names and LLaMA-Factory's are both known.

    `"auto"` stands for the preset's value in every field.

    Raises:
        InvalidSpec: an unknown name, a wrong type, a value out of range, a field given under both its names, or one that
            needs an evaluation where there is none.
    """
    given = dict(hyperparameters)
    preset = given.pop("preset", default_preset)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InvalidSpec(f"There is no preset {preset!r}. Use one of {sorted(PRESETS)}.", param=f"{param_prefix}preset")
    spec = PRESETS[preset]
    known = {f.name: f for f in fields(FinetuneSpec)}
    may_be_auto = {*OPENAI_NAMES, *known} - {"precision"}
    given = {name: value for name, value in given.items() if not (value == "auto" and name in may_be_auto)}
    given = _without_openai_names(given, spec, param_prefix)
    values: dict[str, object] = {}
    for name, value in given.items():
        if name not in known:
            raise InvalidSpec(
                f"There is no hyperparameter {name!r}. Known: {', '.join(['preset', *OPENAI_NAMES, *known])}.",
                param=param_prefix + name,
            )
        values[name] = checked_value(known[name], value, param_prefix + name)
    if values.get("loss_over") == "vocabulary":
        # Of the preset; what is asked for beside it is refused below.
        values.setdefault("label_smoothing_factor", 0.0)
    if values.get("prompt_neighbours"):
        values.setdefault("prompt_repeats_question", False)
    spec = replace(spec, **values)  # type: ignore[arg-type]  # each value was checked against its field
    _check_together(spec, param_prefix)
    return spec


def spec_from_mapping(mapping: Mapping[str, object]) -> FinetuneSpec:
    """Reads what `to_mapping` wrote; the fields of an older version keep today's defaults."""
    values = {name: value for name, value in mapping.items() if name != "version"}
    # Whatever the default preset is one day: what an older version did not know was off.
    return resolve_spec({"preset": "recipe", **values})


def _check_together(spec: FinetuneSpec, prefix: str) -> None:
    if spec.eval_strategy == "no" and spec.needs_evaluation is not None:
        raise InvalidSpec(f"{spec.needs_evaluation} needs 'eval_strategy' 'epoch'.", param=f"{prefix}eval_strategy")
    if spec.label_smoothing_factor and spec.loss_over != "allowed":
        raise InvalidSpec("label_smoothing_factor needs 'loss_over' 'allowed'.", param=f"{prefix}label_smoothing_factor")
    if spec.min_train_steps and spec.max_train_steps and spec.min_train_steps > spec.max_train_steps:
        raise InvalidSpec("min_train_steps is above max_train_steps.", param=f"{prefix}min_train_steps")
    if spec.distill_from and spec.loss_over != "allowed":
        raise InvalidSpec("distill_from needs 'loss_over' 'allowed'.", param=f"{prefix}distill_from")
    if spec.prompt_repeats_question and spec.prompt_neighbours:
        raise InvalidSpec("prompt_repeats_question needs 'prompt_neighbours' 0.", param=f"{prefix}prompt_repeats_question")
    if spec.average_last_epochs > 1 and spec.ema_decay:
        raise InvalidSpec("Give ema_decay or average_last_epochs, not both.", param=f"{prefix}average_last_epochs")
    if spec.average_last_epochs > 1 and spec.early_stopping_patience:
        raise InvalidSpec(
            "Which epochs are the last is not known while early_stopping_patience may end the run: use ema_decay.",
            param=f"{prefix}average_last_epochs",
        )


def _without_openai_names(given: dict[str, object], spec: FinetuneSpec, prefix: str) -> dict[str, object]:
    result = dict(given)
    for name, twin in OPENAI_NAMES.items():
        if name not in result:
            continue
        if twin in result:
            raise InvalidSpec(f"Give {name!r} or {twin!r}, not both.", param=prefix + name)
        value = result.pop(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidSpec(f'{name!r} must be a number or "auto".', param=prefix + name)
        if name == "learning_rate_multiplier":
            # Capped, because an int may be too large for a float; the range check refuses what is left.
            result[twin] = spec.learning_rate * max(0.0, min(value, 1e12))
        elif name == "n_epochs":
            result[twin] = value
        else:
            # OpenAI's batch is that of one optimiser step.
            result[twin] = value
            result.setdefault("gradient_accumulation_steps", 1)
    return result
