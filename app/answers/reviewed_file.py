"""Reviewed answers become a file. The HTTP dialect and the console come through here."""

import tempfile
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.answers import review_repository
from app.answers.review_schemas import CreateFromAnswers
from app.answers.reviewed_dataset import MAX_REVIEWED, write_reviewed_dataset
from app.blobs.store import BlobStore
from app.datasets import repository as files
from app.datasets import service as datasets
from app.datasets.models import Dataset
from app.db.unit_of_work import read_only, unit_of_work
from app.errors import InvalidInput, NotFound


def store_reviewed(body: CreateFromAnswers, *, engine: Engine, blobs: BlobStore, uploads_dir: Path) -> Dataset:
    """Makes a dataset of reviewed answers, a version of its parent if one is named; of a question the last review counts.

    Raises:
        NotFound: no such parent.
        InvalidInput: the parent is a result, or no review brings a row.
        TooLarge: too many reviews.
    """
    with tempfile.TemporaryDirectory(dir=uploads_dir) as scratch:
        path, rows = Path(scratch) / "reviewed.jsonl", Path(scratch) / "rows"
        parent, parent_rows = None, None
        # Read and written outside of the transaction: SQLite has one writer at a time.
        with read_only(engine) as session:
            if body.parent is not None:
                parent = _get_parent(session, body.parent)
                if body.include_parent_rows:
                    try:
                        parent_rows = datasets.fetch_rows(blobs, parent, Path(scratch))
                    except FileNotFoundError as error:
                        raise NotFound(f"File {parent.id!r} was deleted meanwhile.", param="parent") from error
            reviewed = review_repository.reviewed(
                session,
                model=body.model,
                adapter=body.adapter,
                since=body.reviewed_since,
                until=body.reviewed_until,
                limit=MAX_REVIEWED + 1,
            )
            counts = write_reviewed_dataset(path, reviewed, parent_rows=parent_rows)
        report = datasets.check_upload(path, rows_to=rows)
        purpose = body.purpose or (parent.purpose if parent is not None else "fine-tune")
        provenance = {
            "kind": "answers",
            "parent_sha256": None if parent is None else parent.sha256,
            **asdict(counts),
            **body.model_dump(include={"model", "adapter", "reviewed_since", "reviewed_until"}, exclude_none=True),
        }
        dataset = None
        try:
            with unit_of_work(engine) as session:
                if parent is not None:
                    # Held until the commit, so that no version outlives a parent that went meanwhile unnoticed.
                    _get_parent(session, parent.id, for_update=True)
                dataset = datasets.create(session, blobs, path, filename=body.filename, purpose=purpose, report=report, rows=rows)
                dataset.parent_id = None if parent is None else parent.id
                dataset.provenance = provenance
        except BaseException as error:
            if dataset is not None:
                datasets.forget_uncommitted(blobs, [dataset.blob_key], error)
            raise
    return dataset


def _get_parent(session: Session, file_id: str, *, for_update: bool = False) -> Dataset:
    parent = files.get(session, file_id, param="parent", for_update=for_update)
    if parent.report is None:
        raise InvalidInput(f"File {file_id!r} is a result, not a dataset. Name a file of questions and answers.", param="parent")
    return parent
