"""Can a job's rows be trained at all? Answered from a bounded number of rows, so that a job is created in milliseconds.

A tokenizer of 256k tokens takes a second to load. A text has at most as many tokens as bytes (a tokenizer that breaks this
only moves the refusal into the training process), so bytes decide where they can, and tokens only in between.
"""

import tempfile
from itertools import islice
from pathlib import Path

from app.blobs.store import BlobStore
from app.datasets.models import Dataset
from app.datasets.service import fetch_rows
from app.ml.errors import NothingToTrain
from app.ml.estimates import GIB, BaseShapes, check_smallest_run, smallest_run_bytes
from app.ml.formats.example import Example
from app.ml.formats.reading import iterate_examples
from app.ml.formats.token_lengths import AnswerCounter, RowLength, row_lengths
from app.ml.model_store import BaseModelFolder
from app.ml.prompting import MAX_NEIGHBOUR_TOKENS, PromptRenderer
from app.ml.spec import FinetuneSpec
from app.ml.tokens import load_tokenizer

_ROWS_LOOKED_AT = 1_000


def check_rows_fit(dataset: Dataset, spec: FinetuneSpec, base: BaseModelFolder, blobs: BlobStore) -> None:
    """Refuses a dataset of which no row fits into cutoff_len, as far as its first 1,000 rows tell.

    Raises:
        NothingToTrain: every answer leaves no room for a prompt; `param` is the spec's field.
    """
    examples = _first_rows(dataset, spec, blobs)
    if any(_length_in_bytes(example, spec).fits(spec.cutoff_len) for example in examples) or len(examples) < _usable(
        dataset, spec
    ):
        return
    answers = AnswerCounter(load_tokenizer(base.path))
    shortest = min(answers.count(example.codes) for example in examples)
    if not RowLength(prompt=0, answer=shortest).fits(spec.cutoff_len):
        raise NothingToTrain(
            f"No row fits into cutoff_len = {spec.cutoff_len} tokens: the shortest answer has {shortest}, and a prompt needs "
            "room beside it. Raise cutoff_len or shorten the answers.",
            param="cutoff_len",
        )


def check_memory_limit(
    dataset: Dataset, spec: FinetuneSpec, base: BaseModelFolder, shapes: BaseShapes, blobs: BlobStore, *, limit_gib: float
) -> None:
    """Refuses a job whose smallest step passes the memory limit: weights, trainable state and its longest row.

    The longest row is the one with the most characters among the first 1,000.

    Raises:
        OutOfDeviceMemory: it cannot fit; `param` is the field that has to change.
    """
    limit_bytes = int(limit_gib * GIB)
    check_smallest_run(shapes, spec, limit_bytes)
    longest = max(_first_rows(dataset, spec, blobs), key=lambda example: len(example.question))
    bound = _length_in_bytes(longest, spec)
    # Shown questions never fill more than this.
    shown = MAX_NEIGHBOUR_TOKENS if spec.prompt_neighbours else 0
    if smallest_run_bytes(shapes, spec, min(spec.cutoff_len, bound.trained(spec.cutoff_len) + shown)) <= limit_bytes:
        return
    (row,) = row_lengths(
        [longest], PromptRenderer(spec.template, repeats=spec.prompt_repeats_question), load_tokenizer(base.path)
    )
    check_smallest_run(shapes, spec, limit_bytes, row_tokens=min(spec.cutoff_len, row.trained(spec.cutoff_len) + shown))


def _first_rows(dataset: Dataset, spec: FinetuneSpec, blobs: BlobStore) -> list[Example]:
    with tempfile.TemporaryDirectory() as scratch:
        rows = iterate_examples(fetch_rows(blobs, dataset, Path(scratch)))
        return list(islice(rows, min(_ROWS_LOOKED_AT, _usable(dataset, spec))))


def _usable(dataset: Dataset, spec: FinetuneSpec) -> int:
    """Returns how many rows training would use."""
    assert dataset.report is not None
    rows = int(dataset.report["rows"])
    return rows if spec.max_samples is None else min(rows, spec.max_samples)


def _length_in_bytes(example: Example, spec: FinetuneSpec) -> RowLength:
    """Returns a length that no row passes in tokens: its bytes, BOS, separators, end, and what a template adds."""
    answer = sum(len(code.encode()) + 1 for code in example.codes)
    prompt = PromptRenderer("default", repeats=spec.prompt_repeats_question).render(example.question)
    return RowLength(prompt=len(prompt.encode()) + 1, answer=answer)
