"""What an answer engine is asked, and what it says."""

from dataclasses import dataclass

from app.ml.codes import AnswerMode, DecideBy
from app.ml.engine.decoding import DecodedAnswer
from app.ml.prompting import PromptView

MAX_ALTERNATIVES = 7
"""Most other answers that may be wanted."""


@dataclass(frozen=True)
class Ask:
    """One question for one adapter in memory, or for the base model (`checksum` None)."""

    question: str
    checksum: str | None
    alternatives: int = 0
    """Other answers wanted; the beam is one wider."""
    mode: AnswerMode = "closed"
    precision: float | None = None
    decide_by: DecideBy = "answer"
    """Over the best answer and its alternatives; without alternatives there is nothing to decide."""
    follow: tuple[str, ...] | None = None
    """A recorded answer that is taken instead of the model's choices, to measure the work that it was on other weights."""
    view: PromptView = PromptView()


@dataclass(frozen=True)
class EngineAnswer:
    """The best answer to one question, and what a beam found beside it."""

    best: DecodedAnswer
    alternatives: tuple[DecodedAnswer, ...]
    prompt_tokens: int
    completion_tokens: int
    in_vocabulary: tuple[bool, ...]
    """Whether the vocabulary lists each code of the best answer."""
    alternatives_in_vocabulary: tuple[tuple[bool, ...], ...] = ()
    """The same of each alternative."""
    passes: int = 0
    """Forward passes that the best answer took."""
    calibrated: bool = False
    out_of_scope: bool = False
    precision_threshold: float | None = None
