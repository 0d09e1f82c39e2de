"""Two ranks over gloo, started by torchrun, against one process alone: CPU, fp32."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from app.ml.engine.ranks import ALONE, Ranks
from tests.app.ml.engine.training_help import token_rows

pytestmark = pytest.mark.timeout(180)
ROOT = Path(__file__).parents[4]


def losses_of(folder: Path, *, ranks: int, stop_at: int = 0) -> list[dict[str, float]]:
    """Runs `rank_script` and returns what rank 0 wrote."""
    folder.mkdir(exist_ok=True)
    command = ["-m", "tests.app.ml.engine.rank_script", str(folder), str(stop_at)]
    if ranks > 1:
        command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses: list[dict[str, float]] = json.loads((folder / "losses.json").read_text())
    return losses


def values(losses: list[dict[str, float]], key: str) -> list[float]:
    return [entry[key] for entry in losses]


def test_two_ranks_take_the_steps_of_one(tmp_path: Path) -> None:
    alone = losses_of(tmp_path / "one", ranks=1)
    together = losses_of(tmp_path / "two", ranks=2)
    assert len(together) == len(alone) > 10
    assert values(together, "loss") == pytest.approx(values(alone, "loss"), rel=1e-4)
    assert values(together, "grad_norm") == pytest.approx(values(alone, "grad_norm"), rel=1e-3)


def test_a_paused_pair_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = losses_of(tmp_path / "whole", ranks=2)
    first = losses_of(tmp_path / "paused", ranks=2, stop_at=5)
    assert len(first) == 5
    assert losses_of(tmp_path / "paused", ranks=2) == whole


def test_rows_are_shared_without_loss(base: Any) -> None:
    rows = token_rows(base)
    shares = [list(Ranks(rank, 3, torch.device("cpu")).share(rows)) for rank in range(3)]
    assert sorted(map(str, (row for share in shares for row in share))) == sorted(map(str, rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_rank_alone_needs_nobody(base: Any) -> None:
    rows = token_rows(base)
    assert ALONE.share(rows) is rows
    assert ALONE.decide({"wish": "none"}) == {"wish": "none"}
    tensor = torch.ones(3)
    ALONE.sum([tensor])
    assert torch.equal(tensor, torch.ones(3))
