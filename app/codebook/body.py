"""The code book as somebody sends it: JSON, or a table as CSV or XLSX."""

from app.codebook.entries import Entry, InvalidCodebook, check_entries
from app.codebook.schemas import PutCodebook
from app.codebook.table import rows_of_cells, rows_of_csv
from app.codebook.workbook import read_first_sheet

MAX_BYTES = 16 * 1024 * 1024
JSON, CSV = "application/json", "text/csv"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def read_body(media_type: str, body: bytes) -> list[Entry]:
    """Returns the entries of a whole book.

    Raises:
        InvalidCodebook: it is of no such type, or a row breaks a rule; names the first, and lists the first 100.
        TooLarge: more than 200,000 entries.
        ValidationError: pydantic's own, of JSON that is no book.
    """
    if media_type == JSON:
        return check_entries(PutCodebook.model_validate_json(body).rows())
    if media_type == CSV:
        return check_entries(rows_of_csv(body))
    if media_type == XLSX:
        return check_entries(rows_of_cells(read_first_sheet(body)))
    raise InvalidCodebook(f"Send the book as {JSON}, {CSV} or {XLSX}.", param="content-type")
