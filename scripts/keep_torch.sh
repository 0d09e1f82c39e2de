#!/bin/sh
# Makes pip keep the torch that this Python has: its version replaces the pinned one in constraints.txt. Run in the source folder.
# TORCH_FLOOR (default 2.11): the oldest torch that will do; a lower one is written into pyproject.toml, too.
set -eu
PYTHON="${PYTHON:-python3}"
export TORCH_FLOOR="${TORCH_FLOOR:-2.11}"
"$PYTHON" - <<'PY'
import os
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

floor = os.environ["TORCH_FLOOR"]
if not re.fullmatch(r"\d+\.\d+", floor):
    sys.exit(f"TORCH_FLOOR is {floor!r}. Give it as 2.11.")
try:
    found = version("torch")
except PackageNotFoundError:
    sys.exit("This Python has no torch. Set ROCM_IMAGE to an image that has a ROCm torch: docs/rocm.md.")


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


if numbers(found) < numbers(floor):
    sys.exit(
        f"This base has torch {found}; Dianda needs {floor} or newer. Set ROCM_IMAGE to an image that has it, or, for cards "
        "that no newer torch knows, lower TORCH_FLOOR and set DIANDA_LEGACY_TORCH=1: docs/rocm.md."
    )
constraints = Path("constraints.txt")
pinned = [line for line in constraints.read_text().splitlines() if not line.startswith("torch==")]
constraints.write_text("\n".join([*pinned, f"torch=={found}"]) + "\n")
if numbers(floor) < (2, 11):
    project = Path("pyproject.toml")
    project.write_text(project.read_text().replace('"torch>=2.11"', f'"torch>={floor}"'))
print(f"Keeping torch {found}.")
PY
