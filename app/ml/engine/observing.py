"""What a model was seen to do with a question: the raw material of calibration."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Observation:
    """The greedy answer to one question and how it came about, at temperature 1."""

    codes: tuple[str, ...]
    steps: tuple[tuple[float, ...], ...]
    """Log-probabilities of the allowed tokens at each step that had more than one."""
    chosen: tuple[int, ...]
    """Which of a step's tokens was taken."""
    hidden: torch.Tensor
    """[D] fp32 on the CPU: the state of the prompt's last token after the final norm"""
