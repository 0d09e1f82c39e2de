"""Queries over keys and the audit log."""

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from app.access.models import ApiKey, AuditEntry
from app.db.clock import db_now


def list_in_force(session: Session, *, limit: int) -> list[ApiKey]:
    """Returns the keys that are neither revoked nor over their time."""
    return list(session.scalars(_in_force().order_by(ApiKey.created_at, ApiKey.id).limit(limit)))


def list_all(session: Session, *, limit: int) -> list[ApiKey]:
    """Returns keys, the newest first, revoked ones too."""
    return list(session.scalars(select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id.desc()).limit(limit)))


def count_in_force(session: Session) -> int:
    """Returns how many keys are neither revoked nor over their time."""
    return session.scalar(select(func.count()).select_from(_in_force().subquery())) or 0


def find_by_name(session: Session, name: str) -> ApiKey | None:
    """Returns the key in force that has a name."""
    return session.scalars(_in_force().where(ApiKey.name == name)).first()


def find(session: Session, id_or_prefix: str) -> ApiKey | None:
    """Returns a key by its id or its shown part, revoked or not."""
    return session.scalars(select(ApiKey).where(or_(ApiKey.id == id_or_prefix, ApiKey.prefix == id_or_prefix))).first()


def audit_page(session: Session, *, before: int | None, limit: int) -> list[AuditEntry]:
    """Returns admin acts, the newest first, those before a number."""
    query = select(AuditEntry).order_by(AuditEntry.number.desc())
    return list(session.scalars((query if before is None else query.where(AuditEntry.number < before)).limit(limit)))


def now(session: Session) -> float:
    """Returns the database's time, seconds since 1970."""
    return session.scalar(select(db_now())) or 0.0


def _in_force() -> Select[ApiKey]:
    return select(ApiKey).where(ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > db_now()))
