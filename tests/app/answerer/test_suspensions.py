"""Leases on the card: they end when their holder says so, or says nothing any more."""

from app.answerer.suspensions import Suspensions


class Clock:
    """A clock that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_suspended_at_first() -> None:
    assert not Suspensions().in_force


def test_a_lease_is_in_force_until_it_runs_out() -> None:
    clock = Clock()
    suspensions = Suspensions(clock)
    suspensions.hold("worker-1", lease_s=30)

    clock.now = 29.9
    assert suspensions.in_force
    clock.now = 30.0
    assert not suspensions.in_force


def test_a_renewal_counts_from_its_own_time() -> None:
    clock = Clock()
    suspensions = Suspensions(clock)
    suspensions.hold("worker-1", lease_s=30)
    clock.now = 20.0
    suspensions.hold("worker-1", lease_s=30)

    clock.now = 49.9
    assert suspensions.in_force


def test_a_release_leaves_another_holders_lease() -> None:
    suspensions = Suspensions(Clock())
    suspensions.hold("worker-1", lease_s=30)
    suspensions.hold("worker-2", lease_s=30)

    suspensions.release("worker-1")
    assert suspensions.in_force
    suspensions.release("worker-2")
    assert not suspensions.in_force


def test_who_holds_nothing_may_release_it() -> None:
    suspensions = Suspensions(Clock())
    suspensions.release("worker-1")

    assert not suspensions.in_force
