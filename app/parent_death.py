"""Dying with one's parent (Linux): no training process outlives the worker that watches it."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int, death_signal: signal.Signals) -> None:
    """Asks the kernel for `death_signal` when the thread that forked this process ends.

    SIGTERM for a process on a ROCm device: SIGKILL within a HIP call leaves its memory held by nobody
    (github.com/ROCm/mori/pull/473).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The parent may have died before the call.
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), death_signal)
