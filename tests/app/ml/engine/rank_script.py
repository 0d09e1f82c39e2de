"""One rank of a run over the tiny Gemma, as torchrun starts it: `python -m tests.app.ml.engine.rank_script FOLDER STOP_AT`."""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from app.ml.engine.device import pick_device
from app.ml.engine.ranks import join_ranks
from app.ml.engine.training import TrainPlan, Wish, train
from tests.app.ml.engine.training_help import FAST, RecordingHooks, load, token_rows
from tests.fixtures.tiny import write_tiny_model

SPEC = replace(FAST, num_train_epochs=8, use_dora=True, per_device_train_batch_size=4, max_grad_norm=0.5)


def main(folder: Path, stop_at: int) -> None:
    """Trains to the end, or pauses after step `stop_at`; resumes where a checkpoint lies. Rank 0 writes its losses."""
    torch.set_num_threads(1)
    base = load(write_tiny_model(Path(tempfile.mkdtemp(dir=folder)) / "tiny"))
    # After the weights: transformers takes over the loading where it finds a process group.
    ranks = join_ranks(pick_device())
    # Only rank 0 hears a wish; the others must follow it.
    wish_at = (stop_at, Wish.SAVE_AND_STOP) if stop_at and ranks.is_first else None
    hooks = RecordingHooks(wish_at=wish_at)
    found = sorted((folder / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    plan = TrainPlan(SPEC, token_rows(base), 3, folder / "checkpoints", resume_from=found[-1] if found else None)
    result = train(base, plan, hooks, ranks)
    if ranks.is_first:
        (folder / "losses.json").write_text(json.dumps(result.state.losses))
    ranks.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
