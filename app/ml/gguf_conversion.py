"""llama.cpp's converter, where the operator has installed it: a merged model's folder becomes a GGUF file. No torch."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from app.ml.errors import GgufConversionFailed, GgufConverterMissing
from app.parent_death import die_with_parent

CONVERTER = "convert_hf_to_gguf.py"
_TICK_S = 0.1
_STOP_S = 5.0
# A GGUF in fp32 of a model in 16 bits is twice its size; more than this is a converter gone wild.
_MOST_TIMES_ITS_SOURCE = 3
_SPARE_BYTES = 64 * 1024**2
_TAIL_BYTES, _LINE_CHARS = 4_000, 300


def get_converter(configured: Path | None) -> Path:
    """Returns the operator's converter, or the one on PATH.

    Raises:
        GgufConverterMissing: there is none; the message says how to get one.
    """
    if configured is not None:
        if not configured.is_file():
            raise GgufConverterMissing("DIANDA_GGUF_CONVERTER names no file on this worker. Correct it, then export again.")
        return configured.absolute()
    found = shutil.which(CONVERTER)
    if found is None:
        raise GgufConverterMissing(
            f"llama.cpp's {CONVERTER} is not on this worker. Get llama.cpp, set DIANDA_GGUF_CONVERTER to the script's path (or "
            "put it on PATH), restart the worker, and export again; or export 'merged' and convert it yourself."
        )
    return Path(found)


def convert_to_gguf(converter: Path, model: Path, output: Path, *, go_on: Callable[[], bool]) -> bool:
    """Converts a model's folder into the file `output`, in 16 bits; False where `go_on` ended it before.

    A script that ends in `.py` runs in this interpreter, which has torch, transformers and gguf; any other is run as it is.
    Its own output goes to a file beside `output` and counts against the same limit of bytes.

    Raises:
        GgufConversionFailed: the converter failed, or wrote no file; the message has its last line.
    """
    command = [sys.executable, str(converter)] if converter.suffix == ".py" else [str(converter)]
    log, limit_bytes = output.with_suffix(".log"), _MOST_TIMES_ITS_SOURCE * _size_of(model) + _SPARE_BYTES
    parent = os.getpid()

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        die_with_parent(parent, signal.SIGKILL)

    with log.open("wb") as lines:
        try:
            process = subprocess.Popen(
                [*command, str(model), "--outfile", str(output), "--outtype", "auto"],
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=lines,
                cwd=output.parent,
                preexec_fn=prepare,  # noqa: PLW1509  # nothing that holds a lock runs in it
            )
        except OSError as error:
            raise GgufConversionFailed(f"{converter.name} cannot be run: {error.strerror}. Make it executable.") from error
        try:
            while process.poll() is None:
                if not go_on():
                    return False
                time.sleep(_TICK_S)
        finally:
            _end(process)
    if process.returncode != 0:
        raise GgufConversionFailed(
            f"{converter.name} gave exit code {process.returncode}: {_last_line(log)} Its packages must be installed on the "
            "worker, and it must know the base model's architecture; else export 'merged' and convert that elsewhere."
        )
    if not output.is_file() or output.stat().st_size == 0:
        raise GgufConversionFailed(f"{converter.name} ended well but wrote no file. Try another version of llama.cpp.")
    return True


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").strip().splitlines()
    # Where the worker keeps its files is nobody's business.
    last = lines[-1].replace(f"{log.parent}/", "")[-_LINE_CHARS:] if lines else "it said nothing"
    return last if last.endswith(".") else f"{last}."
