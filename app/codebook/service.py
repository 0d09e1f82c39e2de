"""What may be done with the code book."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from app.adapters import service as adapters
from app.blobs.keys import adapter_key
from app.blobs.store import BlobStore
from app.codebook import repository
from app.codebook.entries import Entry, InvalidCodebook
from app.errors import InvalidInput, NotFound
from app.ml.adapter_card import read_card
from app.ml.codes import VALUE_CATEGORY, category_of
from app.ml.model_store import ModelStore


@dataclass(frozen=True)
class Replaced:
    """What a replacement did."""

    version: int
    updated_at: float | None
    entries: int
    added: int
    changed: int
    removed: int


@dataclass(frozen=True)
class CodesOfBook:
    """The book's codes as they were at one version."""

    version: int
    codes: tuple[str, ...]


@dataclass(frozen=True)
class Coverage:
    """How the book and an adapter's vocabulary fit together; all in the order of the adapter's or the book's codes."""

    adapter_id: str
    codes: int
    codes_without_text: tuple[str, ...]
    """Codes with a number at their end, such as `开通方式_98`."""
    values_without_text: tuple[str, ...]
    """All other codes, such as `11.9`, which mostly speak for themselves."""
    texts_without_code: tuple[str, ...]
    """Codes that the book has a text for and the adapter never answers with."""


def replace(session: Session, entries: Sequence[Entry]) -> Replaced:
    """Makes the book exactly these entries; the version moves on only if something is different."""
    book = repository.get_book(session, for_update=True)
    old = {entry.code: entry for entry in repository.read_entries(session)}
    new = {entry.code: entry for entry in entries}
    removed = [code for code in old if code not in new]
    changed = [entry for code, entry in new.items() if code in old and old[code] != entry]
    added = [entry for code, entry in new.items() if code not in old]
    if removed or changed or added:
        now = repository.now(session)
        repository.remove(session, [*removed, *(entry.code for entry in changed)])
        repository.add(session, [*changed, *added], now=now)
        book.version, book.updated_at = book.version + 1, now
        session.flush()
    return Replaced(book.version, book.updated_at, len(new), len(added), len(changed), len(removed))


def get_codes(session: Session, *, param: str) -> CodesOfBook:
    """Returns the book's codes, for a job's vocabulary.

    Raises:
        InvalidCodebook: the book is empty.
    """
    version = repository.get_book(session).version
    codes = repository.codes(session)
    if not codes:
        raise InvalidCodebook("The code book is empty. Fill it with PUT /v1/codebook first.", param=param)
    return CodesOfBook(version, tuple(codes))


def cover(session: Session, blobs: BlobStore, store: ModelStore, model: str, *, scratch: Path) -> Coverage:
    """Compares the book with the vocabulary of the adapter that a model name stands for.

    Raises:
        NotFound: no such model, or its files are gone.
        InvalidInput: it is a base model, which has no vocabulary.
    """
    resolved = adapters.resolve(session, model, store)
    if resolved.adapter_id is None or resolved.adapter_checksum is None:
        raise InvalidInput(f"{model!r} is a base model and has no codes. Name an adapter, such as telecom:7.", param="model")
    try:
        card = read_card(blobs.fetch(adapter_key(resolved.adapter_checksum), scratch))
    except FileNotFoundError as error:
        raise NotFound(f"The files of adapter {resolved.adapter_id!r} are gone. Train it again.", param="model") from error
    with_text = {entry.code for entry in repository.read_entries(session) if entry.text is not None}
    silent = [code for code in card.vocabulary.codes if code not in with_text]
    return Coverage(
        adapter_id=resolved.adapter_id,
        codes=len(card.vocabulary.codes),
        codes_without_text=tuple(code for code in silent if category_of(code) != VALUE_CATEGORY),
        values_without_text=tuple(code for code in silent if category_of(code) == VALUE_CATEGORY),
        texts_without_code=tuple(sorted(with_text - set(card.vocabulary.codes))),
    )
