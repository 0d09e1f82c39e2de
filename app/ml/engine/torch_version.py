"""How old a torch may be: the floor that the product was measured on, and the switch that waives it for old cards."""

import os
import re

import torch

from app.ml.errors import TorchTooOld

_FLOOR = (2, 11)


def is_below_floor(version: str) -> bool:
    """Says whether a version of torch, such as `2.9.1+rocm6.4`, is older than the floor."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < _FLOOR


def runs_legacy_torch() -> bool:
    """Returns whether this process's torch is older than the floor; then all passes are eager."""
    return is_below_floor(torch.__version__)


def check_torch_version() -> None:
    """Refuses an old torch unless the operator waived the floor.

    Raises:
        TorchTooOld: it is older than the floor, and DIANDA_LEGACY_TORCH is not 1.
    """
    if runs_legacy_torch() and os.environ.get("DIANDA_LEGACY_TORCH", "") != "1":
        raise TorchTooOld(
            f"torch {torch.__version__} is older than {_FLOOR[0]}.{_FLOOR[1]}. Install a newer one; for a card that none knows "
            "(gfx906, DCU), set DIANDA_LEGACY_TORCH=1: then everything runs eagerly, and nothing of it was tested."
        )
