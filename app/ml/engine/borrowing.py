"""Which of a base model's tokens stand for codes, where an adapter's codes are single tokens."""

import random
from collections.abc import Iterable

import torch

from app.ml.codes import SEPARATOR
from app.ml.engine.loading import LoadedModel
from app.ml.errors import InvalidSpec

# Of so many times the wanted tokens, those that lie farthest apart are taken.
_POOL = 8
_LARGEST = 1023


def borrow_tokens(base: LoadedModel, codes: tuple[str, ...], questions: Iterable[str]) -> tuple[int, ...]:
    """Returns a token for each code: none that a question, a code or `|` is written in, far apart from each other.

    The same weights and texts give the same tokens on any device, as a run that is resumed elsewhere needs: all sums are of
    whole numbers below 2^53, which no order of summing changes.

    Raises:
        InvalidSpec: the base model has too few tokens.
    """
    tokenizer, weight = base.tokenizer, base.network.get_input_embeddings().weight
    written = {token for text in (*questions, *codes, SEPARATOR, "\n") for token in tokenizer.encode(text)}
    written |= {tokenizer.eos_id, tokenizer.pad_id, *(() if tokenizer.bos_id is None else (tokenizer.bos_id,))}
    free = [token for token in range(weight.shape[0]) if token not in written]
    if len(free) < len(codes):
        raise InvalidSpec(
            f"{base.name!r} has {len(free)} tokens that no row is written in; the codes are {len(codes)}. Set answer_format "
            "to spelled.",
            param="answer_format",
        )
    random.Random(0).shuffle(free)
    pool = free[: _POOL * len(codes)]
    rows = weight.detach()[torch.tensor(pool, device=weight.device)].to("cpu", torch.float64)
    rows = (rows * (_LARGEST / float(rows.abs().max()))).round()
    # What all have in common tells none of them apart.
    rows = rows - (rows.sum(0) / len(pool)).round()
    lengths = (rows * rows).sum(1).sqrt().clamp(min=1.0)
    chosen: list[int] = []
    nearest = torch.full((len(pool),), -torch.inf, dtype=torch.float64)
    for _ in codes:
        place = int(nearest.argmin())
        chosen.append(place)
        nearest = torch.maximum(nearest, (rows @ rows[place]) / (lengths * lengths[place]))
        nearest[chosen] = torch.inf
    return tuple(pool[place] for place in chosen)
