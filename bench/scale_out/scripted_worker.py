"""The worker as it is, but for the module that its child processes run."""

from worker import supervision
from worker.main import app

__all__ = ["app"]  # what `celery -A` looks for

supervision.CHILD = "bench.scale_out.scripted_child"
