"""Questions and true codes from Alpaca JSON, with plain json: the machines that measure need not have the product's readers."""

import json
from pathlib import Path

from app.ml.formats.example import Example, RowError, example_from_fields

SAMPLES = Path(__file__).parents[2] / "samples"
_SAMPLE_FILES = ("telecom_demo.json", "telecom_demo_test.json")
_DATA_FILES = ("telecom_train_5000.json", "telecom_test_500.json")


def data_files(data: Path | None) -> tuple[Path, Path]:
    """Returns the training and the test file: the large ones of a data folder, or the small ones that ship."""
    train, test = _SAMPLE_FILES if data is None else _DATA_FILES
    folder = SAMPLES if data is None else data
    return folder / train, folder / test


def read_alpaca(path: Path) -> list[Example]:
    """Reads an array of Alpaca rows.

    Raises:
        ValueError: a row is none.
    """
    examples: list[Example] = []
    for number, fields in enumerate(json.loads(path.read_text(encoding="utf-8")), start=1):
        example = example_from_fields(number, fields)
        if isinstance(example, RowError):
            raise ValueError(f"{path}, row {number}: {example.field} {example.reason}")
        examples.append(example)
    return examples
