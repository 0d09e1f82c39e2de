"""The log of admin acts and deleted measurements: a row in the act's own transaction; neither is there without the other."""

from typing import Any

import structlog
from sqlalchemy.orm import Session

from app.access import repository
from app.access.callers import Caller
from app.access.models import AuditEntry
from app.db.unit_of_work import after_commit

_log = structlog.get_logger()


def record(session: Session, caller: Caller, act: str, target: str, *, details: dict[str, Any] | None = None) -> None:
    """Keeps who did what to what, and logs it once it is done; `details` hold no secret and no text of a customer."""
    session.add(
        AuditEntry(
            created_at=repository.now(session),
            actor=caller.name[:100],
            key_id=caller.key_id,
            act=act,
            target=target[:200],
            details=details,
            request_id=structlog.contextvars.get_contextvars().get("request_id"),
        )
    )
    after_commit(session, lambda: _log.info("admin_act", actor=caller.name, key_id=caller.key_id, act=act, target=target[:200]))
