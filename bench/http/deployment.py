"""The product as `dianda up` starts it, with a scripted engine, an adapter that exists by name only, and the answer log on."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from sqlalchemy import func, select

from app.adapters import aliases
from app.adapters import service as adapters
from app.answers.models import LoggedAnswer
from app.cli.stack import Stack, free_port, running_stack
from app.db.engine import make_engine
from app.db.migrating import upgrade
from app.db.unit_of_work import read_only, unit_of_work
from app.settings import Settings
from bench.http.scripted_room import PASS_MS, WIDTH

MODEL = "telecom@production"
_START_S = 60.0


@dataclass(frozen=True)
class ScriptedEngine:
    """How fast the scripted engine is; a pass of 0 ms has no limit of its own."""

    pass_ms: float = 0.0
    width: int = 1


@dataclass(frozen=True)
class Deployment:
    """A running product."""

    url: str
    settings: Settings
    stack: Stack

    def cpu_seconds(self, name: str) -> float:
        """Returns the processor time that a process of the stack has taken: it tells the cost also beside busy neighbours."""
        process = self.stack.processes[name].process
        assert process is not None
        # The name in brackets may hold spaces; user and system time are the 14th and 15th field.
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def logged_answers(self, expected: int, *, timeout_s: float = 10.0) -> int:
        """Returns how many answers the log has, once it has as many as expected or the time is over."""
        engine = make_engine(self.settings.resolved_database_url)
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                with read_only(engine) as session:
                    found = session.scalar(select(func.count()).select_from(LoggedAnswer)) or 0
                if found >= expected or time.monotonic() > deadline:
                    return found
                time.sleep(0.2)
        finally:
            engine.dispose()


def prepare_database(url: str, *, base_model: str) -> None:
    """Makes the tables, and an alias of an adapter that has a row but no files: the scripted engine needs none."""
    database = make_engine(url)
    upgrade(database)
    with unit_of_work(database) as session:
        adapter = adapters.create(
            session,
            name="telecom",
            base_model=base_model,
            job_id="ftjob-bench",
            checksum="c" * 64,
            blob_key="adapters/bench",
            spec={},
            metrics={},
        )
        aliases.point(session, MODEL, aliases.Move(None, adapter.id, None), aliases.Author())
    database.dispose()


@contextmanager
def deployed(folder: Path, engine: ScriptedEngine, *, deadline_s: float, log: bool) -> Iterator[Deployment]:
    """Starts redis, api and answerer as processes and stops them when the block ends.

    Raises:
        TimeoutError: it does not answer within a minute.
    """
    os.environ[PASS_MS], os.environ[WIDTH] = str(engine.pass_ms), str(engine.width)
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        data_dir=folder,
        port=free_port(),
        answer_timeout_s=deadline_s,
        answer_log=log,
        answer_log_questions="text",
    )
    prepare_database(settings.resolved_database_url, base_model=settings.base_model)
    with running_stack(settings, workers=0, answerer_app="bench.http.scripted_room:create_app") as stack:
        _wait_for_an_answer(stack.url)
        yield Deployment(stack.url, settings, stack)


def _wait_for_an_answer(url: str) -> None:
    body = f'{{"question": "百度流量月包怎么取消", "model": "{MODEL}"}}'.encode()
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        try:
            with urlopen(Request(f"{url}/answer", body, {"content-type": "application/json"}), timeout=5):  # noqa: S310
                return
        except (HTTPError, URLError, OSError):
            time.sleep(0.2)
    raise TimeoutError("The product did not answer within a minute. Its logs are in the data folder.")
