"""Cells that a spreadsheet would take for a formula: written with an apostrophe before them (OWASP, "CSV Injection")."""

import re

_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_GUARDED = re.compile(r"'+[=+\-@\t\r\n＝＋－＠]")


def guarded(cell: str) -> str:
    """Returns a text as a cell that is no formula; what looks guarded already gets one more apostrophe, for `unguarded`."""
    return "'" + cell if _FORMULA.match(cell) or _GUARDED.match(cell) else cell


def unguarded(cell: str) -> str:
    """Returns exactly the text that was guarded."""
    return cell[1:] if _GUARDED.match(cell) else cell
