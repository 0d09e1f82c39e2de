"""The four data sets as rows of ours, read with plain json; a test file is opened for a report alone."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.ml.augmentation.phrases import mine_phrases
from app.ml.formats.example import Example, RowError, example_from_fields
from app.ml.prompting import find_wrapper
from app.ml.splitting import SplitPart, SplitRow, labels_of_codes, split_rows

OUT_OF_SCOPE = "oos"
_SPLIT_SEED = 20261125
_CHOICE_SHARE, _MOST_CHOICE_ROWS = 0.1, 1_000
_CALIBRATION_SHARE, _MOST_CALIBRATION_ROWS, _FEWEST_CALIBRATION_ROWS = 0.04, 500, 100
_SHORTEST_PHRASE_CHARS, _FEWEST_PHRASES = 4, 40


@dataclass(frozen=True)
class DataFiles:
    """Where a data set stands below the data folder."""

    training: str
    tests: Mapping[str, str]
    language: str
    has_many_codes: bool
    """Whether an answer may have more than one code."""
    dev: str | None = None
    """Rows for calibration that come with the set."""
    subset: int | None = None
    """Take so many training rows, in the shares of all."""


_TELECOM_TESTS = {"test": "telecom/telecom_test_500.json", "paraphrase": "telecom/telecom_paraphrase_500.json"}
DATA_SETS: Mapping[str, DataFiles] = {
    "telecom": DataFiles("telecom/telecom_train_5000.json", _TELECOM_TESTS, "zh", True),
    "telecom_400": DataFiles("telecom/telecom_train_5000.json", _TELECOM_TESTS, "zh", True, subset=400),
    "banking77": DataFiles("banking77/train.jsonl", {"test": "banking77/test.jsonl"}, "en", False),
    "clinc150": DataFiles(
        "clinc150_oos/train.jsonl", {"test": "clinc150_oos/test.jsonl"}, "en", False, dev="clinc150_oos/dev.jsonl"
    ),
    "crosswoz": DataFiles("crosswoz_user_acts_zh/train.jsonl", {"test": "crosswoz_user_acts_zh/test.jsonl"}, "zh", True),
}


@dataclass(frozen=True)
class Material:
    """One run's rows: what is trained, what calibrates, what is scored."""

    name: str
    training: tuple[Example, ...]
    calibration: tuple[Example, ...] | None
    scored: Mapping[str, tuple[Example, ...]]
    verbatim: Mapping[str, int] = field(default_factory=dict)
    """How many scored rows of a part have a question that stands in the training rows letter for letter."""


def material_for_choosing(name: str, data: Path) -> Material:
    """Cuts the training file alone: rows to choose by, rows to calibrate with, and the rest to train on.

    Part `choice`: rows at random; of a subset, rows outside it. Part `phrasing`, where customers' phrases can be mined: rows
    with phrases that no row of the training has any more, the nearest thing to a file of paraphrases.
    """
    files = DATA_SETS[name]
    everything = read_rows(data / files.training)
    order = list(everything)
    random.Random(_SPLIT_SEED).shuffle(order)
    phrasing = _rows_of_some_phrases(order)
    gone = {id(row) for row in phrasing}
    order = [row for row in order if id(row) not in gone]
    training = None if files.subset is None else {id(row) for row in _training_rows(files, order)}
    outside = order if training is None else [row for row in order if id(row) not in training]
    count = min(_MOST_CHOICE_ROWS, round(len(everything) * _CHOICE_SHARE))
    chosen = outside[:count]
    rest = outside[count:] if training is None else [row for row in order if id(row) in training]
    dev = None if files.dev is None else read_rows(data / files.dev)
    scored = {"choice": tuple(chosen), **({"phrasing": tuple(phrasing)} if phrasing else {})}
    return _material(name, rest, dev, scored)


def material_for_report(name: str, data: Path) -> Material:
    """Trains on the training file and scores the test files.

    Raises:
        ValueError: a row of telecom's test files stands in its training file.
    """
    files = DATA_SETS[name]
    rows = _training_rows(files, read_rows(data / files.training))
    dev = None if files.dev is None else read_rows(data / files.dev)
    tests = {part: tuple(read_rows(data / path)) for part, path in files.tests.items()}
    material = _material(name, rows, dev, tests)
    # The public sets repeat a few questions between their official files; ours does not.
    if name.startswith("telecom") and any(material.verbatim.values()):
        raise ValueError(f"{name}: {material.verbatim} test rows stand in the training file")
    return material


def read_rows(path: Path) -> list[Example]:
    """Reads Alpaca rows, an array or JSON Lines.

    Raises:
        ValueError: a row is none.
    """
    text = path.read_text(encoding="utf-8")
    found = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    examples: list[Example] = []
    for number, fields in enumerate(found, start=1):
        example = example_from_fields(number, fields)
        if isinstance(example, RowError):
            raise ValueError(f"{path}, row {number}: {example.field} {example.reason}")
        examples.append(example)
    return examples


def _training_rows(files: DataFiles, rows: list[Example]) -> list[Example]:
    if files.subset is None:
        return rows
    split = [SplitRow(row.question, labels_of_codes(row.codes)) for row in rows]
    chosen = split_rows(split, [SplitPart(name="subset", size=min(files.subset, len(rows)))], seed=1)["subset"]
    return [rows[place] for place in chosen]


def _rows_of_some_phrases(rows: Sequence[Example]) -> list[Example]:
    """Returns the rows of phrases drawn at random, at most a tenth of all rows, where there are many phrases to draw from."""
    wrapper = find_wrapper([row.question for row in rows])
    questions = [wrapper.strip(row.question) for row in rows]
    book = mine_phrases(questions, [row.codes for row in rows])
    phrases = sorted({phrase.text for phrase in book.exchanges if len(phrase.text) >= _SHORTEST_PHRASE_CHARS})
    if len(phrases) < _FEWEST_PHRASES:
        return []
    random.Random(_SPLIT_SEED).shuffle(phrases)
    held: set[int] = set()
    for phrase in phrases:
        more = {place for place, question in enumerate(questions) if phrase in question}
        if len(held | more) <= min(_MOST_CHOICE_ROWS, round(_CHOICE_SHARE * len(rows))):
            held |= more
    return [rows[place] for place in sorted(held)]


def _material(
    name: str, rows: Sequence[Example], dev: Sequence[Example] | None, scored: Mapping[str, tuple[Example, ...]]
) -> Material:
    training, calibration = list(rows), dev
    if dev is None:
        count = min(_MOST_CALIBRATION_ROWS, round(len(rows) * _CALIBRATION_SHARE))
        if count >= _FEWEST_CALIBRATION_ROWS:
            order = list(rows)
            random.Random(_SPLIT_SEED + 1).shuffle(order)
            calibration, training = order[:count], order[count:]
    known = {id(row) for row in (*training, *(calibration or ()))}
    assert not any(id(row) in known for part in scored.values() for row in part), "a scored row would be trained on"
    wrapper = find_wrapper([row.question for row in training])
    questions = {wrapper.strip(row.question) for row in training}
    verbatim = {part: sum(wrapper.strip(row.question) in questions for row in group) for part, group in scored.items()}
    return Material(name, tuple(training), None if calibration is None else tuple(calibration), scored, verbatim)
