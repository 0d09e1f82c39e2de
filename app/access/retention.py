"""How long admin acts stay in the audit log: a step of the api's upkeep, a bounded number of deletions a round."""

from sqlalchemy import Engine, delete, select

from app.access.models import AuditEntry
from app.db.clock import db_now
from app.db.unit_of_work import unit_of_work

_DAY_S = 86_400.0
_DELETED_A_ROUND = 1000


class AuditRetention:
    """Deletes entries that are older than `days`."""

    def __init__(self, engine: Engine, *, days: float) -> None:
        self._engine = engine
        self._days = days

    def enforce(self) -> int:
        """Runs one round of at most 1,000 deletions, the oldest first, and returns how many there were."""
        with unit_of_work(self._engine) as session:
            oldest = select(AuditEntry.number).order_by(AuditEntry.number).limit(_DELETED_A_ROUND)
            old = session.scalars(oldest.where(AuditEntry.created_at < db_now() - self._days * _DAY_S)).all()
            if old:
                session.execute(delete(AuditEntry).where(AuditEntry.number.in_(old)))
        return len(old)
