"""The product as processes behind links, started again when they die, and a record of what was down when."""

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
import psycopg
import redis
from sqlalchemy import Engine

from app.cli.stack import ManagedProcess, find_redis_server, free_port, worker_command
from app.db.engine import make_engine
from app.db.migrating import upgrade
from app.settings import Settings
from bench.tiny_product import tiny_product
from tests.faults.network import Link, Network
from tests.fixtures.db import PostgresFolder

WORKERS = ("worker-1", "worker-2")
_CLOCK_SOURCE = Path(__file__).with_name("clock.c")
# As a container's: long enough not to spin, short enough to be no part of a recovery.
_RESTART_PAUSE_S = 0.5
_DISK_BYTES = 192 << 20


@dataclass
class Outage:
    """When something could not answer, on `time.monotonic`; `ended` is infinite while it lasts."""

    what: str
    began: float
    ended: float = float("inf")


@dataclass
class House:
    """Redis, PostgreSQL, api, answerer and two workers; everything is driven from the thread that opened it."""

    root: Path
    settings: Settings
    processes: dict[str, ManagedProcess]
    links: dict[str, Link]
    postgres: PostgresFolder
    engine: Engine
    """Straight to the database, past every link."""
    has_small_disk: bool
    clock_library: Path | None
    """None: there is no C compiler here."""
    redis_port: int
    answerer_port: int
    armed: dict[str, str] = field(default_factory=dict)
    """Service -> the fault point of its next start alone."""
    outages: list[Outage] = field(default_factory=list)
    on_tick: list[Callable[[], None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where the api listens."""
        return f"http://127.0.0.1:{self.settings.port}"

    @property
    def broker(self) -> "redis.Redis":
        """The broker, past every link."""
        return redis.Redis(port=self.redis_port, socket_timeout=5)

    def keep_up(self) -> None:
        """Starts again what has died, as compose and systemd would."""
        for name, process in self.processes.items():
            if process.exit_code is None or time.monotonic() - process.started_at < _RESTART_PAUSE_S:
                continue
            fault = self.armed.pop(name, "")
            process.environment = {**process.environment, "DIANDA_FAULT_POINT": fault}
            process.start()
        if not self.postgres.is_running:
            self.postgres.start()
        for tick in self.on_tick:
            tick()

    def rest(self, seconds: float) -> None:
        """Lets time pass."""
        self.wait(lambda: False, seconds)

    def wait(self, until: Callable[[], object], timeout_s: float) -> bool:
        """Keeps everything up until something holds; False where it does not in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.keep_up()
            if until():
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)

    def pid(self, service: str) -> int:
        """Returns the main process of a service."""
        process = self.postgres.process if service == "database" else self.processes[service].process
        assert process is not None
        return process.pid

    def family(self, service: str) -> list[psutil.Process]:
        """Returns a service's processes, the main one first."""
        try:
            main = psutil.Process(self.pid(service))
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def trainers(self, service: str | None = None) -> list[psutil.Process]:
        """Returns the running training processes, of one worker or of all that ever were."""
        found = self.family(service) if service else list(psutil.process_iter())
        return [process for process in found if _is_trainer(process, self.root)]

    def slots(self, service: str) -> list[psutil.Process]:
        """Returns a worker's pool processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.pid(service))
            return [child for child in main.children() if not _is_trainer(child, self.root)]
        return []

    def is_ready(self, service: str) -> bool:
        """Says whether a service does its work."""
        try:
            if service == "redis":
                return bool(self.broker.ping())
            if service == "database":
                psycopg.connect(self.postgres.admin_url, connect_timeout=2).close()
                return True
            if service in WORKERS:
                return bool(self.slots(service))
            urls = {"api": f"{self.url}/health/ready", "answerer": f"http://127.0.0.1:{self.answerer_port}/health"}
            return httpx2.get(urls[service], timeout=5).status_code == 200
        except (httpx2.HTTPError, redis.RedisError, psycopg.Error, OSError):
            return False

    @contextlib.contextmanager
    def outage(self, *services: str) -> Iterator[None]:
        """Notes that services cannot answer from now until the block has ended and each is ready again."""
        noted = [Outage(service, time.monotonic()) for service in services]
        self.outages += noted
        yield
        for one in noted:
            if not self.wait(lambda one=one: self.is_ready(one.what), 90):  # type: ignore[misc]
                raise AssertionError(f"{one.what} did not become ready\n{self.tail(one.what)}")
            # What was under way when it came back may still fail.
            one.ended = time.monotonic() + 1

    def tail(self, service: str, size: int = 3000) -> str:
        """Returns the end of a service's log."""
        log = self.root / "logs" / f"{service}.log"
        return log.read_text(errors="replace")[-size:] if log.exists() else ""

    def set_clocks(self, seconds: int) -> None:
        """Moves the wall clocks of the api and of the second worker."""
        # In place, and at once: the processes have the file's page in their memory.
        with (self.root / "clock").open("r+b") as file:
            file.write(struct.pack("q", seconds))


def _is_trainer(process: psutil.Process, root: Path) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return "worker.child" in command and any(str(root) in part for part in command)


@contextlib.contextmanager
def open_house(root: Path) -> Iterator[House]:
    """Starts everything in a folder of its own and waits until all of it is ready; ends and removes it afterwards."""
    data = root / "data"
    data.mkdir(parents=True)
    (root / "logs").mkdir()
    has_small_disk = _mount(data)
    # Every commit outlives the processes; only a power cut is not played.
    postgres = PostgresFolder(port=free_port(), settings=("fsync=off", "full_page_writes=off", "max_connections=200"))
    network = Network()
    house = None
    try:
        postgres.start()
        redis_port, answerer_port = free_port(), free_port()
        settings = tiny_product(data, answer_timeout_s=10, stop_grace_s=30)
        engine = make_engine(postgres.url_through(postgres.port or 0))
        upgrade(engine)
        links = {f"{name}-database": network.link(postgres.port or 0) for name in ("api", *WORKERS)}
        links |= {f"{name}-redis": network.link(redis_port) for name in ("api", *WORKERS)}
        links["api-answerer"] = network.link(answerer_port)
        house = House(root, settings, {}, links, postgres, engine, has_small_disk, _build_clock(root), redis_port, answerer_port)
        (root / "clock").write_bytes(bytes(8))
        _furnish(house)
        for process in house.processes.values():
            process.start()
        for service in (*house.processes, "database"):
            assert house.wait(lambda service=service: house.is_ready(service), 300), (
                f"{service} did not start: {house.tail(service)}"
            )  # type: ignore[misc]
        yield house
    finally:
        if house is not None:
            for process in house.processes.values():
                for one in house.family(process.name):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.send_signal(signal.SIGKILL)
            house.engine.dispose()
        postgres.stop()
        if has_small_disk:
            subprocess.run(["umount", "-l", str(data)], check=False)


def _furnish(house: House) -> None:
    python = [sys.executable, "-m"]
    uvicorn = [*python, "uvicorn", "--factory", "--no-access-log", "--log-level", "warning", "--host", "127.0.0.1"]
    graceful = ["--timeout-graceful-shutdown", "10"]
    redis_folder = house.root / "redis"
    redis_folder.mkdir()
    broker = [find_redis_server(), "--port", str(house.redis_port), "--dir", str(redis_folder)]
    broker += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"]
    commands = {
        "redis": broker,
        "answerer": [*uvicorn, "app.answerer.main:create_app", "--port", str(house.answerer_port), *graceful],
        "api": [*uvicorn, "app.main:create_app", "--port", str(house.settings.port), *graceful],
        **{name: [*worker_command(), "-n", f"{name}@here"] for name in WORKERS},
    }
    for name, command in commands.items():
        environment = {**os.environ, **house.settings.environment(), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        if f"{name}-database" in house.links:
            environment["DIANDA_DATABASE_URL"] = house.postgres.url_through(house.links[f"{name}-database"].port)
            environment["DIANDA_BROKER_URL"] = f"redis://127.0.0.1:{house.links[f'{name}-redis'].port}/0"
        if name == "api":
            environment["DIANDA_ANSWERER_URL"] = f"http://127.0.0.1:{house.links['api-answerer'].port}"
        if name in ("api", "worker-2") and house.clock_library is not None:
            environment |= {"LD_PRELOAD": str(house.clock_library), "FAULTS_CLOCK": str(house.root / "clock")}
        house.processes[name] = ManagedProcess(name, command, environment, house.root / "logs" / f"{name}.log")


def _mount(folder: Path) -> bool:
    """Puts a small disk under a folder; False where this user may not."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _build_clock(root: Path) -> Path | None:
    """Compiles the wall clock that can be moved; libfaketime is no use, under it `time.sleep` fails in Python 3.11."""
    compiler, library = shutil.which("cc"), root / "clock.so"
    if compiler is None:
        return None
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_CLOCK_SOURCE), "-ldl"], check=True)
    return library
