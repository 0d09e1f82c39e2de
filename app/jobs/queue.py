"""The doorbell: Celery over Redis or RabbitMQ. A message says *look*; losing or doubling one changes nothing."""

from typing import Protocol

import structlog
from celery import Celery
from kombu.exceptions import ChannelError, OperationalError
from prometheus_client import Counter
from redis.exceptions import RedisError

LOOK_TASK = "jobs.look"
QUEUE = "gpu"

_log = structlog.get_logger()
_BROKER_AWAY = (OperationalError, RedisError, OSError)
_NO_SUCH_QUEUE = "404"  # AMQP 0-9-1's reply code not-found; kombu's Redis transport writes it as text
# A health check asks, and its asker waits 5 s at most; kombu would try for 6.
_ONE_TRY = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
_BELLS = Counter("dianda_bells_total", "Bells rung after a commit.", ["outcome"])


class Doorbell(Protocol):
    """Tells workers to look for work."""

    def ring(self, job_id: str) -> None:
        """Sends one bell; a broker that is away is logged and counted, never raised."""
        ...

    def waiting(self) -> int | None:
        """Returns how many bells nobody has heard yet; None where the broker is away."""
        ...


class SilentDoorbell:
    """Rings nowhere: for a worker, which looks for work again by itself. Other workers hear of it from the upkeep loop."""

    def ring(self, job_id: str) -> None:
        """Does nothing."""

    def waiting(self) -> int | None:
        """Knows of none."""
        return None


def make_celery(broker_url: str) -> Celery:
    """Returns the Celery app that both ends share; why each setting: docs/reliability.md."""
    app = Celery("dianda", broker=broker_url)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": 3600,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "socket_connect_timeout": 5,
            "socket_timeout": 30,
            "health_check_interval": 25,
            "global_keyprefix": "dianda:",
        },
        # The lease, not the acknowledgement, protects a job: a bell is acknowledged at once.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_pool="prefork",
        worker_concurrency=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_create_missing_queues=True,
        task_default_queue=QUEUE,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_max": 0.2},
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


class CeleryDoorbell:
    """Rings by task name, so that the API never imports the worker."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery

    def ring(self, job_id: str) -> None:
        """Sends one bell."""
        try:
            self._celery.send_task(LOOK_TASK, args=[job_id], queue=QUEUE)
        except Exception as error:  # every transport has its own errors
            _BELLS.labels("lost").inc()
            _log.warning("bell_lost", job_id=job_id, error=type(error).__name__)
        else:
            _BELLS.labels("sent").inc()

    def waiting(self) -> int | None:
        """Asks the broker for the queue's length."""
        try:
            with self._celery.connection_for_write(transport_options=_ONE_TRY) as connection:
                return int(connection.default_channel.queue_declare(QUEUE, passive=True).message_count)
        except ChannelError as error:
            return 0 if str(error.reply_code) == _NO_SUCH_QUEUE else None
        except _BROKER_AWAY:
            return None
