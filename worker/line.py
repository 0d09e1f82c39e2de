"""The training process's end of the two pipes."""

import os
import signal
import sys
import threading

from app.ml.engine.training import Wish
from worker.messages import ChildWish, Message, encode


class Line:
    """The child's end of both pipes."""

    def __init__(self, message_fd: int) -> None:
        self._pipe = os.fdopen(message_fd, "wb", buffering=0)
        self._wish = Wish.NONE

    def say(self, message: Message) -> None:
        """Sends one message; a supervisor that is gone is noticed by `wish`."""
        try:
            self._pipe.write(encode(message))
        except BrokenPipeError:
            self._wish = Wish.STOP

    def wish(self) -> Wish:
        """Returns the strongest wish heard so far."""
        return self._wish

    def listen(self) -> None:
        """Hears wishes in a thread; the end of stdin and SIGTERM both mean: save and stop."""
        signal.signal(signal.SIGTERM, lambda *_: self._hear(Wish.SAVE_AND_STOP))
        threading.Thread(target=self._read_wishes, daemon=True).start()

    def _read_wishes(self) -> None:
        for line in sys.stdin:
            self._hear(Wish(ChildWish(line.strip()).value))
        self._hear(Wish.SAVE_AND_STOP)

    def _hear(self, wish: Wish) -> None:
        if self._wish is not Wish.STOP:
            self._wish = wish


class SilentLine(Line):
    """A line of a rank that has nobody to talk to."""

    def __init__(self) -> None:
        self._wish = Wish.NONE

    def say(self, message: Message) -> None:
        """Says nothing: rank 0 has said it."""
