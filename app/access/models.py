"""The tables of access."""

from typing import Any

from sqlalchemy import LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, JsonMapping


class ApiKey(Base):
    """A key, without its secret. A row never changes but for `revoked_at`."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    prefix: Mapped[str] = mapped_column(String(16), unique=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    """SHA-256 of the secret."""
    scope: Mapped[str] = mapped_column(String(16))
    requests_per_minute: Mapped[int | None]
    """None: the deployment's."""
    max_concurrent: Mapped[int | None]
    """None: the deployment's."""
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class AuditEntry(Base):
    """One act that needs the scope admin, or a deletion of what was measured."""

    __tablename__ = "audit_log"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    created_at: Mapped[float]
    actor: Mapped[str] = mapped_column(String(100))
    """The key's name, `operator:<user>` on the host, or `anonymous` where no keys are asked for."""
    key_id: Mapped[str | None] = mapped_column(String(64))
    act: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(200))
    details: Mapped[dict[str, Any] | None] = mapped_column(JsonMapping)
    request_id: Mapped[str | None] = mapped_column(String(64))
