"""Live events over a plain HTTP client, across a restart of the api."""

import json
from typing import Any

import httpx2
import pytest

from tests.integration.conftest import Product

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def _read(product: Product, job_id: str, *, last_event_id: str | None, until: int | None) -> tuple[list[dict[str, Any]], bool]:
    """Returns the events that a stream sends (up to number `until`), and whether it ended with [DONE]."""
    headers = {} if last_event_id is None else {"last-event-id": last_event_id}
    events: list[dict[str, Any]] = []
    url = f"{product.client.url}/v1/fine_tuning/jobs/{job_id}/events?stream=true"
    with httpx2.stream("GET", url, headers=headers, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line == "data: [DONE]":
                return events, True
            if line.startswith("data: "):
                events.append(json.loads(line.removeprefix("data: ")))
                if until is not None and events[-1]["number"] >= until:
                    return events, False
    return events, False


def test_a_stream_goes_on_without_gaps_after_the_api_was_restarted(product: Product) -> None:
    job_id = product.start_job(product.upload(), "streamed", n_epochs=800, save_steps=100)
    first, done = _read(product, job_id, last_event_id=None, until=3)
    assert not done
    api = product.stack.processes["api"]
    api.stop(timeout_s=20)
    api.start()
    product.client.wait_until_ready(timeout_s=60, on_waiting=lambda parts: None)
    rest, done = _read(product, job_id, last_event_id=str(first[-1]["number"]), until=None)
    assert done
    numbers = [event["number"] for event in first + rest]
    assert numbers == list(range(1, len(numbers) + 1))
    assert rest[-1]["message"] == "New adapter: streamed:1."


def test_a_stream_of_a_finished_job_replays_and_ends(product: Product) -> None:
    job_id = product.start_job(product.upload(), "replayed", n_epochs=1)
    product.wait_status(job_id, "succeeded")
    events, done = _read(product, job_id, last_event_id=None, until=None)
    assert done
    assert events[0]["message"] == "Created and queued."
    again, done = _read(product, job_id, last_event_id="2", until=None)
    assert done
    assert again == events[2:]
