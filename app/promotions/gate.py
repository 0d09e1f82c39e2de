"""The gate: an adapter that is worse than the alias's own on a frozen file, by more than chance would do, is refused."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy.orm import Session

from app.adapters import aliases
from app.adapters import repository as adapters
from app.errors import Conflict
from app.evaluations import repository as evaluations
from app.evaluations.models import Evaluation
from app.ml.paired import PairedComparison, Verdict, compare_paired, verdict_of

GateMetric = Literal["exact_match", "set_f1"]


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

    `verdict` is `better`, `worse`, `not distinguishable`, `no baseline` or `unchanged`.

    Raises:
        EvaluationMissing: one of the two has not been evaluated on the file; the message says what to post.
    """
    facts = gate.to_mapping()
    if baseline is None or baseline == candidate:
        return {**facts, "verdict": "no baseline" if baseline is None else "unchanged"}
    found = {adapter: _get_evaluation(session, adapter, gate) for adapter in (baseline, candidate)}
    before, after = (evaluations.scores_of(session, found[adapter].id) for adapter in (baseline, candidate))
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise EvaluationMissing(
            f"The evaluations {found[baseline].id} and {found[candidate].id} have no row in common. "
            "Post both again without max_rows.",
            param="gate.file",
        )
    compared = compare_paired([before[row] for row in shared], [after[row] for row in shared])
    place = 0 if gate.metric == "exact_match" else 1
    means = [round(math.fsum(scores[row][place] for row in shared) / len(shared), 6) for scores in (before, after)]
    return {
        **facts,
        "verdict": _verdict(compared, gate.metric),
        "baseline_model": baseline,
        "baseline": means[0],
        "candidate": means[1],
        "evaluations": {"baseline": found[baseline].id, "candidate": found[candidate].id},
        **{name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(compared).items()},
    }


def refuse_worse(facts: dict[str, Any], *, candidate: str) -> None:
    """Raises where the verdict is `worse`.

    Raises:
        WorseThanCurrent: with the numbers.
    """
    if facts["verdict"] != "worse":
        return
    low, high = (100 * end for end in facts["set_f1_interval"])
    noise = (
        f"{facts['only_baseline_right']} rows lost, {facts['only_this_right']} won; chance would do this "
        f"{100 * facts['exact_match_p']:.2g} times of 100"
        if facts["metric"] == "exact_match"
        else f"95 % interval of the difference {low:+.1f} to {high:+.1f} points"
    )
    raise WorseThanCurrent(
        f"{candidate} is worse than {facts['baseline_model']} on {facts['rows']} rows of {facts['file']}: {facts['metric']} "
        f"{facts['candidate']:.3f} against {facts['baseline']:.3f} ({noise}). "
        "Keep the one you have, or send force: true with a reason.",
        param="to",
        details={"gate": facts},
    )


def find_user_of_evaluation(session: Session, evaluation_id: str) -> str | None:
    """Returns the gate that would judge by an evaluation now, by its alias, or None.

    It is the newest of its adapter on the gate's file, and the alias points to that adapter or tries it out. What a gate
    judged before stands in the alias's history with its numbers.
    """
    evaluation = evaluations.get(session, evaluation_id)
    adapter_id = evaluations.job_of(session, evaluation).adapter_id
    if adapter_id is None:
        return None
    newest = evaluations.find_succeeded(session, adapter_id=adapter_id, file_id=evaluation.file_id)
    if newest is None or newest.id != evaluation_id:
        return None
    for name in adapters.aliases_of(session, adapter_id):
        gate = aliases.get_alias(session, name).gate
        if gate is not None and Gate.from_mapping(gate).file_id == evaluation.file_id:
            return f"the gate of alias {name!r}"
    return None


def _verdict(compared: PairedComparison, metric: GateMetric) -> Verdict:
    if metric == "exact_match":
        return verdict_of(compared, compared.exact_match_p)
    low, high = compared.set_f1_interval
    return "worse" if high < 0 else "better" if low > 0 else "not distinguishable"


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
