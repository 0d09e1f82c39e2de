"""Cuts a dataset into parts that keep its shares of categories; each part becomes a file."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import orjson
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.blobs.store import BlobStore
from app.datasets import repository, service
from app.datasets.models import Dataset
from app.db.unit_of_work import read_only, unit_of_work
from app.errors import InvalidInput, NotFound
from app.ml.codes import join_codes
from app.ml.formats.canonical import CanonicalWriter
from app.ml.formats.example import Example
from app.ml.formats.reading import iterate_examples
from app.ml.formats.report import DatasetReport
from app.ml.splitting import KIND_MARK, SplitPart, SplitRow, labels_of_codes, split_rows

COUNTED_ABOVE_PERCENT = 1.0
MAX_LISTED = 100


@dataclass(frozen=True)
class CategoryShare:
    """Rows that show a category, in percent of all rows: of the parent and of the part."""

    category: str
    before_percent: float
    after_percent: float


@dataclass(frozen=True, kw_only=True)
class CutPart:
    """A part as it was cut: a finished Alpaca JSONL file, and how far its shares lie from the parent's."""

    part: SplitPart
    path: Path
    rows: Path
    """Its canonical rows, with the parent's slices."""
    report: DatasetReport
    largest_deviation_points: float
    """Percentage points, over the categories that more than 1 % of the parent's rows show."""
    shares: tuple[CategoryShare, ...]
    """The commonest 100 categories of the parent."""


def get_splittable(session: Session, file_id: str, *, for_update: bool = False) -> Dataset:
    """Returns a file that holds questions and answers.

    Raises:
        NotFound: no such file.
        InvalidInput: it is a result.
    """
    dataset = repository.get(session, file_id, for_update=for_update)
    if dataset.report is None:
        raise InvalidInput(f"File {file_id!r} is a result, not a dataset. Split a file of questions and answers.")
    return dataset


def split_file(
    engine: Engine, blobs: BlobStore, file_id: str, parts: Sequence[SplitPart], *, seed: int, scratch: Path
) -> tuple[list[CutPart], list[Dataset]]:
    """Cuts a file into parts and stores each as a file; all of them, or none.

    Raises:
        NotFound: no such file, or it was deleted meanwhile.
        InvalidInput: it is a result, or the parts do not fit; see `split_rows`.
    """
    stored_keys: list[str] = []
    # Read and cut outside of the transaction: SQLite has one writer at a time.
    with read_only(engine) as session:
        parent = get_splittable(session, file_id)
    cuts = cut(blobs, parent, parts, seed=seed, scratch=scratch)
    try:
        with unit_of_work(engine) as session:
            # Held until the commit, so that no part outlives a parent that went meanwhile unnoticed.
            parent = get_splittable(session, file_id, for_update=True)
            files = store(session, blobs, parent, cuts, seed=seed, stored_keys=stored_keys)
    except BaseException as error:
        service.forget_uncommitted(blobs, stored_keys, error)
        raise
    return cuts, files


def cut(blobs: BlobStore, parent: Dataset, parts: Sequence[SplitPart], *, seed: int, scratch: Path) -> list[CutPart]:
    """Reads the parent twice and writes every part into `scratch`, its rows in the parent's order.

    Rows with the same question stay together. The file is never held in memory whole: 16 bytes and a shared tuple a row.

    Raises:
        NotFound: the parent was deleted meanwhile.
        InvalidInput: the parts do not fit; see `split_rows`.
    """
    try:
        source = service.fetch_rows(blobs, parent, scratch)
        rows = _rows_of(source)
        chosen = split_rows(rows, parts, seed=seed)
        paths = {part.name: scratch / f"part-{number}.jsonl" for number, part in enumerate(parts)}
        _write(source, chosen, paths)
    except FileNotFoundError as error:
        raise NotFound(f"File {parent.id!r} was deleted while it was being split.") from error
    before = _shares([row.labels for row in rows])
    return [_cut_part(part, paths[part.name], [rows[index].labels for index in chosen[part.name]], before) for part in parts]


def store(
    session: Session, blobs: BlobStore, parent: Dataset, cuts: Sequence[CutPart], *, seed: int, stored_keys: list[str]
) -> list[Dataset]:
    """Stores every part as a file of the parent's purpose, with a report of its own.

    The caller removes the blobs under `stored_keys`, which grows as they are put, if the transaction fails.
    """
    files = []
    for one in cuts:
        dataset = service.create(
            session,
            blobs,
            one.path,
            filename=f"{one.part.name}.jsonl",
            purpose=parent.purpose,
            report=one.report,
            rows=one.rows,
        )
        stored_keys.append(dataset.blob_key)
        dataset.parent_id = parent.id
        dataset.provenance = {
            "kind": "split",
            "parent_sha256": parent.sha256,
            "seed": seed,
            "parts": [_asked(other.part) for other in cuts],
            "part": one.part.name,
        }
        files.append(dataset)
    session.flush()
    return files


def _asked(part: SplitPart) -> dict[str, object]:
    asked = {"name": part.name, "size": part.size, "fraction": part.fraction, "within": part.within}
    return {key: value for key, value in asked.items() if value is not None}


def _rows_of(source: Path) -> list[SplitRow]:
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    rows = []
    for example in iterate_examples(source):
        labels = labels_of_codes(example.codes)
        rows.append(SplitRow(blake2b(example.question.encode(), digest_size=16).digest(), known.setdefault(labels, labels)))
    return rows


def _write(source: Path, chosen: Mapping[str, Sequence[int]], paths: Mapping[str, Path]) -> None:
    places: dict[int, list[str]] = {}
    for name, indices in chosen.items():
        for index in indices:
            places.setdefault(index, []).append(name)
    with ExitStack() as stack:
        targets = {name: stack.enter_context(path.open("wb")) for name, path in paths.items()}
        writers = {name: stack.enter_context(CanonicalWriter(_rows_beside(path))) for name, path in paths.items()}
        written = dict.fromkeys(paths, 0)
        for index, example in enumerate(iterate_examples(source)):
            for name in places.get(index, ()):
                written[name] += 1
                targets[name].write(alpaca_line(example))
                writers[name].write(replace(example, row=written[name]))


def _rows_beside(path: Path) -> Path:
    return path.with_suffix(".rows")


def alpaca_line(example: Example) -> bytes:
    """Returns a row of Alpaca JSON Lines; slices stand beside its fields, where an upload finds the known headings again."""
    row = {**example.slices, "instruction": example.question, "input": "", "output": join_codes(example.codes)}
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _shares(labels: Sequence[tuple[str, ...]]) -> dict[str, float]:
    """Returns the percent of rows that show each category, the commonest first."""
    counts = Counter(label for row in labels for label in row if not label.startswith(KIND_MARK))
    return {category: 100 * count / len(labels) for category, count in counts.most_common()}


def _cut_part(part: SplitPart, path: Path, labels: Sequence[tuple[str, ...]], before: Mapping[str, float]) -> CutPart:
    after = _shares(labels)
    shares = [CategoryShare(category, share, after.get(category, 0.0)) for category, share in before.items()]
    counted = [share for share in shares if share.before_percent > COUNTED_ABOVE_PERCENT]
    return CutPart(
        part=part,
        path=path,
        rows=_rows_beside(path),
        report=service.check_upload(path),
        largest_deviation_points=round(max((abs(one.after_percent - one.before_percent) for one in counted), default=0.0), 3),
        shares=tuple(
            CategoryShare(one.category, round(one.before_percent, 3), round(one.after_percent, 3)) for one in shares[:MAX_LISTED]
        ),
    )
