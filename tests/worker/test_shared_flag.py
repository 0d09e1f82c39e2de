import os
import signal
import time
from collections.abc import Iterator

import pytest

from worker.shared_flag import SharedFlag

SIGNALS = 3_000


@pytest.fixture
def flag() -> SharedFlag:
    return SharedFlag()


@pytest.fixture
def child(flag: SharedFlag) -> Iterator[int]:
    """Yields a process that sets the flag at each SIGTERM, as the worker does, and ends well when it is told to by SIGUSR1."""
    ready, told_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, lambda *_: flag.set())
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
        os.write(told_ready, b"1")
        while True:
            time.sleep(0.01)
    os.read(ready, 1)
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_a_signal_in_the_midst_of_another_s_handler_waits_for_nothing(child: int, flag: SharedFlag) -> None:
    for _ in range(SIGNALS):
        os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + 30
    # Of signals that wait together, the lower number's handler is called first, and SIGUSR1's is lower.
    while not flag.is_set() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child, signal.SIGUSR1)

    ended, status = 0, 1
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)

    assert ended == child, "it hangs"
    assert os.waitstatus_to_exitcode(status) == 0
    assert flag.is_set()


def test_what_a_forked_process_sets_its_parent_sees() -> None:
    flag = SharedFlag()
    assert not flag.is_set()

    pid = os.fork()
    if pid == 0:
        flag.set()
        os._exit(0)
    os.waitpid(pid, 0)

    assert flag.is_set()
