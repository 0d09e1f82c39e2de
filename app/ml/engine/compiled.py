"""Loops over arrays as machine code: what Python would take longer over than the device over a pass.

numba compiles a function when it is first called and keeps the result in `NUMBA_CACHE_DIR`, else beside this file; where neither
may be written, every process compiles anew (some seconds). The interpreter's lock is free meanwhile.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def _find_cache() -> Path | None:
    """Returns a folder for what these sources compile to: numba itself does not see that a function's callee has changed."""
    here = Path(__file__).parent
    sources = sorted([*here.glob("*.py"), *here.glob("drafted/*.py")])
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or here / "__pycache__") / f"compiled-{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


_CACHE = _find_cache()
if _CACHE is not None:
    numba.config.CACHE_DIR = str(_CACHE)


def compiled(function: Function) -> Function:
    """Compiles a function of numbers and arrays."""
    return cast(Function, numba.njit(cache=_CACHE is not None, nogil=True, error_model="numpy")(function))


def compiled_sums(function: Function) -> Function:
    """Compiles a function whose sums may be taken in any order, as vector instructions do."""
    reordering = {"reassoc", "contract"}
    return cast(Function, numba.njit(cache=_CACHE is not None, nogil=True, error_model="numpy", fastmath=reordering)(function))
