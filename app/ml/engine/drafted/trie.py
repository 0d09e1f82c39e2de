"""The grammars' edges as arrays on the device, and the model's choice at every scored token of a pass at once."""

import math
from bisect import insort
from collections.abc import Sequence

import torch

from app.ml.codes import AnswerGrammar, EdgeKind

_FIRST_EDGES, _FIRST_COLUMNS = 16_384, 1_024
_LOG_LEAST_LEFT = math.log(0.01)


class HeadColumns:
    """The rows of the output head that some grammar's tokens need, `[columns, D]` fp32: all others are never multiplied.

    In fp32, because logits of 32 and more stand 0.25 apart in bf16: near choices would be ties, decided by a token's number.
    """

    def __init__(self, head: torch.Tensor) -> None:
        """`head`: [V, D], frozen."""
        self._head = head
        self._column_of: dict[int, int] = {}
        self.weight = head.new_zeros(_FIRST_COLUMNS, head.shape[1], dtype=torch.float32)

    def columns_of(self, tokens: Sequence[int]) -> tuple[list[int], bool]:
        """Returns the columns of tokens, new ones added, and whether the weight had to move to a larger place."""
        fresh = [token for token in dict.fromkeys(tokens) if token not in self._column_of]
        first = len(self._column_of)
        has_moved = False
        if first + len(fresh) > self.weight.shape[0]:
            larger = self.weight.new_zeros(_doubled(self.weight.shape[0], first + len(fresh)), self._head.shape[1])
            larger[:first] = self.weight[:first]
            self.weight, has_moved = larger, True
        if fresh:
            self._column_of |= {token: first + place for place, token in enumerate(fresh)}
            self.weight[first : first + len(fresh)] = self._head[torch.tensor(fresh, device=self._head.device)].float()
        return [self._column_of[token] for token in tokens], has_moved


class EdgeArrays:
    """The edges of the grammars in memory; a grammar's edge e stands at `offset + e`."""

    def __init__(self, device: torch.device) -> None:
        """Holds no grammar yet."""
        self.numbers = torch.zeros(4, _FIRST_EDGES, dtype=torch.int32, device=device)
        """[4, edges] int32: column of the head, first rank, rank behind the last, kind."""
        self._free = [(0, _FIRST_EDGES)]

    def add(self, grammar: AnswerGrammar, columns: Sequence[int]) -> tuple[int, bool]:
        """Puts a grammar in; returns its offset and whether the arrays had to move to a larger place."""
        count = len(grammar.edge_token)
        offset, has_moved = self._find(count)
        rows = [list(columns), grammar.edge_low, grammar.edge_high, [int(kind) for kind in grammar.edge_kind]]
        self.numbers[:, offset : offset + count] = torch.tensor(rows, dtype=torch.int32).to(self.numbers.device)
        return offset, has_moved

    def remove(self, grammar: AnswerGrammar, offset: int) -> None:
        """Frees a grammar's places."""
        insort(self._free, (offset, len(grammar.edge_token)))
        merged: list[tuple[int, int]] = []
        for start, count in self._free:
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + count)
            else:
                merged.append((start, count))
        self._free = merged

    def _find(self, count: int) -> tuple[int, bool]:
        for place, (start, size) in enumerate(self._free):
            if size >= count:
                self._free[place] = (start + count, size - count)
                return start, False
        end = self.numbers.shape[1]
        larger = self.numbers.new_zeros(4, _doubled(end, end + count))
        larger[:, :end] = self.numbers
        self.numbers = larger
        self._free.append((end + count, larger.shape[1] - end - count))
        return end, True


def choose(
    logits: torch.Tensor,
    edges: torch.Tensor,
    first: torch.Tensor,
    count: torch.Tensor,
    used: torch.Tensor,
    may_go_on: torch.Tensor,
    inverse_temperature: torch.Tensor,
    smoothing: torch.Tensor,
    width: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns which of its open edges each scored token takes, `[S]`, and log-probabilities, `[S, width]`, -inf where closed.

    `logits` [S, columns] fp32; `edges` as in `EdgeArrays.numbers`; token s has the edges `first[s]` to `first[s] + count[s]`,
    `used[s]` [M] are the ranks of its complete codes (-1: none), and `may_go_on[s]` opens the separator. A token without
    edges gets nothing of meaning. `smoothing[s]` is the label smoothing that the adapter was trained with, which is taken back
    before the temperature; both change probabilities, never the choice.
    """
    offsets = torch.arange(width, device=logits.device)
    inside = offsets < count[:, None]
    places = torch.where(inside, first[:, None] + offsets, 0)
    columns, low, high, kind = edges[:, places]
    scores = logits.gather(1, columns.long())
    taken = ((used[:, None, :] >= low[:, :, None]) & (used[:, None, :] < high[:, :, None])).sum(-1)
    closed = (high > low) & (taken == high - low)
    closed |= (kind == EdgeKind.SEPARATE) & ~may_go_on[:, None]
    closed |= ~inside
    scores = scores.masked_fill(closed, float("-inf"))
    log_p = torch.where(smoothing[:, None] > 0, unsmoothed(torch.log_softmax(scores, dim=1), closed, smoothing), scores)
    return scores.argmax(1), torch.log_softmax(log_p * inverse_temperature[:, None], dim=1)


def unsmoothed(log_p: torch.Tensor, closed: torch.Tensor, smoothing: torch.Tensor) -> torch.Tensor:
    """Returns what a model believes that was trained to say less: log-probabilities `[S, W]`, up to a constant a row.

    A model that learnt (1 - e) of what is so and e spread over the m tokens allowed says (1 - e) q + e / m where it believes q
    (arXiv 1906.02629). What it says less than its share of e for keeps a hundredth, so that the order stays.
    """
    share = smoothing / (~closed).sum(1).clamp(min=1)
    return torch.maximum((log_p.exp() - share[:, None]).clamp(min=0).log(), log_p + _LOG_LEAST_LEFT)


def _doubled(size: int, wanted: int) -> int:
    while size < wanted:
        size *= 2
    return size
