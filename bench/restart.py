"""A benchmark's process gets the environment that the product gives to its own processes with torch."""

import os
import sys

from app.allocator_environment import ALLOCATOR_ENVIRONMENT


def restart_with_allocator_environment(module: str) -> None:
    """Starts `python -m module` anew with the allocator's settings, for all contestants alike, unless they are set."""
    if any(name not in os.environ for name in ALLOCATOR_ENVIRONMENT):
        environment = os.environ | ALLOCATOR_ENVIRONMENT
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)  # noqa: S606
