"""From questions to answers: resolve the model once, ask the backend, judge the confidence."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.adapters.service import ResolvedCandidate, ResolvedModel
from app.answers.backend import AnswerBackend, AnswerRequest, AnswerResult, ConfidentCode, ServingPaused
from app.answers.code_texts import CodeTexts
from app.answers.fallback import fallback_reason
from app.answers.log import AnswerLog
from app.answers.model_names import ModelNames
from app.answers.pauses import Pauses
from app.answers.schemas import AlternativeObject, AnswerObject, CodeObject, FallbackObject, Wishes
from app.answers.shadowing import Shadows
from app.answers.variants import SHADOW_SUFFIX, Variant, is_chosen
from app.codebook.entries import Entry
from app.errors import InvalidInput, TooLarge
from app.ids import new_id
from app.ml.codes import category_of, join_codes

_REHEARSED = "你好"


@dataclass(frozen=True)
class AnswerLimits:
    """What one request may ask, and how long it waits."""

    max_question_chars: int
    max_batch_questions: int
    deadline_s: float


@dataclass(frozen=True)
class Answered:
    """An answer, and the tokens that it took."""

    answer: AnswerObject
    adapter_checksum: str | None
    prompt_tokens: int
    completion_tokens: int


class AnswerService:
    """Answers questions with whatever backend the deployment chose."""

    def __init__(
        self,
        backend: AnswerBackend,
        names: ModelNames,
        code_texts: CodeTexts,
        limits: AnswerLimits,
        *,
        default_model: str,
        log: AnswerLog | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        """`log` is None where answers are not logged, `pauses` where no job ever takes the answerer's card."""
        self._backend = backend
        self._names = names
        self._code_texts = code_texts
        self._limits = limits
        self._default_model = default_model
        self._log = log
        self._pauses = pauses
        self._shadows = Shadows()

    async def answer(self, questions: Sequence[str], *, param: str, model: str | None, wishes: Wishes) -> list[Answered]:
        """Returns one answer a question; `param` is the field that errors name, `{}` the number.

        All are by the same adapter, unless the model is an alias that tries a candidate out on a share of askers.

        Raises:
            TooLarge: a question or the batch is over the deployment's limit.
            InvalidInput: a question is blank, or two wishes do not go together.
            NotFound: no such model.
            ServingPaused: a job has the card; says which, and when to ask again.
        """
        started = time.perf_counter()
        self._check(questions, param)
        if wishes.threshold is not None and wishes.precision is not None:
            raise InvalidInput("A precision brings its own threshold. Send one of the two.", param="precision")
        if wishes.decide_by != "answer" and not wishes.alternatives:
            raise InvalidInput(f"decide_by {wishes.decide_by!r} decides among alternatives. Wish for some.", param="decide_by")
        if wishes.decide_by != "answer" and wishes.precision is not None:
            raise InvalidInput("A precision is promised of the likeliest answer. Leave decide_by out.", param="decide_by")
        resolved = await self._names.resolve(model or self._default_model)
        book = await self._code_texts.entries()
        asking = _Asking(resolved, book, wishes, started)
        candidate = resolved.candidate
        primary = _Chosen(resolved.adapter_id, resolved.adapter_checksum, None if candidate is None else "primary")
        if candidate is None:
            answered = await self._ask(asking, primary, questions)
            self._keep(questions, answered, wishes)
            return answered
        is_tried = [
            is_chosen(candidate, alias=resolved.requested, key=question if wishes.user is None else wishes.user)
            for question in questions
        ]
        if candidate.mode == "shadow":
            answered = await self._ask(asking, primary, questions)
            self._keep(questions, answered, wishes)
            shadowed = [
                (question, one.answer.id) for question, one, tried in zip(questions, answered, is_tried, strict=True) if tried
            ]
            if shadowed:
                self._shadows.start(self._shadow(asking, candidate, shadowed))
            return answered
        tried = _Chosen(candidate.adapter_id, candidate.adapter_checksum, "candidate")
        answered = await self._ask_both(asking, primary, tried, questions, is_tried)
        self._keep(questions, answered, wishes)
        return answered

    async def rehearse(self, *, base_model: str, adapter_checksum: str) -> None:
        """Lets an adapter answer once, unseen, so that it is loaded.

        Raises:
            AppError: the backend's own: it is away, or cannot use the adapter.
        """
        await self._backend.answer(
            AnswerRequest((_REHEARSED,), base_model, adapter_checksum, 0, deadline_s=self._limits.deadline_s)
        )

    async def close(self) -> None:
        """Ends what goes on beside the answers."""
        await self._shadows.close()

    async def _ask_both(
        self, asking: "_Asking", primary: "_Chosen", candidate: "_Chosen", questions: Sequence[str], is_tried: Sequence[bool]
    ) -> list[Answered]:
        """Asks each question of the one that it belongs to, and returns the answers in the questions' order."""
        places: dict[bool, list[int]] = {False: [], True: []}
        for place, tried in enumerate(is_tried):
            places[tried].append(place)
        sides = [(chosen, places[tried]) for chosen, tried in ((primary, False), (candidate, True)) if places[tried]]
        parts = await asyncio.gather(*(self._ask(asking, chosen, [questions[place] for place in side]) for chosen, side in sides))
        answered = dict(item for (_, side), part in zip(sides, parts, strict=True) for item in zip(side, part, strict=True))
        return [answered[place] for place in range(len(questions))]

    async def _ask(self, asking: "_Asking", chosen: "_Chosen", questions: Sequence[str]) -> list[Answered]:
        wishes = asking.wishes
        request = AnswerRequest(
            tuple(questions),
            asking.resolved.base_model,
            chosen.adapter_checksum,
            wishes.alternatives,
            mode=wishes.mode,
            precision=wishes.precision,
            decide_by=wishes.decide_by,
            deadline_s=self._limits.deadline_s,
        )
        try:
            results = await self._backend.answer(request)
        except ServingPaused as pause:
            if self._pauses is None:
                raise
            raise await self._pauses.explained(pause) from None
        latency_ms = round((time.perf_counter() - asking.started) * 1000, 2)
        return [
            Answered(
                _answer_object(result, asking, chosen, latency_ms=latency_ms),
                chosen.adapter_checksum,
                result.prompt_tokens,
                result.completion_tokens,
            )
            for result in results
        ]

    async def _shadow(self, asking: "_Asking", candidate: ResolvedCandidate, shadowed: Sequence[tuple[str, str]]) -> None:
        """Answers with the candidate what was answered already; in the log the two belong together by their ids."""
        questions = [question for question, _ in shadowed]
        later = replace(asking, started=time.perf_counter())
        chosen = _Chosen(candidate.adapter_id, candidate.adapter_checksum, "shadow")
        answered = await self._ask(later, chosen, questions)
        for (_, primary_id), one in zip(shadowed, answered, strict=True):
            one.answer.id = primary_id + SHADOW_SUFFIX
        self._keep(questions, answered, asking.wishes)

    def _keep(self, questions: Sequence[str], answered: Sequence[Answered], wishes: Wishes) -> None:
        if self._log is not None:
            for question, one in zip(questions, answered, strict=True):
                self._log.add(question, one.answer, adapter_checksum=one.adapter_checksum, mode=wishes.mode)

    def _check(self, questions: Sequence[str], param: str) -> None:
        if len(questions) > self._limits.max_batch_questions:
            raise TooLarge(f"A batch has at most {self._limits.max_batch_questions} questions.", param="questions")
        for number, question in enumerate(questions):
            place = param.format(number)
            if len(question) > self._limits.max_question_chars:
                raise TooLarge(f"A question has at most {self._limits.max_question_chars} characters.", param=place)
            if not question.strip():
                raise InvalidInput("The question is blank.", param=place)


@dataclass(frozen=True)
class _Asking:
    """What the questions of one request share."""

    resolved: ResolvedModel
    book: Mapping[str, Entry]
    wishes: Wishes
    started: float


@dataclass(frozen=True)
class _Chosen:
    """The adapter that answers, and why it."""

    adapter_id: str | None
    adapter_checksum: str | None
    variant: Variant | None


def _answer_object(result: AnswerResult, asking: _Asking, chosen: _Chosen, *, latency_ms: float) -> AnswerObject:
    best, wishes = result.best, asking.wishes
    reason = fallback_reason(result, wishes.mode, threshold=wishes.threshold, precision=wishes.precision)
    return AnswerObject(
        id=new_id("ans"),
        answer=join_codes(code.code for code in best.codes),
        codes=[_code_object(code, asking.book.get(code.code)) for code in best.codes],
        confidence=round(best.confidence, 4),
        calibrated=result.calibrated,
        alternatives=[
            AlternativeObject(answer=join_codes(code.code for code in other.codes), confidence=round(other.confidence, 4))
            for other in result.alternatives
        ],
        fallback=FallbackObject(triggered=reason is not None, reason=reason),
        model=asking.resolved.requested,
        adapter=chosen.adapter_id,
        passes=result.passes,
        latency_ms=latency_ms,
        variant=chosen.variant,
    )


def _code_object(code: ConfidentCode, entry: Entry | None) -> CodeObject:
    return CodeObject(
        code=code.code,
        category=(entry.category if entry else None) or category_of(code.code),
        text=entry.text if entry else None,
        confidence=round(code.confidence, 4),
        in_vocabulary=code.in_vocabulary,
    )
