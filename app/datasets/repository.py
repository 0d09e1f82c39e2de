"""Queries over files."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets.models import Dataset
from app.db.clock import db_now
from app.db.paging import page
from app.errors import NotFound


def add(session: Session, dataset: Dataset) -> Dataset:
    """Stores a new row, stamped by the database's clock."""
    dataset.created_at = session.scalar(select(db_now())) or 0.0
    session.add(dataset)
    session.flush()
    return dataset


def get(session: Session, file_id: str, *, param: str | None = None, for_update: bool = False) -> Dataset:
    """Returns a file; `for_update` holds its row against deletion until the commit.

    Raises:
        NotFound: no such file.
    """
    dataset = session.get(Dataset, file_id, with_for_update={"key_share": True} if for_update else None)
    if dataset is None:
        raise NotFound(f"There is no file {file_id!r}. List the files with GET /v1/files.", param=param)
    return dataset


def list_page(
    session: Session, *, purpose: str | None, after: str | None, limit: int, other_than: str | None = None
) -> tuple[list[Dataset], bool]:
    """Returns a page of files, newest first, and whether more follow: of a purpose, or of every `other_than` one."""
    query = select(Dataset)
    if other_than is not None:
        query = query.where(Dataset.purpose != other_than)
    if purpose is not None:
        query = query.where(Dataset.purpose == purpose)
    return page(session, query, Dataset, after=after, limit=limit)
