"""Whatever moment of a save a process dies in, the run goes on from a whole checkpoint as if nothing had happened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.durable import BrokenFolder, verify_folder
from app.ml.engine.training import TrainResult
from app.ml.model_store import BaseModelFolder
from tests.app.ml.engine.dying_saves import HELD_OUT, NEWER, OLDER, SPEC
from tests.app.ml.engine.test_training import assert_same_run
from tests.app.ml.engine.training_help import RecordingHooks, run

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def uninterrupted(sharp_folder: BaseModelFolder, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(sharp_folder, SPEC, tmp_path_factory.mktemp("uninterrupted"), held_out=HELD_OUT)


def newest_whole(case: Path) -> tuple[Path, str]:
    """Chooses as the worker does: by the manifest, the newest first."""
    for folder in sorted(case.glob("checkpoint-*"), key=lambda folder: -int(folder.name.partition("-")[2])):
        try:
            return folder, verify_folder(folder)
        except BrokenFolder:
            continue
    raise AssertionError(f"no whole checkpoint in {case}")


@pytest.mark.parametrize("fate", ["kill", "power_cut"])
@pytest.mark.parametrize("target", ["fresh", "again"])
def test_a_save_that_dies_in_any_moment_leaves_a_whole_checkpoint_to_go_on_from(
    sharp_folder: BaseModelFolder, tmp_path: Path, uninterrupted: TrainResult, fate: str, target: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.app.ml.engine.dying_saves", str(sharp_folder.path), str(tmp_path / "cases"), fate, target],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    moments = int(done.stdout.split()[-1])
    assert moments > 40, "the save was not watched"
    picked: dict[str, Path] = {}
    steps = []
    for number in range(1, moments + 1):
        folder, checksum = newest_whole(tmp_path / "cases" / f"{number:03}")
        picked[checksum] = folder
        steps.append(int(folder.name.partition("-")[2]))
    assert set(steps) == {OLDER, NEWER}
    assert steps[-1] == NEWER, "what was told as saved is on the disk"
    if target == "fresh":
        assert steps == sorted(steps), "once the new one is whole it stays"
    # The older one, the new one, and the one that stood in its place.
    assert len(picked) == (2 if target == "fresh" else 3)
    for folder in picked.values():
        # In the very folder in which the process died, among what it left.
        hooks = RecordingHooks()
        resumed = run(sharp_folder, SPEC, folder.parent, hooks=hooks, resume_from=folder, held_out=HELD_OUT)
        assert_same_run(resumed, uninterrupted)
        assert resumed.state.evaluations == uninterrupted.state.evaluations
        assert all(verify_folder(written) == checksum for written, checksum, _ in hooks.checkpoints)


def test_the_leavings_of_a_save_that_died_do_not_disturb_the_next(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    aside = tmp_path / ".checkpoint-2.tmp"
    aside.mkdir()
    (aside / "adapter_model.safetensors").write_bytes(b"half")
    (aside / "stray").write_bytes(b"x")
    hooks = RecordingHooks()
    run(sharp_folder, SPEC, tmp_path, hooks=hooks)
    folder, checksum, _ = hooks.checkpoints[0]
    assert verify_folder(folder) == checksum
    assert not (folder / "stray").exists()


def test_a_step_that_is_saved_again_is_the_one_that_is_told(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    for _ in range(2):
        hooks = RecordingHooks()
        run(sharp_folder, SPEC, tmp_path, hooks=hooks)
        assert all(verify_folder(folder) == checksum for folder, checksum, _ in hooks.checkpoints)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{step}" for step in (2, 4, 6, 8)]
