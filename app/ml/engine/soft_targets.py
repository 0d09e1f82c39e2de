"""What teachers would choose at each choice of each training answer, instead of one right token."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from app.ml.engine.choices import ChoiceTable


@dataclass(frozen=True)
class SoftTargets:
    """Distributions over what was allowed, by the example that a row was made of."""

    choices: ChoiceTable
    known: Mapping[int, tuple[tuple[int, ...], torch.Tensor]]
    """Of an example its answer's tokens, and `[choices in it, C]` fp32"""

    def of(self, rows: Iterable[tuple[int, tuple[int, ...]]]) -> torch.Tensor:
        """Returns `[S, C]` fp32 for the choices of rows, each an example and an answer.

        Where the example is unknown, or the row has another answer (another order of its codes), the target is the token
        itself.
        """
        parts = [torch.zeros(0, len(self.choices.tokens))]
        for example, answer in rows:
            found = self.known.get(example)
            if found is not None and found[0] == answer:
                parts.append(found[1])
                continue
            labels = torch.tensor(self.choices.of(answer).labels, dtype=torch.int64)
            parts.append(torch.nn.functional.one_hot(labels, len(self.choices.tokens)).float())
        return torch.cat(parts)
