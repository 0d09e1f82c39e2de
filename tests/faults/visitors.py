"""Who asks the promoted alias all the while, and who posts jobs until they are accepted."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

ALIAS = "faults@production"
_PAUSE_S, _PATIENCE_S = 0.25, 15.0


@dataclass(frozen=True)
class Probe:
    """One question: when, and the adapter and answer, or why there is none."""

    began: float
    ended: float
    question: str
    adapter: str | None = None
    answer: str | None = None
    error: str | None = None


@dataclass
class Asker:
    """A thread that asks one question after the other."""

    url: str
    questions: list[str]
    probes: list[Probe] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begins to ask."""
        threading.Thread(target=self._ask_on, name="asker", daemon=True).start()

    def stop(self) -> None:
        """Asks no more."""
        self._ended.set()

    def _ask_on(self) -> None:
        with httpx2.Client(base_url=self.url, timeout=_PATIENCE_S) as client:
            while not self._ended.wait(_PAUSE_S):
                self.probes.append(ask(client, self.questions[len(self.probes) % len(self.questions)], ALIAS))


def ask(client: httpx2.Client, question: str, model: str) -> Probe:
    """Asks one question and notes what came."""
    began = time.monotonic()
    try:
        response = client.post("/answer", json={"question": question, "model": model})
        if response.status_code == 200:
            body = response.json()
            return Probe(began, time.monotonic(), question, body["adapter"], body["answer"])
        error = f"{response.status_code} {response.text[:200]}"
    except httpx2.HTTPError as failure:
        error = type(failure).__name__
    return Probe(began, time.monotonic(), question, error=error)


def insist(
    url: str, method: str, path: str, *, body: dict[str, Any] | None, key: str | None, rest: Callable[[float], None]
) -> dict[str, Any]:
    """Sends a request until it is answered with success; with a key, what was done and not heard of is not done again.

    Raises:
        AssertionError: it was refused, or not accepted within two minutes.
    """
    deadline, last = time.monotonic() + 120, ""
    headers = {} if key is None else {"idempotency-key": key}
    while time.monotonic() < deadline:
        try:
            response = httpx2.request(method, f"{url}{path}", json=body, headers=headers, timeout=20)
            if response.is_success:
                done: dict[str, Any] = response.json()
                return done
            last = f"{response.status_code} {response.text[:300]}"
            if response.status_code < 500 and response.status_code != 429:
                break
        except httpx2.HTTPError as error:
            last = type(error).__name__
        rest(0.5)
    raise AssertionError(f"{method} {path} was not accepted: {last}")
