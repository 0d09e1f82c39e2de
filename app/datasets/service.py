"""What may be done with datasets."""

import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from sqlalchemy.orm import Session

from app.blobs.keys import rows_key
from app.blobs.store import BlobStore
from app.datasets import repository
from app.datasets.models import Dataset
from app.db.outage import may_have_committed
from app.durable import sha256_of_file
from app.errors import Conflict, InvalidInput, NotFound
from app.ids import new_id
from app.ml.errors import DatasetFormatError
from app.ml.formats.canonical import read_canonical
from app.ml.formats.detection import ReadOptions
from app.ml.formats.example import Example
from app.ml.formats.reading import iterate_examples
from app.ml.formats.report import RARE_CODE_ROWS, DatasetReport, check_dataset
from app.ml.formats.token_lengths import measure_token_lengths
from app.ml.model_store import BaseModelFolder
from app.ml.prompting import PromptRenderer
from app.ml.spec import FinetuneSpec
from app.ml.tokens import load_tokenizer

TRAINING_PURPOSES = ("fine-tune", "evals", "eval")
RESULTS_PURPOSE = "fine-tune-results"
_MAX_NAME_CHARS = 200


def check_upload(
    path: Path,
    options: ReadOptions | None = None,
    *,
    rows_to: Path | None = None,
    compare_with: Iterable[Example] | None = None,
    rare_code_rows: int = RARE_CODE_ROWS,
) -> DatasetReport:
    """Reads an uploaded file, writes its canonical rows to `rows_to` and returns its report.

    Raises:
        InvalidInput: an option is wrong.
        DatasetFormatError: any row is wrong; `details` holds the report's numbers and its first errors, at most 100.
    """
    report = check_dataset(path, options, rows_to=rows_to, compare_with=compare_with, rare_code_rows=rare_code_rows)
    if not report.is_check_passed:
        first = report.errors[0]
        place = f"row {first['row']}" + (f", field {first['field']!r}" if first["field"] else "")
        raise DatasetFormatError(
            f"{report.error_count} row(s) cannot be used. First: {place} {first['reason']}. Repair the file and upload it again.",
            param=str(first["field"]) if first["field"] else "file",
            details={"row": first["row"], "report": report.to_refusal()},
        )
    return report


def token_lengths(rows: Path, base: BaseModelFolder) -> dict[str, object]:
    """Measures canonical rows with a base model's tokenizer, under the spec that a job has by default."""
    spec = FinetuneSpec()
    renderer = PromptRenderer(spec.template)
    lengths = measure_token_lengths(read_canonical(rows), renderer, load_tokenizer(base.path), cutoff_len=spec.cutoff_len)
    return {"base_model": base.name, **lengths}


def create(
    session: Session,
    blobs: BlobStore,
    path: Path,
    *,
    filename: str,
    purpose: str,
    report: DatasetReport | None,
    rows: Path | None = None,
) -> Dataset:
    """Moves a file, and its canonical rows where it is a dataset, into the blob store and stores its row.

    Raises whatever the store or the database raises, and then leaves no blob; after it returned, the caller removes the
    blobs (`forget_uncommitted`) if the transaction fails.
    """
    file_id = new_id("file")
    dataset = Dataset(
        id=file_id,
        purpose="evals" if purpose == "eval" else purpose,
        filename=display_name(filename),
        size_bytes=path.stat().st_size,
        sha256=sha256_of_file(path),
        blob_key=f"files/{file_id}",
        report=report.to_mapping() if report else None,
    )
    try:
        blobs.put_file(dataset.blob_key, path)
        if rows is not None:
            blobs.put_file(rows_key(dataset.blob_key), rows)
        return repository.add(session, dataset)
    except BaseException:
        forget(blobs, dataset.blob_key)
        raise


def forget(blobs: BlobStore, blob_key: str) -> None:
    """Removes the bytes of a file that no row names."""
    blobs.delete(rows_key(blob_key))
    blobs.delete(blob_key)


def forget_uncommitted(blobs: BlobStore, blob_keys: Iterable[str], error: BaseException) -> None:
    """Removes the bytes of files whose transaction ended with `error`, unless their rows may be there all the same."""
    if not may_have_committed(error):
        for blob_key in blob_keys:
            forget(blobs, blob_key)


def fetch_rows(blobs: BlobStore, dataset: Dataset, scratch: Path) -> Path:
    """Returns a local path of a dataset's rows, for `read_examples`; datasets from before there were any are their rows.

    Raises:
        FileNotFoundError: the file was deleted meanwhile.
    """
    key = rows_key(dataset.blob_key)
    return blobs.fetch(key if blobs.exists(key) else dataset.blob_key, scratch)


def read_others(blobs: BlobStore, dataset: Dataset, scratch: Path) -> Iterable[Example]:
    """Returns the rows of a file that another is compared with, as a stream; the stream may raise `NotFound`.

    Raises:
        InvalidInput: it is no dataset.
    """
    if dataset.report is None:
        raise InvalidInput(f"File {dataset.id!r} is no dataset.", param="compare_with")
    return _stored_rows(blobs, dataset, scratch)


def read_preview(blobs: BlobStore, dataset: Dataset, *, offset: int, limit: int) -> list[Example]:
    """Returns up to `limit` rows of a dataset, as jobs read them; reads over the first `offset`.

    Raises:
        InvalidInput: it is no dataset.
        NotFound: it was deleted meanwhile.
    """
    if dataset.report is None:
        raise InvalidInput(f"File {dataset.id!r} is a result, not a dataset. Download it instead.")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return list(islice(iterate_examples(fetch_rows(blobs, dataset, Path(scratch))), offset, offset + limit))
        except FileNotFoundError as error:
            raise NotFound(f"File {dataset.id!r} was deleted meanwhile.") from error


def _stored_rows(blobs: BlobStore, dataset: Dataset, scratch: Path) -> Iterator[Example]:
    try:
        yield from iterate_examples(fetch_rows(blobs, dataset, scratch))
    except FileNotFoundError as error:
        raise NotFound(f"File {dataset.id!r} was deleted meanwhile.", param="compare_with") from error


def delete(session: Session, file_id: str, *, users_of: Iterable[Callable[[Session, str], str | None]]) -> str:
    """Removes a file's row and returns its blob key, to be deleted after the commit.

    Raises:
        NotFound: no such file.
        Conflict: something that is not finished uses it; the message names it.
    """
    dataset = repository.get(session, file_id, for_update=True)
    for find_user in users_of:
        if (user := find_user(session, file_id)) is not None:
            raise Conflict(f"File {file_id!r} is in use by {user}. Cancel that first, or wait for its end.")
    session.delete(dataset)
    return dataset.blob_key


def display_name(filename: str) -> str:
    """Returns a name that is safe to show: NFC, no control characters, no folders, at most 200 characters."""
    name = unicodedata.normalize("NFC", filename.encode("utf-8", "replace").decode())
    name = "".join(char for char in name if unicodedata.category(char)[0] != "C")
    return name.replace("\\", "/").rpartition("/")[2][:_MAX_NAME_CHARS] or "file"
