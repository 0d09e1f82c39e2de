"""Reads the first sheet of an XLSX file in a process of its own, with a limit on memory and time.

A workbook of a few kilobytes can ask for any amount of memory: one cell in the last column of the last row makes a table of
17 thousand million cells, and a shared string counts again in each cell. The process may die of it, the API may not.
"""

import io
import json
import resource
import subprocess
import sys

from app.codebook.entries import InvalidCodebook

_MEMORY_BYTES = 1 << 30
_SECONDS = 60
_MAX_CELL_CHARS = 64 * 1024 * 1024
_MAX_COLUMNS = 64
_UNREADABLE = 3


def read_first_sheet(body: bytes) -> list[list[str]]:
    """Returns the cells of the first sheet as text, whole numbers without a decimal point.

    Raises:
        InvalidCodebook: it is no XLSX file, or would take more than 1 GiB or 60 s to read.
    """
    try:
        done = subprocess.run([sys.executable, "-m", __name__], input=body, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InvalidCodebook(f"The workbook takes more than {_SECONDS} s to read. Send it as CSV.") from None
    if done.returncode == _UNREADABLE:
        raise InvalidCodebook(f"The workbook cannot be read: {done.stdout.decode(errors='replace')}. Save it as XLSX again.")
    if done.returncode != 0:
        raise InvalidCodebook("The workbook needs too much memory to read. Delete empty rows and columns, or send it as CSV.")
    cells: list[list[str]] = json.loads(done.stdout)
    return cells


def _text(cell: object) -> str:
    # A spreadsheet has no whole numbers: 30 comes as 30.0.
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    from python_calamine import CalamineWorkbook  # noqa: PLC0415  # only this process has it in memory

    try:
        sheet = CalamineWorkbook.from_filelike(io.BytesIO(sys.stdin.buffer.read())).get_sheet_by_index(0)
        if sheet.total_width > _MAX_COLUMNS:
            raise ValueError(f"its first sheet has {sheet.total_width} columns")
        rows = [[_text(cell) for cell in row] for row in sheet.to_python(skip_empty_area=False)]
        if sum(len(cell) for row in rows for cell in row) > _MAX_CELL_CHARS:
            raise ValueError("its first sheet has too much text")
    except MemoryError:
        return 1
    except Exception as error:
        sys.stdout.write(str(error).splitlines()[0][:200] if str(error) else type(error).__name__)
        return _UNREADABLE
    sys.stdout.write(json.dumps(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
