"""Trains, and dies in every moment of a save: `python -m tests.app.ml.engine.dying_saves BASE CASES kill|power_cut fresh|again`.

Leaves one folder a moment: what the disk held then. Prints how many. The checkpoint of step 2 is whole in each; the save
is that of step 4, over an earlier one of the same step for `again`.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from app.ml.engine import training
from app.ml.engine.checkpointing import save_checkpoint
from app.ml.model_store import BaseModelFolder
from app.ml.spec import FinetuneSpec
from tests.app.ml.engine.training_help import EXAMPLES, RecordingHooks, run
from tests.fixtures.dying import die_everywhere

OLDER, NEWER = 2, 4
# 3 steps an epoch, 9 in all; everything that keeps a state between steps is on, the best epoch's adapter too.
SPEC = FinetuneSpec(
    lora_rank=4,
    lora_alpha=8,
    lora_dropout=0.1,
    lora_target=("q_proj", "v_proj", "down_proj"),
    use_dora=True,
    learning_rate=5e-3,
    num_train_epochs=3.0,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=1,
    save_steps=2,
    metric_for_best_model="eval_loss",
    load_best_model_at_end=True,
)
HELD_OUT = EXAMPLES[:2]


def main(base: Path, cases: Path, *, is_power_cut: bool, is_again: bool) -> int:
    """Returns the number of moments."""
    torch.set_num_threads(1)
    deaths: list[Path] = []

    def save_and_die(folder: Path, network: Any, optimiser: Any, state: Any, **more: Any) -> str:
        if state.step == NEWER and not deaths:

            def prepare(number: int) -> Path:
                case = cases / f"{number:03}"
                shutil.copytree(folder.with_name(f"checkpoint-{OLDER}"), case / f"checkpoint-{OLDER}")
                if is_again:
                    earlier = replace(state, seconds=state.seconds + 1)
                    save_checkpoint(case / folder.name, network, optimiser, earlier, **more)
                return case

            def act(case: Path) -> None:
                save_checkpoint(case / folder.name, network, optimiser, state, **more)

            deaths.extend(die_everywhere(prepare, act, is_power_cut=is_power_cut))
        return save_checkpoint(folder, network, optimiser, state, **more)

    training.save_checkpoint = save_and_die  # type: ignore[attr-defined]
    base_model = BaseModelFolder(base.name, base, "0" * 64)
    run(base_model, SPEC, cases.with_name(f"{cases.name}-undisturbed"), hooks=RecordingHooks(), held_out=HELD_OUT)
    return len(deaths)


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2]), is_power_cut=sys.argv[3] == "power_cut", is_again=sys.argv[4] == "again"))
