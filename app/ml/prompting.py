r"""The one renderer of prompts, for training and for answering.

Templates:

* `plain`: the question and a newline.
* `default`: LLaMA-Factory's template of that name, `Human: …\nAssistant:`.

A wrapper is the text that all training questions share around what the customer typed ("回答…的问题,{question},应该怎么做？").
It is found in the training rows and stored with the adapter, so that an app may post the bare question.

With `prompt_repeats_question` the bare question stands there once more, since a causal model reads it the first time without
knowing its end (arXiv 2402.15449): `回答…的问题,怎么退,应该怎么做？⏎怎么退⏎`.

With `prompt_neighbours` the nearest training questions stand before the question, each with its answer as the answer itself
would follow it, the nearest last:

    语音包怎么退⏎取消方式_59⏎青春语音包怎么取消⏎取消方式_60⏎回答…的问题,青春语音包怎么退,应该怎么做？⏎
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.ml.codes import SEPARATOR, answer_tokens
from app.ml.errors import AdapterMismatch, InvalidSpec
from app.ml.spec import NeighboursBy, Template
from app.ml.tokens import TextTokenizer

MAX_PROMPT_TOKENS = 2048
"""Longest prompt that is answered, tokens; whatever answers."""

MAX_NEIGHBOUR_TOKENS = 384
"""Most tokens of the training questions that a prompt shows; the farthest are left out."""

_MIN_ROWS_FOR_WRAPPER = 20
_MIN_WRAPPER_CHARS = 6


@dataclass(frozen=True)
class Wrapper:
    """What stands before and after the customer's words in every training question."""

    before: str = ""
    after: str = ""

    def apply(self, question: str) -> str:
        """Wraps a bare question; one that is wrapped already stays as it is."""
        if self._is_around(question):
            return question
        return f"{self.before}{question}{self.after}"

    def strip(self, question: str) -> str:
        """Returns the bare question of a wrapped one; one that is bare already stays as it is."""
        return question[len(self.before) : len(question) - len(self.after)] if self._is_around(question) else question

    def _is_around(self, question: str) -> bool:
        is_long_enough = len(question) >= len(self.before) + len(self.after)
        return is_long_enough and question.startswith(self.before) and question.endswith(self.after)


@dataclass(frozen=True)
class SolvedQuestion:
    """A training question with its answer."""

    question: str
    """Bare."""
    codes: tuple[str, ...]


@dataclass(frozen=True)
class PromptView:
    """How one prompt is to look."""

    is_alone: bool = False
    """Whether it shows no training question at all."""
    own: SolvedQuestion | None = None
    """The training row that the question comes from, which its prompt does not show."""
    hides: Callable[[], bool] | None = None
    """Asked of each training question that would be shown whether to leave it out."""
    shown: Sequence[SolvedQuestion] | None = None
    """The training questions that it shows, the nearest first; None: those that are nearest."""


_SHOWING_ALL = PromptView()


class NearestQuestions(Protocol):
    """Where the training questions come from that a prompt shows."""

    def nearest_solved(self, question: str, count: int, *, own: SolvedQuestion | None = None) -> Sequence[SolvedQuestion]:
        """Returns up to `count` training questions of distinct answers, the nearest first; without the training row `own`."""
        ...


@dataclass(frozen=True)
class PromptRenderer:
    """Turns a question into the prompt's text and token ids."""

    template: Template
    wrapper: Wrapper = Wrapper()
    neighbours: int = 0
    """How many training questions a prompt shows."""
    neighbours_by: NeighboursBy = "text"
    """What makes them near."""
    nearest: NearestQuestions | None = None
    repeats: bool = False
    """Whether the bare question stands behind the question once more; specs want it where they show no training questions."""

    def render(self, question: str) -> str:
        """Returns the text of the question's own part of the prompt, which ends where the answer begins."""
        text = self.wrapper.apply(question)
        if self.repeats:
            # Behind, not before: what all prompts begin with stays the wrapper, which is computed once.
            text = f"{text}\n{self.wrapper.strip(question)}"
        return self._templated(text)

    def encode(self, question: str, tokenizer: TextTokenizer, view: PromptView = _SHOWING_ALL) -> list[int]:
        """Returns the prompt's token ids with exactly one BOS, where the base model wants one.

        Raises:
            AdapterMismatch: the prompt must show training questions, and they are not at hand.
        """
        ids = tokenizer.encode(self.render(question))
        if view.shown is not None:
            parts = list(map(self._encoder(tokenizer), view.shown))
        else:
            parts = [part for _, part in self._nearest(question, tokenizer, view, room=MAX_PROMPT_TOKENS - 1 - len(ids))]
        ids = [*(token for part in reversed(parts) for token in part), *ids]
        return ids if tokenizer.bos_id is None else [tokenizer.bos_id, *ids]

    def shown(self, question: str, tokenizer: TextTokenizer, view: PromptView = _SHOWING_ALL) -> list[SolvedQuestion]:
        """Returns the training questions that a prompt shows, the nearest first.

        Raises:
            AdapterMismatch: they are not at hand.
        """
        room = MAX_PROMPT_TOKENS - 1 - len(tokenizer.encode(self.render(question)))
        return [solved for solved, _ in self._nearest(question, tokenizer, view, room=room)]

    def _templated(self, text: str) -> str:
        match self.template:
            case "plain":
                return f"{text}\n"
            case "default":
                return f"Human: {text}\nAssistant:"
        raise InvalidSpec(f"There is no template {self.template!r}.", param="template")

    def _nearest(
        self, question: str, tokenizer: TextTokenizer, view: PromptView, *, room: int
    ) -> list[tuple[SolvedQuestion, list[int]]]:
        """Returns the training questions that there is room for, each with its token ids."""
        if not self.neighbours or view.is_alone:
            return []
        if self.nearest is None:
            raise AdapterMismatch(
                "The adapter's prompts show its nearest training questions, which only Dianda's answerer knows. Ask it there, or "
                "train with prompt_neighbours 0.",
                param="model",
            )
        found: list[tuple[SolvedQuestion, list[int]]] = []
        room, encoded = min(room, MAX_NEIGHBOUR_TOKENS), self._encoder(tokenizer)
        for solved in self.nearest.nearest_solved(self.wrapper.strip(question), self.neighbours, own=view.own):
            if view.hides is not None and view.hides():
                continue
            ids = encoded(solved)
            room -= len(ids)
            if room < 0:
                break
            found.append((solved, ids))
        return found

    def _encoder(self, tokenizer: TextTokenizer) -> Callable[[SolvedQuestion], list[int]]:
        """Returns what turns a training question and its answer into token ids."""
        separator, newline = tokenizer.encode(SEPARATOR), tokenizer.encode("\n")

        def encoded(solved: SolvedQuestion) -> list[int]:
            # Codes are tokens here as they are in the answer, so that copying one is copying its tokens.
            answer = answer_tokens([tokenizer.encode(code) for code in solved.codes], separator, tokenizer.eos_id)[:-1]
            return [*tokenizer.encode(self._templated(solved.question)), *answer, *newline]

        return encoded


def find_wrapper(questions: Sequence[str]) -> Wrapper:
    """Finds what all questions share at their start and end; nothing, where that may be chance.

    Needs 20 questions and 6 shared characters in all; the two parts never overlap in the shortest question.
    """
    if len(questions) < _MIN_ROWS_FOR_WRAPPER:
        return Wrapper()
    before = _shared_start(questions)
    room = min(len(question) for question in questions) - len(before)
    after = _shared_start([question[::-1] for question in questions])[:room][::-1]
    # Questions that are all alike share everything: that is no wrapper around anything.
    if len(before) + len(after) < _MIN_WRAPPER_CHARS or room <= len(after):
        return Wrapper()
    return Wrapper(before, after)


def _shared_start(texts: Sequence[str]) -> str:
    # What the first and the last in order share, all between them share.
    first, last = min(texts), max(texts)
    for place, char in enumerate(first):
        if char != last[place]:
            return first[:place]
    return first
