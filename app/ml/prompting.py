r"""The one renderer of prompts, for training and for answering.

Templates:

* `plain`: the question and a newline.
* `default`: LLaMA-Factory's template of that name, `Human: …\nAssistant:`.

A wrapper is the text that all training questions share around what the customer typed ("回答…的问题,{question},应该怎么做？").
It is found in the training rows and stored with the adapter, so that an app may post the bare question.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.ml.errors import InvalidSpec
from app.ml.spec import Template
from app.ml.tokens import TextTokenizer

MAX_PROMPT_TOKENS = 2048
"""Longest prompt that is answered, tokens; whatever answers."""

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
class PromptRenderer:
    """Turns a question into the prompt's text and token ids."""

    template: Template
    wrapper: Wrapper = Wrapper()

    def render(self, question: str) -> str:
        """Returns the prompt's text, which ends where the answer begins."""
        text = self.wrapper.apply(question)
        match self.template:
            case "plain":
                return f"{text}\n"
            case "default":
                return f"Human: {text}\nAssistant:"
        raise InvalidSpec(f"There is no template {self.template!r}.", param="template")

    def encode(self, question: str, tokenizer: TextTokenizer) -> list[int]:
        """Returns the prompt's token ids with exactly one BOS, where the base model wants one."""
        ids = tokenizer.encode(self.render(question))
        return ids if tokenizer.bos_id is None else [tokenizer.bos_id, *ids]


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
