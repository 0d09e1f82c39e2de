"""The promise of an answer backend."""

from dataclasses import dataclass
from typing import Protocol

from app.errors import Unavailable
from app.ml.codes import AnswerMode, DecideBy


class AnswererUnavailable(Unavailable):
    """The answerer does not answer, or has no model in memory yet."""

    code = "answerer_unavailable"


class ServingPaused(AnswererUnavailable):
    """A job has the card: the answerer was told to leave it, and answers again afterwards."""

    code = "serving_paused"


class Overloaded(Unavailable):
    """More questions wait than the answerer takes."""

    code = "overloaded"


@dataclass(frozen=True)
class AnswerRequest:
    """Questions for one model; an adapter is named by its checksum, so a moved alias never mixes two."""

    questions: tuple[str, ...]
    base_model: str
    adapter_checksum: str | None
    alternatives: int
    mode: AnswerMode = "closed"
    precision: float | None = None
    """Wanted share of right answers among those that are not handed over, 0..1; None: no wish."""
    decide_by: DecideBy = "answer"
    deadline_s: float | None = None
    """Seconds from now after which nobody waits for the answer; None: the backend's own limit."""


@dataclass(frozen=True)
class ConfidentCode:
    """A code and the probability of its tokens among those that the vocabulary allowed."""

    code: str
    confidence: float
    in_vocabulary: bool


@dataclass(frozen=True)
class Candidate:
    """A complete answer."""

    codes: tuple[ConfidentCode, ...]
    confidence: float


@dataclass(frozen=True)
class AnswerResult:
    """The answer to one question."""

    best: Candidate
    alternatives: tuple[Candidate, ...]
    prompt_tokens: int
    completion_tokens: int
    passes: int = 0
    """Forward passes that the answer took; 0 where the backend cannot say."""
    calibrated: bool = False
    """Whether confidences were calibrated on at least 100 held-out rows."""
    out_of_scope: bool = False
    """The question is unlike anything that the adapter was trained on."""
    precision_threshold: float | None = None
    """The confidence from which the wanted precision is promised; None: it cannot be, or none was wanted."""


class AnswerBackend(Protocol):
    """Answers questions; called from the event loop, many at once.

    With an adapter in mode `closed` every code is of its vocabulary. After an error the next call may succeed.
    """

    async def answer(self, request: AnswerRequest) -> list[AnswerResult]:
        """Returns one result a question, in order.

        Raises:
            AnswererUnavailable: not there, or still loading.
            ServingPaused: a job has the card.
            Overloaded: ask again later.
            AppError: the question or the adapter cannot be used; carries the backend's own code.
        """
        ...

    async def health(self) -> str | None:
        """Returns None if the backend is ready, else what is missing and what to do."""
        ...

    async def find_pause(self) -> str | None:
        """Returns what a pause of the answers means to askers; None while there is none, or nobody says."""
        ...

    async def close(self) -> None:
        """Gives connections back."""
        ...
