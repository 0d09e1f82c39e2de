"""How many tokens a dataset's rows have for a base model. Needs its tokenizer and no torch."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.ml.codes import SEPARATOR, answer_tokens
from app.ml.formats.example import Example
from app.ml.prompting import MAX_NEIGHBOUR_TOKENS, PromptRenderer
from app.ml.tokens import TextTokenizer

# Of a prompt that is cut: its BOS and one token of its end.
MIN_PROMPT_TOKENS = 2
_QUANTILES = (50, 95, 99)


@dataclass(frozen=True)
class RowLength:
    """One row in tokens, nothing cut yet."""

    prompt: int
    """With its BOS."""
    answer: int
    """With its end token."""

    def fits(self, cutoff_len: int) -> bool:
        """Says whether a prompt has room beside the answer, which is never cut; else training leaves the row out."""
        return cutoff_len - self.answer >= MIN_PROMPT_TOKENS

    def is_truncated(self, cutoff_len: int) -> bool:
        """Says whether the prompt loses its start."""
        return self.fits(cutoff_len) and self.prompt + self.answer > cutoff_len

    def trained(self, cutoff_len: int) -> int:
        """Returns the tokens that training reads of the row."""
        return min(self.prompt + self.answer, cutoff_len)


class AnswerCounter:
    """Counts the tokens of answers; each code is encoded once."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._separator = tokenizer.encode(SEPARATOR)
        self._tokens_of: dict[str, list[int]] = {}

    def count(self, codes: Sequence[str]) -> int:
        """Returns the tokens of an answer, with its end."""
        for code in codes:
            if code not in self._tokens_of:
                self._tokens_of[code] = self._tokenizer.encode(code)
        return len(answer_tokens([self._tokens_of[code] for code in codes], self._separator, self._tokenizer.eos_id))


def row_lengths(examples: Iterable[Example], renderer: PromptRenderer, tokenizer: TextTokenizer) -> Iterator[RowLength]:
    """Yields the length of each row, as training counts them."""
    answers = AnswerCounter(tokenizer)
    for example in examples:
        yield RowLength(len(renderer.encode(example.question, tokenizer)), answers.count(example.codes))


def with_neighbours(rows: Sequence[RowLength], neighbours: int) -> list[RowLength]:
    """Returns rows whose prompts show so many others of mean length: an estimate, since the nearest are not looked up."""
    if not neighbours or not rows:
        return list(rows)
    mean = sum(row.prompt + row.answer for row in rows) / len(rows)
    more = min(MAX_NEIGHBOUR_TOKENS, round(neighbours * mean))
    return [RowLength(row.prompt + more, row.answer) for row in rows]


def measure_token_lengths(
    examples: Iterable[Example], renderer: PromptRenderer, tokenizer: TextTokenizer, *, cutoff_len: int
) -> dict[str, object]:
    """Returns rows, max, mean and quantiles of prompt plus answer in tokens, as training counts them.

    `truncated` rows are longer than `cutoff_len` tokens and lose the start of their prompt; `left_out` ones have no room
    for a prompt beside their answer.
    """
    counts: Counter[int] = Counter()
    truncated = left_out = 0
    for row in row_lengths(examples, renderer, tokenizer):
        counts[row.prompt + row.answer] += 1
        left_out += not row.fits(cutoff_len)
        truncated += row.is_truncated(cutoff_len)
    rows = counts.total()
    mean = sum(length * count for length, count in counts.items()) / max(rows, 1)
    return {
        "rows": rows,
        "max": max(counts, default=0),
        "mean": round(mean, 2),
        **{f"p{percent}": _quantile(counts, percent) for percent in _QUANTILES},
        "cutoff_len": cutoff_len,
        "truncated": truncated,
        "left_out": left_out,
    }


def _quantile(counts: Counter[int], percent: int) -> int:
    """Returns the smallest length that at least `percent` % of the rows do not pass."""
    left = -(-counts.total() * percent // 100)
    for length in sorted(counts):
        left -= counts[length]
        if left <= 0:
            return length
    return 0
