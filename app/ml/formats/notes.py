"""What is odd about a file and yet no error: warnings with a code, a count and the first rows."""

from dataclasses import dataclass, field

MAX_ROWS_LISTED = 20

_MESSAGES = {
    "encoding_detected": "The file is not UTF-8 and was read as GB18030, because all of it decodes so and its text is common "
    "Chinese. If it looks wrong, upload it again with the field 'encoding'.",
    "answers_normalised": "Answers with full-width digits, '｜' or '．' between digits were rewritten in half width.",
    "full_width_digits_in_questions": "Questions with full-width digits; they stay as they are.",
    "system_messages_ignored": "System messages are not part of a question and were left out.",
    "earlier_turns_ignored": "Only the last user message is the question; earlier turns were left out.",
    "other_sheets_ignored": "The workbook has more sheets than the one that was read; name one with the field 'sheet'.",
    "suspicious_separator": "An answer seems to join its codes by another sign than '|'; it counts as one code.",
    "slice_left_out": "A slice value that is no text, or has more than 200 characters, was left out.",
    "number_was_no_text": "A cell held a number and was read as its shortest decimal text; a code such as 007 needs a text cell.",
}


@dataclass
class Note:
    """One kind of warning."""

    count: int = 0
    rows: list[int] = field(default_factory=list)


@dataclass
class Notes:
    """The warnings of one file; memory does not grow with the file."""

    _by_code: dict[str, Note] = field(default_factory=dict)

    def add(self, code: str, row: int | None = None) -> None:
        """Counts a warning; the first rows are kept."""
        note = self._by_code.setdefault(code, Note())
        note.count += 1
        if row is not None and len(note.rows) < MAX_ROWS_LISTED:
            note.rows.append(row)

    def to_list(self) -> list[dict[str, object]]:
        """Returns the JSON form: code, message, count, first rows."""
        return [
            {"code": code, "message": _MESSAGES[code], "count": note.count, "rows": list(note.rows)}
            for code, note in self._by_code.items()
        ]
