"""`/v1/files/{file_id}/splits`: stratified parts of a file, as files."""

import tempfile
from pathlib import Path

from fastapi import APIRouter, Request

from app.datasets import splits
from app.datasets.split_schemas import CreateSplit, SplitObject
from app.http.dependencies import BlobsDep, EngineDep
from app.http.errors import ERROR_RESPONSES

router = APIRouter(prefix="/v1/files", tags=["files"], responses=ERROR_RESPONSES)


@router.post("/{file_id}/splits")
def split_file(request: Request, engine: EngineDep, blobs: BlobsDep, file_id: str, body: CreateSplit) -> SplitObject:
    """Cuts a file into parts that keep its category shares; all of them become files, or none does."""
    with tempfile.TemporaryDirectory(dir=request.app.state.uploads_dir) as scratch:
        parts = [part.to_part() for part in body.parts]
        cuts, files = splits.split_file(engine, blobs, file_id, parts, seed=body.seed, scratch=Path(scratch))
    return SplitObject.of(file_id, body.seed, cuts, files)
