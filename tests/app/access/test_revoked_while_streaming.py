"""A key that ends while its stream is open: the stream ends too, over a real connection."""

import json
import time
from collections.abc import Iterator

import httpx2
import pytest

from app.access import service
from app.access.scopes import Scope
from app.db.unit_of_work import unit_of_work
from app.main import create_app
from tests.app.access.keyed import OPERATOR, bearer, make_key
from tests.fixtures.api import Api, serving

_MOST_S = 15.0


@pytest.fixture
def job_id(keyed_api: Api) -> Iterator[str]:
    keyed_api.client.headers.update(bearer(make_key(keyed_api, Scope.TRAIN, name=f"owner-{time.monotonic_ns()}").secret))
    yield keyed_api.job_id()
    del keyed_api.client.headers["authorization"]


@pytest.mark.parametrize("how", ["revoked", "over"])
def test_a_stream_ends_within_seconds_of_its_key(keyed_api: Api, job_id: str, how: str) -> None:
    wishes = {"days": None} if how == "revoked" else {"days": 5 / 86_400}
    key = make_key(keyed_api, Scope.TRAIN, name=f"reader-{how}", **wishes)
    other = make_key(keyed_api, Scope.TRAIN, name=f"other-{how}")
    path = f"/v1/fine_tuning/jobs/{job_id}/events?stream=true"
    # A process of its own, which nobody tells.
    app = create_app(keyed_api.settings, answer_backend=keyed_api.backend, doorbell=keyed_api.bell)
    with (
        serving(app) as url,
        httpx2.stream("GET", url + path, headers=bearer(key.secret), timeout=_MOST_S) as response,
        httpx2.stream("GET", url + path, headers=bearer(other.secret), timeout=_MOST_S) as others,
    ):
        lines = response.iter_lines()
        assert json.loads(next(lines).removeprefix("data: "))["number"] == 1
        ended_at = time.monotonic()
        if how == "revoked":
            with unit_of_work(keyed_api.engine) as session:
                service.revoke(session, key.key.id, OPERATOR)
        rest = [line for line in lines if line]
        waited_s = time.monotonic() - ended_at
        error = json.loads(rest[rest.index("event: error") + 1].removeprefix("data: "))["error"]

        assert error["code"] == "invalid_api_key"
        assert waited_s < _MOST_S
        assert keyed_api.client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").status_code == 200
        # Another key's stream goes on to the end of the job.
        assert [line for line in others.iter_lines() if line][-1] == "data: [DONE]"
