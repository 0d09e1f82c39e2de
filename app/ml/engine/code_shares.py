"""What a classifier says of one question, joined with what the model says, a choice at a time.

At each branching of the trie every edge leads to some codes; the classifier's share of an edge is what it gives to these. The
model's and the classifier's logarithms are added, the latter times its weight (log-linear interpolation). Along an answer's
path the shares multiply up to what the classifier gives to its code, so greedy answers and beams go on as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.ml.adapter_card import AdapterCard
from app.ml.codes import AnswerGrammar
from app.ml.engine.code_classifier import CodeClassifier

_LEAST_SHARE = 1e-9


@dataclass(frozen=True, eq=False)
class CodeShares:
    """One question's shares over the codes of a grammar."""

    cumulative: NDArray[np.float64]
    """[C + 1] the share of all codes of lower ranks"""
    weight: float

    @classmethod
    def of(cls, probabilities: NDArray[np.float64], grammar: AnswerGrammar, weight: float) -> "CodeShares":
        """`probabilities` [C] are in the vocabulary's order."""
        by_rank = probabilities[np.array(grammar.code_of_rank, dtype=np.int64)]
        return cls(np.concatenate([[0.0], np.cumsum(by_rank)]), weight)

    def joined(
        self, log_p: Sequence[float], lows: "Sequence[int] | NDArray[np.int32]", highs: "Sequence[int] | NDArray[np.int32]"
    ) -> NDArray[np.float64]:
        """Returns the joined log-probabilities of edges that lead to the codes of ranks `lows` to `highs`; -inf stays so."""
        said = np.asarray(log_p, dtype=np.float64)
        shares = self.cumulative[np.asarray(highs)] - self.cumulative[np.asarray(lows)]
        both = said + self.weight * np.log(np.maximum(shares, _LEAST_SHARE))
        most = both.max()
        return np.asarray(both - most - np.log(np.exp(both - most).sum()), dtype=np.float64)


def shares_of(
    classifier: CodeClassifier | None, card: AdapterCard, grammar: AnswerGrammar, questions: Sequence[str], *, factor: float = 1.0
) -> list[CodeShares] | None:
    """Returns what an adapter's classifier says of questions, with `factor` times the weight that the adapter's spec gives it.

    None for an adapter without one.
    """
    if classifier is None:
        return None
    weight = factor * card.spec.classifier_weight
    return [CodeShares.of(classifier.probabilities(card.wrapper.strip(question)), grammar, weight) for question in questions]
