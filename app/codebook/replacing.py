"""A replacement of the book from end to end: written, audited, seen by answers; the HTTP dialect and the console alike."""

from collections.abc import Callable, Sequence

from sqlalchemy import Engine

from app.access import audit
from app.access.callers import Caller
from app.codebook import service
from app.codebook.entries import Entry
from app.db.unit_of_work import after_commit, unit_of_work


def replace_book(
    engine: Engine, entries: Sequence[Entry], *, caller: Caller, forget_texts: Callable[[], None]
) -> service.Replaced:
    """Makes the book exactly these entries; `forget_texts` makes this process's answers read it anew."""
    with unit_of_work(engine) as session:
        replaced = service.replace(session, entries)
        counts = {"version": replaced.version, "added": replaced.added, "changed": replaced.changed, "removed": replaced.removed}
        audit.record(session, caller, "codebook.replaced", "codebook", details=counts)
        after_commit(session, forget_texts)
    return replaced
