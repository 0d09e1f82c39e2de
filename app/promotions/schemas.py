"""The alias objects of the HTTP dialect."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.adapters.models import CANDIDATE_SET, Alias, AliasCandidate, AliasMove
from app.adapters.service import CandidateMode
from app.http.schemas import RequestBody, Text
from app.promotions.gate import Gate, GateMetric

_Adapter = Annotated[Text, Field(min_length=1, max_length=110)]
Reason = Annotated[Text, Field(max_length=1000)]
By = Annotated[
    Text,
    Field(min_length=1, max_length=100, description="Who does it, where no API keys are asked for; else the key's name is kept."),
]


class GateBody(RequestBody):
    """A frozen file, and what of it must not get worse."""

    file: Annotated[Text, Field(max_length=64)]
    metric: GateMetric = "exact_match"


class CandidateBody(RequestBody):
    """An adapter to try out beside the alias's own."""

    model: _Adapter
    mode: Annotated[
        CandidateMode,
        Field(description="`share`: it answers some askers. `shadow`: it answers beside the alias's own, for the log alone."),
    ] = "share"
    percent: Annotated[
        float | None,
        Field(gt=0, le=100, description="Of askers (`share`, must be said) or of questions (`shadow`; none: all of them)."),
    ] = None


class ChangeAlias(RequestBody):
    """Where an alias shall point, and what it shall try out."""

    to: Annotated[
        _Adapter | None, Field(description="An adapter such as `telecom:7`, `previous`, or `candidate`: the one being tried out.")
    ] = None
    gate: Annotated[
        GateBody | Literal["none"] | None,
        Field(description="Kept for later moves, too. Left out: the alias's own. `none` takes it away, with `force`."),
    ] = None
    force: Annotated[bool, Field(description="Promote against the gate; needs a `reason`.")] = False
    candidate: CandidateBody | None = None
    expected: Annotated[
        _Adapter | None, Field(description="Where the alias points as far as you know, `none` for a new one; else 409.")
    ] = None
    reason: Reason | None = None
    by: By | None = None

    model_config = RequestBody.model_config | {
        "json_schema_extra": {
            "examples": [
                {"to": "telecom:7", "gate": {"file": "file-0123456789abcdef01234567"}, "by": "li.wei"},
                {"to": "previous", "reason": "complaints"},
                {"candidate": {"model": "telecom:8", "percent": 10}},
            ]
        }
    }


class CandidateObject(BaseModel):
    """What an alias tries out."""

    model: str
    mode: CandidateMode
    percent: float
    since: int

    @classmethod
    def of(cls, row: AliasCandidate) -> "CandidateObject":
        """Builds the object of a row."""
        mode: CandidateMode = "shadow" if row.mode == "shadow" else "share"
        return cls(model=row.adapter_id, mode=mode, percent=row.percent, since=int(row.created_at))


class GateObject(BaseModel):
    """What the alias's next adapter must not be worse on."""

    file: str
    metric: GateMetric


class PromotionObject(BaseModel):
    """What a change has just done."""

    from_model: str | None
    to_model: str
    gate: dict[str, Any] | None
    """The verdict and its numbers; none where there is no gate, or for a way back."""
    forced: bool
    loaded: bool
    """Whether the answerer had loaded the adapter before the alias moved: then no answer waited for it."""


class AliasObject(BaseModel):
    """Where an alias points."""

    name: str
    object: Literal["alias"] = "alias"
    model: str
    gate: GateObject | None
    candidate: CandidateObject | None
    updated_at: int
    promotion: PromotionObject | None = None
    """In the reply to a promotion alone."""

    @classmethod
    def of(cls, alias: Alias, candidate: AliasCandidate | None, promotion: PromotionObject | None = None) -> "AliasObject":
        """Builds the object of a row."""
        gate = None if alias.gate is None else Gate.from_mapping(alias.gate)
        return cls(
            name=alias.name,
            model=alias.adapter_id,
            gate=None if gate is None else GateObject(file=gate.file_id, metric=gate.metric),
            candidate=None if candidate is None else CandidateObject.of(candidate),
            updated_at=int(alias.updated_at),
            promotion=promotion,
        )


class AliasList(BaseModel):
    """Aliases by name."""

    object: Literal["list"] = "list"
    data: list[AliasObject]
    has_more: bool


class AliasMoveObject(BaseModel):
    """One change of an alias."""

    number: int
    action: Literal["moved", "candidate_set", "candidate_removed", "deleted"]
    from_model: str | None
    to_model: str | None
    by: str
    """As the client said; `anonymous` where it did not."""
    reason: str | None
    forced: bool
    gate: dict[str, Any] | None
    candidate: dict[str, Any] | None
    created_at: int

    @classmethod
    def of(cls, move: AliasMove) -> "AliasMoveObject":
        """Builds the object of a row."""
        is_trial = move.action == CANDIDATE_SET
        return cls.model_validate(
            {
                "number": move.number,
                "action": move.action,
                "from_model": move.from_adapter_id,
                "to_model": move.to_adapter_id,
                "by": move.made_by or "anonymous",
                "reason": move.reason,
                "forced": move.is_forced,
                "gate": None if is_trial else move.facts,
                "candidate": move.facts if is_trial else None,
                "created_at": int(move.created_at),
            }
        )


class AliasHistory(BaseModel):
    """Changes of an alias, newest first."""

    object: Literal["list"] = "list"
    data: list[AliasMoveObject]
    has_more: bool
