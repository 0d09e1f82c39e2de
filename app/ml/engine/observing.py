"""What calibration and novelty need of an answer, beside the answer itself."""

from dataclasses import dataclass

import torch

from app.ml.calibration import CalibrationRow
from app.ml.metrics import Codes


@dataclass(frozen=True, eq=False)
class Observation:
    """A greedy answer within the grammar, and what the model weighed on its way."""

    codes: Codes
    steps: tuple[tuple[float, ...], ...]
    """Log-probabilities among the allowed tokens, for each step with more than one allowed."""
    chosen: tuple[int, ...]
    """Place of the taken token in each of these steps."""
    hidden: torch.Tensor
    """[D] fp32 on the CPU: the last prompt token after the final norm, what the head sees."""

    def scored(self, true: Codes) -> CalibrationRow:
        """Returns the row that calibration wants, given the true codes."""
        return CalibrationRow(self.steps, self.chosen, set(self.codes) == set(true))
