"""From the bytes of an upload to a stored dataset; both the HTTP dialect and the console come through here."""

import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Engine

from app.blobs.store import BlobStore
from app.datasets import repository, service
from app.datasets.models import Dataset
from app.datasets.upload_options import UploadOptions
from app.db.unit_of_work import read_only, unit_of_work
from app.errors import InvalidInput, TooLarge
from app.ml.errors import BaseModelMissing
from app.ml.model_store import BaseModelFolder, ModelStore

_CHUNK_BYTES = 1 << 20


def store_upload(
    source: BinaryIO,
    options: UploadOptions,
    *,
    filename: str,
    purpose: str,
    engine: Engine,
    blobs: BlobStore,
    store: ModelStore,
    uploads_dir: Path,
    max_upload_bytes: int,
) -> Dataset:
    """Checks an upload row by row and stores it; nothing of a file with a wrong row is kept.

    Raises:
        InvalidInput: the purpose or an option is wrong.
        TooLarge: the file is over the limit.
        NotFound: the file to compare with, or the base model, does not exist.
        DatasetFormatError: a row is wrong; `details` holds the report.
    """
    if purpose not in service.TRAINING_PURPOSES:
        raise InvalidInput("The purpose must be 'fine-tune' or 'evals'.", param="purpose")
    base = None if options.base_model is None else _base_model(store, options.base_model)
    # In the data folder, so that the finished file is renamed into the store and never copied.
    with tempfile.TemporaryDirectory(dir=uploads_dir) as scratch:
        path = Path(scratch) / "upload"
        _receive(source, path, max_upload_bytes)
        rows = Path(scratch) / "rows"
        others = None
        if options.compare_with is not None:
            with read_only(engine) as session:
                compared = repository.get(session, options.compare_with, param="compare_with")
            others = service.read_others(blobs, compared, Path(scratch))
        report = service.check_upload(
            path, options.read, rows_to=rows, compare_with=others, rare_code_rows=options.rare_code_rows
        )
        if report.leak is not None:
            report.leak["file_id"] = options.compare_with
        if base is not None:
            report.token_lengths = service.token_lengths(rows, base)
        dataset = None
        try:
            with unit_of_work(engine) as session:
                dataset = service.create(session, blobs, path, filename=filename, purpose=purpose, report=report, rows=rows)
        except BaseException as error:
            if dataset is not None:
                service.forget_uncommitted(blobs, [dataset.blob_key], error)
            raise
    return dataset


def _base_model(store: ModelStore, name: str) -> BaseModelFolder:
    try:
        return store.get(name)
    except BaseModelMissing as error:
        error.param = "base_model"
        raise


def _receive(source: BinaryIO, path: Path, limit_bytes: int) -> None:
    with path.open("wb") as target:
        shutil.copyfileobj(source, target, _CHUNK_BYTES)
    if path.stat().st_size > limit_bytes:
        raise TooLarge(f"The file has more than {limit_bytes} bytes, this deployment's limit.", param="file")
