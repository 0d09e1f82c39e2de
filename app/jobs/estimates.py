"""`dry_run`: does this spec fit this data and this base model, what will it take, and who can serve the result?"""

import tempfile
from pathlib import Path
from statistics import fmean

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.blobs.store import BlobStore
from app.datasets import repository as datasets
from app.datasets.service import fetch_rows
from app.jobs.hyperparameters import named_as_in_request
from app.jobs.models import Job
from app.jobs.repository import FINETUNE
from app.jobs.schemas import EstimateObject, ServingObject
from app.jobs.service import NewJob, check_new_job
from app.jobs.states import JobStatus
from app.ml.errors import NothingToTrain
from app.ml.estimates import (
    GIB,
    PACK_TOKENS,
    gib,
    largest_pack,
    pack_token_budget,
    packed_peak_memory_bytes,
    read_shapes,
    trainable_parameters,
)
from app.ml.formats.reading import read_examples
from app.ml.formats.token_lengths import RowLength, row_lengths, with_neighbours
from app.ml.model_store import BaseModelFolder, ModelStore
from app.ml.prompting import PromptRenderer, find_wrapper
from app.ml.spec import FinetuneSpec
from app.ml.tokens import load_tokenizer

# Ranks that vLLM 0.33's kernels take.
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def estimate(
    session: Session,
    new: NewJob,
    *,
    store: ModelStore,
    blobs: BlobStore,
    answerer_base_model: str,
    memory_limit_gib: float | None = None,
) -> EstimateObject:
    """Checks everything that creating the job would check, and every row against the spec; queues nothing.

    Raises:
        NotFound, InvalidInput, OutOfDeviceMemory: as creating the job would.
        NothingToTrain: no row fits into cutoff_len.
    """
    check_new_job(session, new, store=store, blobs=blobs, memory_limit_gib=memory_limit_gib)
    spec, base = new.spec, store.get(new.base_model)
    shapes = read_shapes(base.path)
    rows = _row_lengths(session, new, base, blobs)
    fitting = [row for row in rows if row.fits(spec.cutoff_len)]
    if not fitting:
        with named_as_in_request(new.hyperparameters):
            raise NothingToTrain(f"No row fits into cutoff_len = {spec.cutoff_len} tokens. Raise it.", param="cutoff_len")
    is_fp32 = spec.precision == "fp32"
    budget = PACK_TOKENS
    if memory_limit_gib is not None:
        budget = min(budget, pack_token_budget(shapes, spec, int(memory_limit_gib * GIB), is_fp32=is_fp32))
    tokens, answer_tokens = largest_pack(fitting, spec, budget)
    rate, basis = _samples_per_s(session, new.base_model)
    steps = spec.total_steps(len(fitting))
    epochs = steps / spec.steps_per_epoch(len(fitting))
    return EstimateObject(
        spec=spec.to_mapping(),
        rows=len(fitting),
        rows_left_out=len(rows) - len(fitting),
        rows_truncated=sum(row.is_truncated(spec.cutoff_len) for row in fitting),
        steps=steps,
        prompt_tokens_mean=round(fmean(row.prompt for row in rows), 1),
        prompt_tokens_max=max(row.prompt for row in rows),
        answer_tokens_mean=round(fmean(row.answer for row in rows), 1),
        trainable_parameters=trainable_parameters(shapes, spec),
        peak_memory_gib=gib(packed_peak_memory_bytes(shapes, spec, tokens, answer_tokens, is_fp32=is_fp32)),
        minutes=None if rate is None else round(len(fitting) * epochs / rate / 60, 1),
        minutes_basis=basis,
        serving=_serving(spec, new.base_model, answerer_base_model),
    )


def _row_lengths(session: Session, new: NewJob, base: BaseModelFolder, blobs: BlobStore) -> list[RowLength]:
    training = datasets.get(session, new.training_file)
    with tempfile.TemporaryDirectory() as scratch:
        examples = read_examples(fetch_rows(blobs, training, Path(scratch)))[: new.spec.max_samples]
    wrapper = find_wrapper([example.question for example in examples])
    renderer = PromptRenderer(new.spec.template, wrapper, repeats=new.spec.prompt_repeats_question)
    rows = list(row_lengths(examples, renderer, load_tokenizer(base.path)))
    return with_neighbours(rows, new.spec.prompt_neighbours)


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


def _serving(spec: FinetuneSpec, base_model: str, answerer_base_model: str) -> list[ServingObject]:
    holds = base_model == answerer_base_model
    own = "It holds this base model." if holds else f"It holds {answerer_base_model!r}: set DIANDA_BASE_MODEL to {base_model!r}."
    if spec.prompt_neighbours:
        can_serve, reason = False, "Its prompts show training questions, which only Dianda's answerer looks up."
    elif spec.answer_format == "single_tokens":
        can_serve, reason = False, "Its answers are tokens that stand for codes, which only Dianda's answerer reads."
    elif spec.classifier_weight:
        can_serve, reason = False, "Where every answer is one code, a classifier has a say, which only Dianda's answerer asks."
    elif spec.use_dora:
        can_serve, reason = False, "vLLM 0.33 refuses DoRA adapters; merge the weights."
    elif spec.lora_rank > max(_VLLM_RANKS):
        can_serve, reason = False, f"vLLM 0.33 takes ranks up to {max(_VLLM_RANKS)}."
    else:
        rank = min(rank for rank in _VLLM_RANKS if rank >= spec.lora_rank)
        can_serve, reason = True, f"Start it with --max-lora-rank {rank}. Not run here."
    return [
        ServingObject(engine="Dianda's answerer", can_serve=holds, reason=own),
        ServingObject(engine="vLLM, adapter unmerged", can_serve=can_serve, reason=reason),
    ]
