"""The other ranks of a job on several GPUs: processes that the training process starts, watches and outlives."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from app.ml.engine.ranks import RENDEZVOUS
from app.parent_death import die_with_parent

_PARENT = "DIANDA_RANK_PARENT"


def is_follower() -> bool:
    """Says whether this process is a rank that another started."""
    return _PARENT in os.environ


def follow() -> None:
    """Dies with the rank that started this one."""
    die_with_parent(int(os.environ[_PARENT]), signal.SIGTERM)
    # A pause or a shutdown is rank 0's to hear; its decision reaches this rank over the wire.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def start_followers(folder: Path, fence: str, count: int) -> None:
    """Makes this process rank 0 of `count` and starts the others; if one fails, this process ends too.

    A rank that is gone would leave the others waiting for its gradients.
    """
    meeting = folder / "ranks"
    meeting.unlink(missing_ok=True)
    shared = {"WORLD_SIZE": str(count), RENDEZVOUS: str(meeting)}
    os.environ.update(shared, RANK="0", LOCAL_RANK="0")
    for rank in range(1, count):
        environment = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), _PARENT: str(os.getpid())}
        follower = subprocess.Popen(
            [sys.executable, "-m", "worker.child", str(folder), fence], env=environment, stdin=subprocess.DEVNULL
        )
        threading.Thread(target=_watch, args=(follower, rank), daemon=True).start()


def _watch(follower: "subprocess.Popen[bytes]", rank: int) -> None:
    if (code := follower.wait()) != 0:
        print(f"Rank {rank} ended with exit code {code}.", file=sys.stderr, flush=True)  # noqa: T201  # the child's log
        os._exit(1)
