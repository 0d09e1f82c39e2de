"""Reads one completion of OpenAI's dialect as an answer.

Engines tell log probabilities in two shapes: vLLM and SGLang as `tokens` and `token_logprobs` side by side, llama.cpp as
`content`, a list of `{"token", "logprob"}`. `text_offset` is not used: SGLang gives -1, and vLLM adds up the tokens' own
texts, which is done here too and checked against the answer.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from app.answers.backend import AnswerResult, Candidate, ConfidentCode
from app.errors import Internal
from app.ml.codes import SEPARATOR, CodeVocabulary, parse_answer


@dataclass(frozen=True)
class _Token:
    text: str
    log_probability: float


def read_completion(body: Any, vocabulary: CodeVocabulary | None) -> AnswerResult:
    """Returns the answer of a `/completions` body; without a vocabulary its first line is read, and no code is known.

    A code that was said before is dropped. An answer that the token limit cut off has no valid last code: `开通方式_1` may
    have become `开通方式_12`. Confidences are products of the engine's probabilities, 0 where it tells none.

    Raises:
        Internal: the body is no completion.
    """
    try:
        choice, usage = body["choices"][0], body["usage"]
        text, cut = _string(choice["text"]), choice.get("finish_reason") == "length"
        tokens = _tokens(choice.get("logprobs"))
        prompt_tokens, completion_tokens = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise Internal("The upstream engine gave a completion that is none. Check DIANDA_UPSTREAM_URL.") from error
    if vocabulary is None:
        text, tokens = _first_line(text, tokens)
    known = frozenset[str]() if vocabulary is None else frozenset(vocabulary.codes)
    names = parse_answer(text)
    confidence, confidences = _confidences(text, tokens)
    codes: dict[str, ConfidentCode] = {}
    for number, (name, code_confidence) in enumerate(zip(names, confidences, strict=True)):
        is_cut = cut and number == len(names) - 1
        if is_cut or name not in codes:
            codes[name] = ConfidentCode(name, code_confidence, name in known and not is_cut)
    return AnswerResult(Candidate(tuple(codes.values()), confidence), (), prompt_tokens, completion_tokens)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def _tokens(logprobs: Any) -> tuple[_Token, ...] | None:
    """Returns the tokens that the engine wrote, its end included; None where it does not tell their probabilities."""
    if not logprobs:
        return None
    if "content" in logprobs:
        pairs = [(item["token"], item["logprob"]) for item in logprobs["content"] or ()]
    else:
        pairs = list(zip(logprobs["tokens"] or (), logprobs["token_logprobs"] or (), strict=True))
    if not pairs or any(value is None or math.isnan(value) for _, value in pairs):
        return None
    return tuple(_Token(_string(token), min(0.0, float(value))) for token, value in pairs)


def _first_line(text: str, tokens: tuple[_Token, ...] | None) -> tuple[str, tuple[_Token, ...] | None]:
    """Cuts off what follows the first line that is not blank, the line break's own token excepted: it ends the line."""
    start = len(text) - len(text.lstrip())
    end = text.find("\n", start)
    if end < 0:
        return text, tokens
    if tokens is not None and (starts := _starts(text, tokens)) is not None:
        tokens = tokens[: bisect_right(starts, end)]
    return text[:end], tokens


def _confidences(text: str, tokens: Sequence[_Token] | None) -> tuple[float, list[float]]:
    """Returns the answer's confidence and each code's: of its tokens and of the `|` or the end that follows it."""
    lengths = [len(part) + len(SEPARATOR) for part in text.split(SEPARATOR)]
    if tokens is None:
        return 0.0, [0.0] * len(lengths)
    total = math.exp(sum(token.log_probability for token in tokens))
    token_starts = _starts(text, tokens)
    if token_starts is None:
        # No less than the whole answer's: the other codes' probabilities are at most 1.
        return total, [total] * len(lengths)
    code_starts = list(accumulate(lengths, initial=0))[:-1]
    sums = [0.0] * len(lengths)
    for start, token in zip(token_starts, tokens, strict=True):
        sums[bisect_right(code_starts, start) - 1] += token.log_probability
    return total, [math.exp(value) for value in sums]


def _starts(text: str, tokens: Sequence[_Token]) -> list[int] | None:
    """Returns where in the text each token begins; None where the tokens' texts do not add up to it (bytes of a character)."""
    if not "".join(token.text for token in tokens).startswith(text):
        return None
    return list(accumulate((len(token.text) for token in tokens), initial=0))[:-1]
