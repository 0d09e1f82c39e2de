"""A flag between the worker's main process and its slot."""

import mmap


class SharedFlag:
    """One byte that every process forked after its making sees.

    No lock, unlike `multiprocessing.Event`: a signal's handler sets it, and a second signal may come while the first one's does,
    or a process may be killed while it looks. Either would leave a lock held for ever.
    """

    def __init__(self) -> None:
        """Not set."""
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Sets it, for good."""
        self._byte[0] = 1

    def is_set(self) -> bool:
        """Says whether any of the processes has set it."""
        return self._byte[0] == 1
