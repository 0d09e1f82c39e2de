import socket
import time

import pytest

from app.cli.stack import free_port
from app.jobs.queue import CeleryDoorbell, make_celery


@pytest.fixture
def lonely() -> CeleryDoorbell:
    """A doorbell whose broker is away."""
    return CeleryDoorbell(make_celery(f"redis://127.0.0.1:{free_port()}/0"))


def test_a_broker_that_is_away_is_told_before_a_health_check_gives_up(lonely: CeleryDoorbell) -> None:
    started = time.monotonic()

    assert lonely.waiting() is None
    assert time.monotonic() - started < 2


def test_a_broker_that_is_away_on_a_port_with_404_in_it_is_not_an_empty_queue() -> None:
    for port in (40404, 14041, 4040, 34404):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                continue  # somebody listens there
        assert CeleryDoorbell(make_celery(f"redis://127.0.0.1:{port}/0")).waiting() is None
        return
    pytest.fail("somebody listens on every port that was tried")


def test_ringing_a_broker_that_is_away_neither_raises_nor_hangs(lonely: CeleryDoorbell) -> None:
    started = time.monotonic()

    lonely.ring("ftjob-1")

    assert time.monotonic() - started < 2


def test_a_bell_waits_in_the_queue_until_it_is_heard() -> None:
    bell = CeleryDoorbell(make_celery("memory://"))
    assert bell.waiting() == 0

    bell.ring("ftjob-1")

    assert bell.waiting() == 1
