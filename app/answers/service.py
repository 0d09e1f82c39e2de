"""From questions to answers: resolve the model once, ask the backend, judge the confidence."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.answers.backend import AnswerBackend, AnswerRequest, AnswerResult, ConfidentCode
from app.answers.code_texts import CodeTexts
from app.answers.fallback import fallback_reason
from app.answers.log import AnswerLog
from app.answers.model_names import ModelNames
from app.answers.schemas import AlternativeObject, AnswerObject, CodeObject, FallbackObject, Wishes
from app.codebook.entries import Entry
from app.errors import InvalidInput, TooLarge
from app.ids import new_id
from app.ml.codes import category_of, join_codes


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
    ) -> None:
        """`log` is None where answers are not logged."""
        self._backend = backend
        self._names = names
        self._code_texts = code_texts
        self._limits = limits
        self._default_model = default_model
        self._log = log

    async def answer(self, questions: Sequence[str], *, param: str, model: str | None, wishes: Wishes) -> list[Answered]:
        """Returns one answer a question, all by the same adapter; `param` is the field that errors name, `{}` the number.

        Raises:
            TooLarge: a question or the batch is over the deployment's limit.
            InvalidInput: a question is blank, or both a threshold and a precision are wished.
            NotFound: no such model.
        """
        started = time.perf_counter()
        self._check(questions, param)
        if wishes.threshold is not None and wishes.precision is not None:
            raise InvalidInput("A precision brings its own threshold. Send one of the two.", param="precision")
        name = model or self._default_model
        resolved = await self._names.resolve(name)
        book = await self._code_texts.entries()
        results = await self._backend.answer(
            AnswerRequest(
                tuple(questions),
                resolved.base_model,
                resolved.adapter_checksum,
                wishes.alternatives,
                mode=wishes.mode,
                precision=wishes.precision,
                deadline_s=self._limits.deadline_s,
            )
        )
        latency_ms = round((time.perf_counter() - started) * 1000, 2)
        answers = [
            _answer_object(result, book, model=name, adapter=resolved.adapter_id, wishes=wishes, latency_ms=latency_ms)
            for result in results
        ]
        if self._log is not None:
            for question, answer in zip(questions, answers, strict=True):
                self._log.add(question, answer, adapter_checksum=resolved.adapter_checksum, mode=wishes.mode)
        return [
            Answered(answer, result.prompt_tokens, result.completion_tokens)
            for answer, result in zip(answers, results, strict=True)
        ]

    def _check(self, questions: Sequence[str], param: str) -> None:
        if len(questions) > self._limits.max_batch_questions:
            raise TooLarge(f"A batch has at most {self._limits.max_batch_questions} questions.", param="questions")
        for number, question in enumerate(questions):
            place = param.format(number)
            if len(question) > self._limits.max_question_chars:
                raise TooLarge(f"A question has at most {self._limits.max_question_chars} characters.", param=place)
            if not question.strip():
                raise InvalidInput("The question is blank.", param=place)


def _answer_object(
    result: AnswerResult,
    book: Mapping[str, Entry],
    *,
    model: str,
    adapter: str | None,
    wishes: Wishes,
    latency_ms: float,
) -> AnswerObject:
    best = result.best
    reason = fallback_reason(result, wishes.mode, threshold=wishes.threshold, precision=wishes.precision)
    return AnswerObject(
        id=new_id("ans"),
        answer=join_codes(code.code for code in best.codes),
        codes=[_code_object(code, book.get(code.code)) for code in best.codes],
        confidence=round(best.confidence, 4),
        calibrated=result.calibrated,
        alternatives=[
            AlternativeObject(answer=join_codes(code.code for code in other.codes), confidence=round(other.confidence, 4))
            for other in result.alternatives
        ],
        fallback=FallbackObject(triggered=reason is not None, reason=reason),
        model=model,
        adapter=adapter,
        passes=result.passes,
        latency_ms=latency_ms,
    )


def _code_object(code: ConfidentCode, entry: Entry | None) -> CodeObject:
    return CodeObject(
        code=code.code,
        category=(entry.category if entry else None) or category_of(code.code),
        text=entry.text if entry else None,
        confidence=round(code.confidence, 4),
        in_vocabulary=code.in_vocabulary,
    )
