import os
import signal
import threading

import pytest

from worker.slot_stop import SlotStop


def tell_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_working_slot_that_is_told_alone_ends_behind_its_job() -> None:
    slot = SlotStop(threading.Event())
    seen = []
    with pytest.raises(SystemExit), slot.working():
        assert not slot.is_set()
        tell_this_process()
        seen.append(slot.is_set())
    assert seen == [True]


def test_a_slot_whose_worker_shuts_down_leaves_the_end_to_it() -> None:
    stopping = threading.Event()
    slot = SlotStop(stopping)
    with slot.working():
        tell_this_process()
        stopping.set()
    assert slot.is_set()


def test_an_idle_slot_keeps_the_pool_s_own_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with SlotStop(threading.Event()).working():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
