"""Is this host's worker alive? `python -m worker.health`: what a container's health check runs; exit code 0 means yes."""

import socket
import sys

from app.db.engine import make_engine
from app.db.unit_of_work import read_only
from app.jobs import repository
from app.settings import Settings


def main() -> int:
    """Looks for a sign of life of this host within one lease."""
    settings = Settings()
    host = socket.gethostname()
    with read_only(make_engine(settings.resolved_database_url)) as session:
        hosts = {worker.facts.get("host") for worker in repository.live_workers(session, within_s=settings.lease_s)}
    if host in hosts:
        return 0
    sys.stderr.write(f"No worker on {host} has given a sign of life for {settings.lease_s:g} s.\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
