"""`/v1/files/{file_id}/splits`: stratified parts of a file, as files."""

import tempfile
from pathlib import Path

from fastapi import APIRouter, Request

from app.datasets import service, splits
from app.datasets.split_schemas import CreateSplit, SplitObject
from app.db.unit_of_work import read_only, unit_of_work
from app.http.dependencies import BlobsDep, EngineDep
from app.http.errors import ERROR_RESPONSES

router = APIRouter(prefix="/v1/files", tags=["files"], responses=ERROR_RESPONSES)


@router.post("/{file_id}/splits")
def split_file(request: Request, engine: EngineDep, blobs: BlobsDep, file_id: str, body: CreateSplit) -> SplitObject:
    """Cuts a file into parts that keep its category shares; all of them become files, or none does."""
    stored_keys: list[str] = []
    with tempfile.TemporaryDirectory(dir=request.app.state.uploads_dir) as scratch:
        # Read and cut outside of the transaction: SQLite has one writer at a time.
        with read_only(engine) as session:
            parent = splits.get_splittable(session, file_id)
        cuts = splits.cut(blobs, parent, [part.to_part() for part in body.parts], seed=body.seed, scratch=Path(scratch))
        try:
            with unit_of_work(engine) as session:
                # Held until the commit, so that no part outlives a parent that went meanwhile unnoticed.
                parent = splits.get_splittable(session, file_id, for_update=True)
                files = splits.store(session, blobs, parent, cuts, seed=body.seed, stored_keys=stored_keys)
        except BaseException:
            for key in stored_keys:
                service.forget(blobs, key)
            raise
    return SplitObject.of(file_id, body.seed, cuts, files)
