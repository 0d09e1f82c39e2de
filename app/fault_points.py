"""Named places in which a process can be made to die, freeze or find its disk full: for tests of what then becomes of the work.

Off unless `DIANDA_FAULT_POINT` names one, as `after_claim:kill`. Not one of the settings: no deployment has it.
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

VARIABLE = "DIANDA_FAULT_POINT"
FAULT_POINTS: Mapping[str, str] = {
    "before_bell": "the api: a job is committed, nobody is told",
    "after_claim": "the worker: a job is its own, nothing has been done",
    "before_renewal": "the worker's heartbeat: a lease is about to be renewed",
    "before_rename": "a finished folder or file has not got its name yet",
    "after_rename": "it has its name, and no row names it",
    "before_commit_of_checkpoint": "the worker: the row of a checkpoint is written",
    "before_commit_of_end": "the worker: the job's end and its adapter are written",
    "after_commit_of_end": "the worker: they are there for all to see",
    "before_adapter_loaded": "the answerer: an adapter is found and not read yet",
}
"""Name -> which process reaches it, and where it stands then."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stall() -> None:
    # The whole process, its heartbeat too, until someone sends SIGCONT. Sent to this very thread: it goes no step further.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FAULTS: Mapping[str, Callable[[], None]] = {"kill": _kill, "stall": _stall, "enospc": _no_space}


@dataclass(frozen=True)
class ArmedFault:
    """A fault and the point at which it happens, every time."""

    point: str
    fault: str


def read_fault(text: str) -> ArmedFault | None:
    """Reads `point:fault`; None where the text is empty.

    Raises:
        ValueError: there is no such point or fault; a misspelt one would prove nothing.
    """
    if not text:
        return None
    point, _, fault = text.partition(":")
    if point not in FAULT_POINTS or fault not in FAULTS:
        raise ValueError(
            f"{VARIABLE}={text} is none. Give one of {', '.join(FAULT_POINTS)}, a colon, and one of {', '.join(FAULTS)}."
        )
    return ArmedFault(point, fault)


armed = read_fault(os.environ.get(VARIABLE, ""))
"""What happens in this process; None in every deployment."""


def reach(point: str) -> None:
    """Says that a process stands at a point; does nothing unless a fault is armed there."""
    if armed is None or armed.point != point:
        return
    print(f"{VARIABLE}={point}:{armed.fault} happens in process {os.getpid()}.", file=sys.stderr, flush=True)  # noqa: T201
    FAULTS[armed.fault]()
