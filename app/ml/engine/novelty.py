"""How unlike its training questions a question is: one less the cosine to the nearest of them, as the model sees both.

A question is its last prompt token after the final norm; nearest neighbours assume no distribution: Sun et al.,
"Out-of-Distribution Detection with Deep Nearest Neighbors", arXiv 2204.06507. Measured on CLINC150 with Gemma 3 270M (1,200
training rows, 600 in-scope and 400 out-of-scope test rows, one seed): AUROC 0.96 for 1 to 10 neighbours, for class means, for
centred vectors and for Mahalanobis distance alike. Few neighbours, because an answer often has but a few training rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

REFERENCES = "references.safetensors"
MAX_REFERENCES = 2048
_VERSION = "1"
_NEIGHBOURS = 3


@dataclass(frozen=True, eq=False)
class References:
    """Training questions as unit vectors."""

    vectors: torch.Tensor
    """[M, D] fp16, each of length 1."""

    @classmethod
    def of(cls, hidden: Sequence[torch.Tensor]) -> "References":
        """Keeps the directions of `[D]` hidden states.

        Raises:
            ValueError: none, or more than 2048.
        """
        if not 0 < len(hidden) <= MAX_REFERENCES:
            raise ValueError(f"references need 1 to {MAX_REFERENCES} hidden states, not {len(hidden)}")
        return cls(_directions(torch.stack(list(hidden))).to(torch.float16))

    def novelty(self, hidden: torch.Tensor) -> torch.Tensor:
        """Returns for `[B, D]` hidden states one less the mean cosine to the 3 nearest references: [B] fp32, 0..2.

        Works on the device and in the arithmetic of `vectors`; a caller may keep these in fp32 or bf16 on a GPU.
        """
        cosines = _directions(hidden).to(self.vectors) @ self.vectors.T
        return 1 - cosines.float().topk(min(_NEIGHBOURS, len(self.vectors)), dim=-1).values.mean(dim=-1)

    def novelties(self, hidden: Sequence[torch.Tensor]) -> list[float]:
        """Returns the novelty of each `[D]` hidden state."""
        return [float(value) for value in self.novelty(torch.stack(list(hidden)))] if hidden else []

    def to(self, device: torch.device, dtype: torch.dtype) -> "References":
        """Returns the same on a device and in an arithmetic."""
        return References(self.vectors.to(device=device, dtype=dtype))

    def save(self, folder: Path) -> None:
        """Writes `references.safetensors` into an adapter's folder."""
        save_file({"vectors": self.vectors}, folder / REFERENCES, metadata={"version": _VERSION})


def find_references(folder: Path) -> References | None:
    """Reads the references of a verified adapter's folder; None where it has none, or ones of another version."""
    path = folder / REFERENCES
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("version") != _VERSION:
            return None
        return References(file.get_tensor("vectors"))


def _directions(hidden: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(hidden.float(), dim=-1)
