"""Keeps the answerers off the card while jobs run here: policy `pause_serving`."""

import threading
import time
from collections.abc import Sequence
from types import TracebackType

import httpx2
import structlog

_log = structlog.get_logger()
_TIMEOUT_S = 5.0
_TRIED_EVERY_S = 0.2


class ServingPause:
    """A context manager around work on the card; the answerers end the pause by themselves if this process dies.

    An answerer that does not answer stops no job: it is not on the card then, and hears of the pause once it is back.
    """

    def __init__(self, urls: Sequence[str], *, holder: str, lease_s: float) -> None:
        """`urls`: the answerers'. `lease_s`: after so long without a renewal they take the card back."""
        self._urls = urls
        self._holder, self._lease_s = holder, lease_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="serving-pause", daemon=True)

    def __enter__(self) -> "ServingPause":
        """Waits until the card is free, for half a lease at most."""
        deadline = time.monotonic() + self._lease_s / 2
        while not (is_free := self._suspend()) and time.monotonic() < deadline:
            time.sleep(_TRIED_EVERY_S)
        if not is_free:
            _log.warning("card_not_free", remedy="The answerer still holds memory of the card; the job takes what is left.")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Gives the card back to the answerer."""
        self._ended.set()
        self._thread.join()
        for url in self._urls:
            self._tell(url, "resume", {"holder": self._holder})

    def _renew(self) -> None:
        while not self._ended.wait(self._lease_s / 4):
            self._suspend()

    def _suspend(self) -> bool:
        """Returns whether no answerer that answers holds anything of the card."""
        order = {"holder": self._holder, "lease_s": self._lease_s}
        replies = [self._tell(url, "suspend", order) for url in self._urls]
        return all(reply is None or bool(reply.get("is_card_free")) for reply in replies)

    def _tell(self, url: str, verb: str, body: dict[str, object]) -> dict[str, object] | None:
        try:
            # No proxy of the environment stands between two processes of one host.
            with httpx2.Client(trust_env=False, timeout=_TIMEOUT_S) as client:
                reply = client.post(f"{url}/{verb}", json=body)
                reply.raise_for_status()
                content = reply.json()
                return content if isinstance(content, dict) else None
        except (httpx2.HTTPError, ValueError) as error:
            _log.warning("answerer_not_told", answerer=url, verb=verb, error=type(error).__name__)
            return None
