"""One answered row of an evaluation: what was expected, what was given, and how sure the model was."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from app.ml.metrics import Codes, is_invalid, set_f1


@dataclass(frozen=True, kw_only=True)
class EvaluatedRow:
    """A question of the file, its true codes, and the answer."""

    row: int
    """1-based position in the file."""
    question: str
    expected: Codes
    given: Codes
    code_confidences: tuple[float, ...]
    """One a given code."""
    confidence: float
    """Of the whole answer, calibrated where the adapter is."""
    in_vocabulary: bool
    """Whether every given code is one that the model may answer with."""
    fallback: str | None
    """Why the product would hand the question over to a human; None: it would answer."""
    latency_ms: float
    """From the question's submission to its answer, beside the others of its batch."""
    passes: int
    """Forward passes that the answer took."""
    slices: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The file's own (答案类型, …), and `code_count`, `answer_in_training`, `codes_in_training`, `question_in_training`."""

    @property
    def is_right(self) -> bool:
        """Whether the given set of codes is the true one."""
        return set(self.given) == set(self.expected)

    @property
    def is_invalid(self) -> bool:
        """Whether the answer holds a code that does not exist, or none at all."""
        return not self.in_vocabulary or is_invalid(self.given, None)

    def to_mapping(self) -> dict[str, Any]:
        """Returns the JSON form, the row's own scores included."""
        return {
            **asdict(self),
            "expected": list(self.expected),
            "given": list(self.given),
            "code_confidences": list(self.code_confidences),
            "match": self.is_right,
            "ordered_match": self.given == self.expected,
            "set_f1": set_f1(self.given, self.expected),
            "invalid": self.is_invalid,
        }

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "EvaluatedRow":
        """Reads what `to_mapping` wrote."""
        return cls(
            row=mapping["row"],
            question=mapping["question"],
            expected=tuple(mapping["expected"]),
            given=tuple(mapping["given"]),
            code_confidences=tuple(mapping["code_confidences"]),
            confidence=mapping["confidence"],
            in_vocabulary=mapping["in_vocabulary"],
            fallback=mapping["fallback"],
            latency_ms=mapping["latency_ms"],
            passes=mapping["passes"],
            slices=mapping["slices"],
        )
