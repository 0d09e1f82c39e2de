"""`dry_run`: does this spec fit this data and this base model, what will it take, and who can serve the result?"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.blobs.store import BlobStore
from app.datasets import repository as datasets
from app.datasets.service import fetch_rows
from app.jobs.models import Job
from app.jobs.repository import FINETUNE
from app.jobs.service import NewJob, check_new_job
from app.jobs.states import JobStatus
from app.ml.codes import SEPARATOR, answer_tokens
from app.ml.errors import NothingToTrain
from app.ml.estimates import check_against_shapes, gib, peak_memory_bytes, read_shapes, trainable_parameters
from app.ml.formats.reading import read_examples
from app.ml.model_store import ModelStore
from app.ml.prompting import PromptRenderer, find_wrapper
from app.ml.spec import FinetuneSpec
from app.ml.tokens import load_tokenizer

# Ranks that vLLM 0.33's kernels take.
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class Serving:
    """Whether one kind of engine can answer with the result."""

    engine: str
    can_serve: bool
    reason: str


@dataclass(frozen=True)
class Estimate:
    """What a job would need."""

    rows: int
    rows_left_out: int
    """Rows whose answer alone passes cutoff_len."""
    rows_truncated: int
    """Rows whose prompt would lose its start."""
    steps: int
    prompt_tokens_mean: float
    prompt_tokens_max: int
    answer_tokens_mean: float
    trainable_parameters: int
    peak_memory_gib: float
    minutes: float | None
    minutes_basis: str
    serving: tuple[Serving, ...]


def estimate(
    session: Session, new: NewJob, *, store: ModelStore, blobs: BlobStore, answerer_base_model: str, param_prefix: str
) -> Estimate:
    """Checks everything that creating the job would check, and the data against the spec; queues nothing.

    Raises:
        NotFound, InvalidInput: as creating the job would.
        InvalidSpec: the spec cannot work on this base model.
        NothingToTrain: no row fits into cutoff_len.
    """
    check_new_job(session, new, store=store)
    base = store.get(new.base_model)
    shapes = read_shapes(base.path)
    check_against_shapes(shapes, new.spec, param_prefix=param_prefix)
    prompts, answers = _token_counts(session, new, store=store, blobs=blobs)
    fitting = [(p, a) for p, a in zip(prompts, answers, strict=True) if new.spec.cutoff_len - a >= 2]
    if not fitting:
        raise NothingToTrain(
            f"No row fits into cutoff_len = {new.spec.cutoff_len} tokens. Raise it.", param=f"{param_prefix}cutoff_len"
        )
    row_tokens = [min(p + a, new.spec.cutoff_len) for p, a in fitting]
    epoch_steps = -(-len(fitting) // new.spec.effective_batch_size)
    rate, basis = _samples_per_s(session, new.base_model)
    return Estimate(
        rows=len(fitting),
        rows_left_out=len(prompts) - len(fitting),
        rows_truncated=sum(p + a > new.spec.cutoff_len for p, a in fitting),
        steps=max(1, -int(-new.spec.num_train_epochs * epoch_steps // 1)),
        prompt_tokens_mean=round(fmean(prompts), 1),
        prompt_tokens_max=max(prompts),
        answer_tokens_mean=round(fmean(answers), 1),
        trainable_parameters=trainable_parameters(shapes, new.spec),
        peak_memory_gib=gib(
            peak_memory_bytes(
                shapes,
                new.spec,
                row_tokens=row_tokens,
                answer_tokens=[a for _, a in fitting],
                is_fp32=new.spec.precision == "fp32",
            )
        ),
        minutes=None if rate is None else round(len(fitting) * new.spec.num_train_epochs / rate / 60, 1),
        minutes_basis=basis,
        serving=_serving(new.spec, new.base_model, answerer_base_model),
    )


def _token_counts(session: Session, new: NewJob, *, store: ModelStore, blobs: BlobStore) -> tuple[list[int], list[int]]:
    tokenizer = load_tokenizer(store.get(new.base_model).path)
    training = datasets.get(session, new.training_file)
    with tempfile.TemporaryDirectory() as scratch:
        examples = read_examples(fetch_rows(blobs, training, Path(scratch)))[: new.spec.max_samples]
    renderer = PromptRenderer(new.spec.template, find_wrapper([example.question for example in examples]))
    separator = tokenizer.encode(SEPARATOR)
    tokens_of = {code: tokenizer.encode(code) for example in examples for code in example.codes}
    prompts = [len(renderer.encode(example.question, tokenizer)) for example in examples]
    answers = [
        len(answer_tokens([tokens_of[code] for code in example.codes], separator, tokenizer.eos_id)) for example in examples
    ]
    return prompts, answers


def _samples_per_s(session: Session, base_model: str) -> tuple[float | None, str]:
    finished = session.scalars(
        select(Job)
        .where(Job.kind == FINETUNE, Job.base_model == base_model, Job.status == JobStatus.SUCCEEDED.value)
        .order_by(Job.finished_at.desc())
        .limit(1)
    ).first()
    rate = (finished.metrics or {}).get("train_samples_per_s") if finished else None
    if finished is None or not rate:
        return None, "No job on this base model has succeeded here yet: run a small one first."
    return float(rate), f"The speed of job {finished.id}: {rate} samples/s."


def _serving(spec: FinetuneSpec, base_model: str, answerer_base_model: str) -> tuple[Serving, ...]:
    holds = base_model == answerer_base_model
    own = "It holds this base model." if holds else f"It holds {answerer_base_model!r}: set DIANDA_BASE_MODEL to {base_model!r}."
    if spec.use_dora:
        vllm = Serving("vLLM, adapter unmerged", False, "vLLM 0.33 refuses DoRA adapters; merge the weights.")
    elif spec.lora_rank > max(_VLLM_RANKS):
        vllm = Serving("vLLM, adapter unmerged", False, f"vLLM 0.33 takes ranks up to {max(_VLLM_RANKS)}.")
    else:
        rank = min(rank for rank in _VLLM_RANKS if rank >= spec.lora_rank)
        vllm = Serving("vLLM, adapter unmerged", True, f"Start it with --max-lora-rank {rank}. Not run here.")
    return (Serving("Dianda's answerer", holds, own), vllm)
