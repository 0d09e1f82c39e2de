"""Keeps the answerer off the card while jobs run here: policy `pause_serving`."""

import threading
import time
from types import TracebackType

import httpx2
import structlog

_log = structlog.get_logger()
_TIMEOUT_S = 5.0
_TRIED_EVERY_S = 0.2


class ServingPause:
    """A context manager around work on the card; the answerer ends the pause by itself if this process dies.

    An answerer that does not answer stops no job: it is not on the card then, and hears of the pause once it is back.
    """

    def __init__(self, url: str, *, holder: str, lease_s: float) -> None:
        """`url`: the answerer's. `lease_s`: after so long without a renewal it takes the card back."""
        self._url = url.rstrip("/")
        self._holder, self._lease_s = holder, lease_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="serving-pause", daemon=True)

    def __enter__(self) -> "ServingPause":
        """Waits until the card is free, for half a lease at most."""
        deadline = time.monotonic() + self._lease_s / 2
        while (is_free := self._suspend()) is False and time.monotonic() < deadline:
            time.sleep(_TRIED_EVERY_S)
        if is_free is False:
            _log.warning("card_not_free", remedy="The answerer still holds memory of the card; the job takes what is left.")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Gives the card back to the answerer."""
        self._ended.set()
        self._thread.join()
        self._tell("resume", {"holder": self._holder})

    def _renew(self) -> None:
        while not self._ended.wait(self._lease_s / 4):
            self._suspend()

    def _suspend(self) -> bool | None:
        """Returns whether the answerer holds nothing of the card; None where it does not answer."""
        body = self._tell("suspend", {"holder": self._holder, "lease_s": self._lease_s})
        return None if body is None else bool(body.get("is_card_free"))

    def _tell(self, verb: str, body: dict[str, object]) -> dict[str, object] | None:
        try:
            # No proxy of the environment stands between two processes of one host.
            with httpx2.Client(trust_env=False, timeout=_TIMEOUT_S) as client:
                reply = client.post(f"{self._url}/{verb}", json=body)
                reply.raise_for_status()
                content = reply.json()
                return content if isinstance(content, dict) else None
        except (httpx2.HTTPError, ValueError) as error:
            _log.warning("answerer_not_told", verb=verb, error=type(error).__name__)
            return None
