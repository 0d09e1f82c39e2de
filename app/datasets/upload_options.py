"""The form fields of an upload that say how to read the file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import InvalidInput
from app.ml.formats.columns import ColumnWish, wish_from_columns, wish_from_dataset_info
from app.ml.formats.detection import ReadOptions
from app.ml.formats.encoding import codec_of
from app.ml.formats.repeated_names import find_repeated_name
from app.ml.formats.report import RARE_CODE_ROWS


@dataclass(frozen=True, kw_only=True)
class UploadOptions:
    """Empty form fields are as if they were not sent."""

    read: ReadOptions
    rare_code_rows: int = RARE_CODE_ROWS
    compare_with: str | None = None
    """Id of a file whose questions should not stand in this one."""
    base_model: str | None = None
    """Whose tokens the report counts."""

    @classmethod
    def of_form(
        cls,
        *,
        filename: str | None,
        columns: str | None = None,
        dataset_info: str | None = None,
        encoding: str | None = None,
        sheet: str | None = None,
        rare_code_rows: int = RARE_CODE_ROWS,
        compare_with: str | None = None,
        base_model: str | None = None,
    ) -> "UploadOptions":
        """Reads the fields as they came.

        Raises:
            InvalidInput: one of them is not of its form; `param` names it.
        """
        if columns and dataset_info:
            raise InvalidInput("Send columns or dataset_info, not both.", param="columns")
        wish = ColumnWish()
        if columns:
            wish = wish_from_columns(_json_object(columns, "columns"))
        elif dataset_info:
            wish = wish_from_dataset_info(_json_object(dataset_info, "dataset_info"), filename=filename or "")
        if encoding:
            codec_of(encoding)
        read = ReadOptions(filename=filename, columns=wish, encoding=encoding or None, sheet=sheet or None)
        return cls(read=read, rare_code_rows=rare_code_rows, compare_with=compare_with or None, base_model=base_model or None)


def _json_object(text: str, param: str) -> Mapping[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{param} must be a JSON object: it is not JSON.", param=param) from error
    if (repeated := find_repeated_name(text.encode())) is not None:
        raise InvalidInput(f"{param} has {repeated[:100]!r} twice.", param=param)
    if not isinstance(value, dict):
        raise InvalidInput(f"{param} must be a JSON object.", param=param)
    return value
