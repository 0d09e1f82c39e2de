"""The gate: an adapter that is worse than the alias's own on a frozen file, by more than chance would do, is refused."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.errors import Conflict
from app.evaluations import repository as evaluations
from app.evaluations.models import Evaluation
from app.evaluations.repository import RowMetric
from app.ml.paired_test import PairedComparison, compare_paired

GateMetric = RowMetric
MOST_CHANCE = 0.05
"""A fall that chance would bring less often than this is no chance."""


class WorseThanCurrent(Conflict):
    """The adapter is worse than the one that the alias points to."""

    code = "worse_than_current"


class EvaluationMissing(Conflict):
    """The gate's file has not been answered by both adapters."""

    code = "evaluation_missing"


@dataclass(frozen=True)
class Gate:
    """The frozen file and what is compared on it."""

    file_id: str
    metric: GateMetric = "exact_match"

    def to_mapping(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return {"file": self.file_id, "metric": self.metric}

    @classmethod
    def from_mapping(cls, mapping: dict[str, Any]) -> "Gate":
        """Reads what `to_mapping` wrote."""
        return cls(mapping["file"], mapping["metric"])


def judge(session: Session, gate: Gate, *, baseline: str | None, candidate: str) -> dict[str, Any]:
    """Compares two adapters on the gate's file by their newest evaluations, row by row, and returns the numbers.

    `verdict` is `better`, `worse`, `not_distinguishable`, `no_baseline` or `unchanged`.

    Raises:
        EvaluationMissing: one of the two has not been evaluated on the file; the message says what to post.
    """
    facts = gate.to_mapping()
    if baseline is None or baseline == candidate:
        return {**facts, "verdict": "no_baseline" if baseline is None else "unchanged"}
    found = {adapter: _get_evaluation(session, adapter, gate) for adapter in (baseline, candidate)}
    before, after = (evaluations.scores_of(session, found[adapter].id, gate.metric) for adapter in (baseline, candidate))
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise EvaluationMissing(
            f"The evaluations {found[baseline].id} and {found[candidate].id} have no row in common. "
            "Post both again without max_rows.",
            param="gate.file",
        )
    compared = compare_paired([before[row] for row in shared], [after[row] for row in shared])
    evaluated = {"baseline": found[baseline].id, "candidate": found[candidate].id}
    return {
        **facts,
        "verdict": _verdict(compared),
        "baseline_model": baseline,
        "evaluations": evaluated,
        **compared.to_mapping(),
    }


def refuse_worse(facts: dict[str, Any], *, candidate: str) -> None:
    """Raises where the verdict is `worse`.

    Raises:
        WorseThanCurrent: with the numbers.
    """
    if facts["verdict"] != "worse":
        return
    low, high = facts["interval"]
    raise WorseThanCurrent(
        f"{candidate} is worse than {facts['baseline_model']} on {facts['rows']} rows of {facts['file']}: "
        f"{facts['metric']} {facts['candidate']:.3f} against {facts['baseline']:.3f}, {100 * facts['difference']:+.1f} points "
        f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f}); chance would do this {100 * facts['p_worse']:.2g} times of 100. "
        "Keep the one you have, or send force: true with a reason.",
        param="to",
        details={"gate": facts},
    )


def _verdict(compared: PairedComparison) -> str:
    if compared.p_worse < MOST_CHANCE and compared.difference < 0:
        return "worse"
    return "better" if compared.interval[0] > 0 else "not_distinguishable"


def _get_evaluation(session: Session, adapter_id: str, gate: Gate) -> Evaluation:
    evaluation = evaluations.find_succeeded(session, adapter_id=adapter_id, file_id=gate.file_id)
    if evaluation is not None:
        return evaluation
    running = evaluations.find_unfinished(session, adapter_id=adapter_id, file_id=gate.file_id)
    body = {"model": adapter_id, "file": gate.file_id}
    todo = (
        f'Post it first: POST /v1/evaluations {{"model": "{adapter_id}", "file": "{gate.file_id}"}}.'
        if running is None
        else f"Wait for {running.id}, which is under way."
    )
    raise EvaluationMissing(
        f"The gate needs an evaluation of {adapter_id} on {gate.file_id}. {todo}",
        param="gate.file",
        details={"missing": body, "under_way": None if running is None else running.id},
    )
