"""How the arms of an experiment compare: metrics with intervals, paired tests against the baseline, cost, loss curves."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.blobs.store import BlobStore
from app.datasets.models import Dataset
from app.evaluations import repository as evaluations
from app.experiments import repository
from app.experiments.models import Experiment
from app.experiments.repository import ArmRows
from app.experiments.service import status_of
from app.ml.formats.formula_cells import guarded
from app.ml.paired import PairedComparison, Verdict, compare_paired, holm_adjusted, verdict_of

METRICS = (
    "rows",
    "exact_match",
    "ordered_match",
    "set_f1",
    "micro_f1",
    "macro_f1_by_code",
    "macro_f1_by_category",
    "invalid_rate",
    "fallback_rate",
    "ece",
    "ece_band",
    "nll",
    "brier",
    "device",
)
"""What a comparison shows of an evaluation's metrics."""
TESTS = {
    "exact_match": "McNemar's exact test on the rows that both arms answered, two-sided, p adjusted by Holm for all arms",
    "set_f1": "95 % percentile interval of the mean difference, 1,000 seeded resamples of the rows",
    "sample": "The rows are the sample. Another seed of the training moves an arm, too; these tests do not know how much.",
}
_CURVE_POINTS = 200


@dataclass(frozen=True, kw_only=True)
class Versus:
    """An arm against the baseline arm."""

    paired: PairedComparison
    exact_match_p_adjusted: float
    verdict: Verdict
    sentence: str


@dataclass(frozen=True, kw_only=True)
class ComparedArm:
    """One arm in a comparison; what has not come about yet is empty."""

    number: int
    label: str
    is_baseline: bool
    status: str
    base_model: str
    adapter: str | None
    job: str | None
    evaluation: str | None
    training_rows: int
    hyperparameters: Mapping[str, Any]
    metrics: Mapping[str, Any]
    """Those of `METRICS`."""
    intervals: Mapping[str, Sequence[float]]
    versus_baseline: Versus | None
    cost: Mapping[str, float | int | None]
    """`train_seconds`, `train_samples_per_s`, `trained_tokens`, `trainable_parameters`, `peak_memory_gib` (None on a CPU)."""
    loss: Sequence[tuple[int, float, float]]
    """Step, epoch, loss: at most 200 means over equally many steps."""
    by_epoch: Sequence[Mapping[str, Any]]
    """What the validation rows said after each epoch."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An experiment's arms side by side."""

    experiment: Experiment
    arms: Sequence[ComparedArm]
    file_names: Mapping[str, str]
    """File id -> name, of the experiment's files that are still there."""


def compare(session: Session, experiment: Experiment, blobs: BlobStore) -> Comparison:
    """Compares what has ended so far; the first arm is the baseline."""
    arms = repository.arms_of(session, [experiment.id])[experiment.id]
    versus = _against_baseline(session, arms)
    return Comparison(
        experiment=experiment,
        arms=[_compared(session, rows, versus.get(rows.arm.number), blobs) for rows in arms],
        file_names=_file_names(session, experiment),
    )


def _file_names(session: Session, experiment: Experiment) -> dict[str, str]:
    ids = {experiment.training_file_id, experiment.validation_file_id, experiment.test_file_id} - {None}
    return {dataset.id: dataset.filename for dataset in session.scalars(select(Dataset).where(Dataset.id.in_(ids)))}


def comparison_csv(comparison: Comparison) -> bytes:
    """Returns one line an arm, the intervals in columns of their own; UTF-8 with the mark that spreadsheets look for."""
    scalars = [name for name in METRICS if name != "ece_band"]
    bounded = ["exact_match", "set_f1", "micro_f1", "invalid_rate"]
    costs = ["train_seconds", "train_samples_per_s", "trained_tokens", "trainable_parameters", "peak_memory_gib"]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(
        ["arm", "label", "status", "base_model", "training_rows", "hyperparameters", *scalars]
        + [f"{name}_{side}" for name in bounded for side in ("low", "high")]
        + ["only_baseline_right", "only_this_right", "exact_match_difference", "exact_match_p", "exact_match_p_adjusted"]
        + ["set_f1_difference", "set_f1_difference_low", "set_f1_difference_high", "verdict", *costs]
    )
    for arm in comparison.arms:
        versus = arm.versus_baseline
        tested: list[Any] = [""] * 9
        if versus is not None:
            pair = versus.paired
            tested = [pair.only_baseline_right, pair.only_this_right, pair.exact_match_difference, pair.exact_match_p]
            tested += [versus.exact_match_p_adjusted, pair.set_f1_difference, *pair.set_f1_interval, versus.verdict]
        writer.writerow(
            [arm.number, guarded(arm.label), arm.status, guarded(arm.base_model), arm.training_rows]
            + [guarded(orjson.dumps(arm.hyperparameters).decode())]
            + [arm.metrics.get(name, "") for name in scalars]
            + [bound for name in bounded for bound in arm.intervals.get(name, ("", ""))]
            + tested
            + ["" if (value := arm.cost.get(name)) is None else value for name in costs]
        )
    return b"\xef\xbb\xbf" + text.getvalue().encode()


def _against_baseline(session: Session, arms: Sequence[ArmRows]) -> dict[int, Versus]:
    ended = [rows for rows in arms if rows.evaluation is not None and rows.evaluation.metrics is not None]
    if not ended or ended[0].arm.number != arms[0].arm.number or ended[0].evaluation is None:
        return {}
    baseline = evaluations.scores_of(session, ended[0].evaluation.id)
    pairs: dict[int, PairedComparison] = {}
    for rows in ended[1:]:
        assert rows.evaluation is not None
        scores = evaluations.scores_of(session, rows.evaluation.id)
        if common := sorted(baseline.keys() & scores.keys()):
            pairs[rows.arm.number] = compare_paired([baseline[row] for row in common], [scores[row] for row in common])
    adjusted = holm_adjusted([pair.exact_match_p for pair in pairs.values()])
    return {
        number: _versus(pair, p, baseline_label=arms[0].arm.label)
        for (number, pair), p in zip(pairs.items(), adjusted, strict=True)
    }


def _versus(pair: PairedComparison, p: float, *, baseline_label: str) -> Versus:
    verdict = verdict_of(pair, p)
    said = "Not distinguishable from" if verdict == "not distinguishable" else f"{verdict.capitalize()} than"
    sentence = (
        f"{said} {baseline_label!r} on {pair.rows} rows: {pair.only_this_right} rows right here alone, "
        f"{pair.only_baseline_right} there alone, p = {p:.2g}."
    )
    return Versus(paired=pair, exact_match_p_adjusted=p, verdict=verdict, sentence=sentence)


def _compared(session: Session, rows: ArmRows, versus: Versus | None, blobs: BlobStore) -> ComparedArm:
    arm, job = rows.arm, rows.job
    measured = (rows.evaluation.metrics if rows.evaluation is not None else None) or {}
    trained = (job.metrics if job is not None else None) or {}
    peak = ((job.progress if job is not None else None) or {}).get("peak_memory_bytes")
    return ComparedArm(
        number=arm.number,
        label=arm.label,
        is_baseline=arm.number == 1,
        status=status_of(rows).value,
        base_model=arm.base_model,
        adapter=None if job is None else job.adapter_id,
        job=arm.job_id,
        evaluation=arm.evaluation_id,
        training_rows=arm.training_rows,
        hyperparameters=arm.hyperparameters,
        metrics={name: measured[name] for name in METRICS if name in measured},
        intervals=measured.get("intervals", {}),
        versus_baseline=versus,
        cost={
            "train_seconds": trained.get("train_seconds"),
            "train_samples_per_s": trained.get("train_samples_per_s"),
            "trained_tokens": None if job is None else job.trained_tokens,
            "trainable_parameters": trained.get("trainable_parameters"),
            "peak_memory_gib": None if peak is None else round(peak / 2**30, 3),
        },
        loss=_loss_of(session, rows, blobs),
        by_epoch=trained.get("by_epoch", []),
    )


def _loss_of(session: Session, rows: ArmRows, blobs: BlobStore) -> list[tuple[int, float, float]]:
    """Reads the curve that the training left; none where its file was deleted."""
    file_id = None if rows.job is None else (rows.job.result_file_ids or {}).get("loss.csv")
    file = None if file_id is None else session.get(Dataset, file_id)
    if file is None:
        return []
    try:
        with blobs.open(file.blob_key) as source:
            lines = list(csv.DictReader(io.TextIOWrapper(source, encoding="utf-8")))
    except FileNotFoundError:
        return []
    every = [(int(line["step"]), float(line["epoch"]), float(line["loss"])) for line in lines]
    count = min(_CURVE_POINTS, len(every))
    edges = [number * len(every) // count for number in range(count + 1)] if count else []
    parts = [every[low:high] for low, high in pairwise(edges)]
    return [(part[-1][0], part[-1][1], sum(loss for _, _, loss in part) / len(part)) for part in parts]


def comparison_mapping(comparison: Comparison) -> dict[str, Any]:
    """Returns the JSON form."""
    baseline = comparison.arms[0] if comparison.arms else None
    return {
        "object": "experiment.comparison",
        "experiment": comparison.experiment.id,
        "status": comparison.experiment.status,
        "baseline": None if baseline is None else baseline.label,
        "tests": TESTS,
        "data": [
            {**asdict(arm), "versus_baseline": None if arm.versus_baseline is None else _flat(arm.versus_baseline)}
            for arm in comparison.arms
        ],
    }


def _flat(versus: Versus) -> dict[str, Any]:
    rest = {name: value for name, value in asdict(versus).items() if name != "paired"}
    return {**asdict(versus.paired), **rest}
