"""Loops over arrays as machine code: what Python would take longer over than the device over a pass.

numba compiles a function when it is first called and keeps the result beside this file or in `NUMBA_CACHE_DIR`; where neither
may be written, every process compiles anew (some seconds). The interpreter's lock is free meanwhile.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])
_MAY_CACHE = "NUMBA_CACHE_DIR" in os.environ or os.access(Path(__file__).parent, os.W_OK)


def compiled(function: Function) -> Function:
    """Compiles a function of numbers and arrays."""
    return cast(Function, numba.njit(cache=_MAY_CACHE, nogil=True, error_model="numpy")(function))
