"""What Prometheus is told of the queue, the workers and the disk, counted when it asks."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import structlog
from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import Engine, func, select

from app.db.clock import db_now
from app.db.unit_of_work import read_only
from app.jobs import repository
from app.jobs.models import Job
from app.jobs.states import CLAIMABLE

_log = structlog.get_logger()


class JobGauges:
    """A collector; it yields no numbers of the database while that is away."""

    def __init__(self, engine: Engine, *, lease_s: float, data_dir: Path) -> None:
        self._engine = engine
        self._lease_s = lease_s
        self._data_dir = data_dir

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yields each gauge."""
        jobs = GaugeMetricFamily("dianda_jobs", "Jobs by status.", labels=["status"])
        workers = GaugeMetricFamily("dianda_workers", "Workers that gave a sign of life within one lease.")
        waited = GaugeMetricFamily("dianda_oldest_due_job_seconds", "Seconds that the job which has been due longest waits.")
        try:
            with read_only(self._engine) as session:
                for status, count in repository.count_by_status(session).items():
                    jobs.add_metric([status], count)
                workers.add_metric([], len(repository.live_workers(session, within_s=self._lease_s)))
                due = [status.value for status in CLAIMABLE]
                oldest = session.scalar(select(db_now() - func.min(Job.due_at)).where(Job.status.in_(due)))
                waited.add_metric([], max(0.0, oldest or 0.0))
        except Exception:
            _log.warning("job_gauges_unavailable")
        yield from (jobs, workers, waited)
        free = GaugeMetricFamily("dianda_data_free_bytes", "Bytes free on the data folder's file system.")
        free.add_metric([], shutil.disk_usage(self._data_dir).free)
        yield free
