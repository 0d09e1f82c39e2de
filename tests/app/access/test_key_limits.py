import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.errors import KeyRateExceeded, KeyTooBusy
from app.access.key_limits import KeyLimits
from app.access.scopes import Scope
from tests.app.access.keyed import bearer, error_of, make_key
from tests.fixtures.api import Api


@given(rate=st.integers(1, 600), pauses=st.lists(st.floats(0, 20), max_size=300))
def test_no_minute_has_more_than_the_rate_and_ten_seconds_worth(rate: int, pauses: list[float]) -> None:
    limits = KeyLimits(requests_per_minute=rate, max_concurrent=None)
    now, let_in = 1000.0, []
    for pause in pauses:
        now += pause
        try:
            limits.enter(now)
        except KeyRateExceeded:
            continue
        limits.leave()
        let_in.append(now)

    most = rate + max(rate // 6, 1) + 1
    assert all(sum(start <= moment < start + 60 for moment in let_in) <= most for start in let_in)


@given(rate=st.integers(1, 600), burst=st.integers(1, 200))
def test_who_waits_as_long_as_told_is_let_in(rate: int, burst: int) -> None:
    limits = KeyLimits(requests_per_minute=rate, max_concurrent=None)
    refusal = None
    for _ in range(burst):
        try:
            limits.enter(50.0)
        except KeyRateExceeded as error:
            refusal = error
    if refusal is not None:
        limits.enter(50.0 + refusal.retry_after_s + 1e-6)


def test_a_request_that_is_refused_takes_no_place() -> None:
    limits = KeyLimits(requests_per_minute=None, max_concurrent=1)
    limits.enter(0.0)
    with pytest.raises(KeyTooBusy):
        limits.enter(0.0)

    limits.leave()
    limits.enter(0.0)


def test_a_key_that_asks_too_fast_is_told_when_to_come_back(keyed_api: Api) -> None:
    secret = make_key(keyed_api, Scope.ANSWER, name="slow", requests_per_minute=6).secret
    first, second = (keyed_api.client.get("/v1/models", headers=bearer(secret)) for _ in range(2))

    assert (first.status_code, second.status_code) == (200, 429)
    assert error_of(second)["code"] == "key_rate_exceeded"
    assert 1 <= int(second.headers["retry-after"]) <= 10


def test_one_keys_pace_is_no_others(keyed_api: Api) -> None:
    slow = make_key(keyed_api, Scope.ANSWER, name="slow-2", requests_per_minute=1).secret
    other = make_key(keyed_api, Scope.ANSWER, name="other").secret
    for _ in range(2):
        keyed_api.client.get("/v1/models", headers=bearer(slow))

    assert keyed_api.client.get("/v1/models", headers=bearer(other)).status_code == 200
