"""How many tokens a dataset's rows have for a base model. Needs its tokenizer and no torch."""

from collections import Counter
from collections.abc import Iterable

from app.ml.codes import SEPARATOR, answer_tokens
from app.ml.formats.example import Example
from app.ml.prompting import PromptRenderer
from app.ml.tokens import TextTokenizer

_QUANTILES = (50, 95, 99)


def measure_token_lengths(
    examples: Iterable[Example], renderer: PromptRenderer, tokenizer: TextTokenizer, *, cutoff_len: int
) -> dict[str, object]:
    """Returns rows, max, mean and quantiles of prompt plus answer in tokens, as training counts them.

    `truncated` rows are longer than `cutoff_len` tokens and lose the start of their prompt; `left_out` ones have no room
    for a prompt beside their answer.
    """
    separator = tokenizer.encode(SEPARATOR)
    tokens_of: dict[str, list[int]] = {}
    counts: Counter[int] = Counter()
    truncated = left_out = 0
    for example in examples:
        for code in example.codes:
            if code not in tokens_of:
                tokens_of[code] = tokenizer.encode(code)
        answer = len(answer_tokens([tokens_of[code] for code in example.codes], separator, tokenizer.eos_id))
        length = len(renderer.encode(example.question, tokenizer)) + answer
        counts[length] += 1
        left_out += cutoff_len - answer < 2
        truncated += length > cutoff_len and cutoff_len - answer >= 2
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
