"""A job whose training process starts a second rank: two processes over gloo, one adapter."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.worker.test_validated_run import assignment_in, losses
from worker.messages import Advanced, Finished, Message, Note
from worker.supervision import Ending, Want, run_child

pytestmark = pytest.mark.timeout(180)


def run(folder: Path, devices: int, on_message: Callable[[Message], None] = lambda _: None) -> Ending:
    assignment = replace(assignment_in(folder), devices=devices)
    return run_child(folder, assignment, fence=1, on_message=on_message, want=lambda: Want.GO_ON, stop_grace_s=20)


def column(folder: Path, name: str) -> list[float]:
    header, *lines = losses(folder).splitlines()
    place = header.split(",").index(name)
    return [float(line.split(",")[place]) for line in lines]


def test_two_ranks_publish_the_adapter_of_one(tmp_path: Path) -> None:
    said: list[Message] = []
    alone, together = run(tmp_path / "one", 1), run(tmp_path / "two", 2, said.append)
    assert isinstance(alone.last, Finished)
    assert isinstance(together.last, Finished), (tmp_path / "two" / "child.log").read_text()[-3000:]
    assert Note("Training on 2 devices.") in said
    assert column(tmp_path / "two", "loss") == pytest.approx(column(tmp_path / "one", "loss"), rel=1e-4)


def test_a_rank_that_dies_ends_the_whole_attempt(tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_the_follower(message: Message) -> None:
        if isinstance(message, Advanced) and not killed:
            me = psutil.Process(os.getpid())
            for child in me.children(recursive=True):
                # Rank 0 is this process's child; the follower is rank 0's.
                if child.ppid() != me.pid and "worker.child" in child.cmdline():
                    killed.append(child.pid)
                    os.kill(child.pid, signal.SIGKILL)

    ending = run(tmp_path / "two", 2, kill_the_follower)
    assert killed
    assert ending.last is None
    assert ending.exit_code != 0
    assert not any(psutil.pid_exists(pid) for pid in killed)
