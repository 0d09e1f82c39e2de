"""Starts a training process and watches it until it has ended and its memory is back."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from app.allocator_environment import ALLOCATOR_ENVIRONMENT
from worker.assignment import Assignment, write_assignment
from worker.messages import DISK_FULL, DISK_FULL_EXIT, MESSAGE_FD_VARIABLE, ChildWish, Finished, Message, Refused, Stopped, decode

CHILD = "worker.child"
"""The module that a training process runs; a benchmark of what stands around the training names its own."""
_TICK_S = 0.25
_CANCEL_GRACE_S = 5.0


class Want(Enum):
    """What shall become of the child; asked four times a second."""

    GO_ON = auto()
    SAVE_AND_STOP = auto()
    STOP = auto()
    KILL = auto()
    """The lease is lost: nothing that it writes counts any more."""


@dataclass(frozen=True)
class Ending:
    """How a child ended: its last word, or only an exit code (negative: a signal)."""

    last: Finished | Stopped | Refused | None
    exit_code: int

    @property
    def reason(self) -> str:
        """Says how a child died that had no last word."""
        if self.exit_code < 0:
            return f"the training process was ended by signal {signal.Signals(-self.exit_code).name}."
        if self.exit_code == DISK_FULL_EXIT:
            return DISK_FULL
        return f"the training process ended with exit code {self.exit_code}; the worker's log says why."


def run_child(
    folder: Path,
    assignment: Assignment,
    *,
    fence: int,
    on_message: Callable[[Message], None],
    want: Callable[[], Want],
    stop_grace_s: float,
) -> Ending:
    """Runs one assignment in a fresh interpreter and returns once that process is gone.

    Must be called from the main thread: the child dies with the thread that forked it. A wish is sent once; a child that
    does not obey within its grace (5 s for a cancel) is killed.
    """
    write_assignment(folder, assignment)
    receive_fd, send_fd = os.pipe()
    environment = os.environ | ALLOCATOR_ENVIRONMENT | {MESSAGE_FD_VARIABLE: str(send_fd), "HF_HUB_OFFLINE": "1"}
    with (folder / "child.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", CHILD, str(folder), str(fence)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[send_fd],
            env=environment,
        )
    os.close(send_fd)
    try:
        last = _watch(process, receive_fd, on_message, want, stop_grace_s)
    finally:
        if process.poll() is None:
            process.kill()
        exit_code = process.wait()
        os.close(receive_fd)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
    return Ending(last, exit_code)


def _watch(
    process: "subprocess.Popen[bytes]",
    receive_fd: int,
    on_message: Callable[[Message], None],
    want: Callable[[], Want],
    stop_grace_s: float,
) -> Finished | Stopped | Refused | None:
    last: Finished | Stopped | Refused | None = None
    buffer = b""
    told, deadline = Want.GO_ON, float("inf")
    selector = selectors.DefaultSelector()
    selector.register(receive_fd, selectors.EVENT_READ)
    with selector:
        while True:
            if selector.select(_TICK_S):
                data = os.read(receive_fd, 1 << 16)
                if not data:
                    break
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    message = decode(line)
                    if isinstance(message, Finished | Stopped | Refused):
                        last = message
                    else:
                        on_message(message)
            wanted = want()
            if wanted is Want.KILL or time.monotonic() > deadline:
                process.kill()
                break
            if wanted is not Want.GO_ON and wanted is not told:
                told = wanted
                deadline = time.monotonic() + (_CANCEL_GRACE_S if wanted is Want.STOP else stop_grace_s)
                _tell(process, ChildWish.STOP if wanted is Want.STOP else ChildWish.SAVE_AND_STOP)
    # The pipe is closed: the child ends now, or hangs in its exit.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=stop_grace_s)
    return last


def _tell(process: "subprocess.Popen[bytes]", wish: ChildWish) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(wish.value.encode() + b"\n")
        process.stdin.flush()
