import subprocess
import sys
from pathlib import Path

import pytest

from app.db.unit_of_work import read_only
from app.durable import verify_folder
from app.jobs import repository
from tests.worker.dying_keeps import JOB_ID, LEASE, context_in
from worker.finetune import _newest_whole_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("fate", ["kill", "power_cut"])
def test_a_worker_that_dies_while_it_takes_a_checkpoint_over_tells_only_of_whole_ones(tmp_path: Path, fate: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.worker.dying_keeps", str(tmp_path / "cases"), fate],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    moments = int(done.stdout.split()[-1])
    assert moments > 10, "the worker was not watched"
    resumed_from = []
    for number in range(1, moments + 1):
        context = context_in(tmp_path / "cases" / f"{number:03}")
        with read_only(context.engine) as session:
            kept = repository.checkpoints_newest_first(session, JOB_ID)
        assert [checkpoint.step for checkpoint in kept] in ([4, 3, 1], [5, 4, 1])
        for checkpoint in kept:
            assert verify_folder(context.blobs.fetch(checkpoint.blob_key, tmp_path)) == checkpoint.checksum
        place = _newest_whole_checkpoint(context, LEASE, tmp_path)
        assert place is not None
        resumed_from.append(Path(place).name)
        context.engine.dispose()
    assert resumed_from == sorted(resumed_from)
    assert {resumed_from[0], resumed_from[-1]} == {"4-1", "5-1"}
