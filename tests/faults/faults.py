"""What can be done to the house. Each fault heals before it returns; one that kills says how long the recovery took."""

import contextlib
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil
import redis
from sqlalchemy import select

from app.db.unit_of_work import read_only
from app.jobs.models import Job
from app.jobs.queue import LOOK_TASK, QUEUE, make_celery
from tests.faults.house import WORKERS, House
from tests.faults.invariants import RECOVERY_LIMIT_S

# What a fault waits for beyond the limit, so that a recovery that is too slow is measured all the same.
_PATIENCE_S = 2 * RECOVERY_LIMIT_S
_QUEUE_KEY = f"dianda:{QUEUE}"


@dataclass(frozen=True)
class Done:
    """What was done, how many SIGKILLs that took, and the seconds from the last of them to the work going on."""

    what: str
    kills: int = 0
    recovery_s: float | None = None


Fault = Callable[[House, random.Random], Done | None]
"""None: there was nothing to do it to."""


def _running(house: House, service: str | None = None) -> dict[str, int]:
    """Returns the running jobs, of one worker or of all, with their fences."""
    with read_only(house.engine) as session:
        rows = session.execute(select(Job.id, Job.fence, Job.lease_owner).where(Job.status == "running")).all()
    pid = None if service is None else f"-{house.pid(service)}"
    return {job_id: fence for job_id, fence, owner in rows if pid is None or str(owner).endswith(pid)}


def _have_moved_on(house: House, jobs: Mapping[str, int]) -> bool:
    """Says whether each job has ended, or has been claimed anew."""
    with read_only(house.engine) as session:
        rows = session.execute(select(Job.id, Job.fence, Job.status).where(Job.id.in_(list(jobs)))).all()
    return all(fence > jobs[job_id] or status in ("succeeded", "failed", "cancelled") for job_id, fence, status in rows)


def _busy_worker(house: House, rng: random.Random) -> str | None:
    busy = [worker for worker in WORKERS if house.trainers(worker)]
    return rng.choice(busy) if busy else None


def _kill(processes: list[psutil.Process]) -> int:
    killed = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            killed += 1
    return killed


def _kill_of_worker(choose: Callable[[House, str], list[psutil.Process]], name: str) -> Fault:
    def kill(house: House, rng: random.Random) -> Done | None:
        worker = _busy_worker(house, rng)
        if worker is None:
            return None
        jobs = _running(house, worker)
        began = time.monotonic()
        kills = _kill(choose(house, worker))
        house.wait(lambda: _have_moved_on(house, jobs) and house.is_ready(worker), _PATIENCE_S)
        return Done(f"kill -9 {name} of {worker}", kills, time.monotonic() - began)

    return kill


def _kill_service(service: str, *, explains: tuple[str, ...]) -> Fault:
    def kill(house: House, rng: random.Random) -> Done:
        began = time.monotonic()
        with house.outage(*explains):
            _kill([psutil.Process(house.pid(service))])
            house.processes[service].process.wait()  # type: ignore[union-attr]
            house.wait(lambda: house.is_ready(service), _PATIENCE_S)
        return Done(f"kill -9 {service}", 1, time.monotonic() - began)

    return kill


def _kill_broker(*, loses_data: bool) -> Fault:
    def kill(house: House, rng: random.Random) -> Done:
        began = time.monotonic()
        process = house.processes["redis"].process
        assert process is not None
        process.kill()
        process.wait()
        if loses_data:
            for path in (house.root / "redis").rglob("*"):
                if path.is_file():
                    path.unlink()
        house.wait(lambda: house.is_ready("redis"), _PATIENCE_S)
        return Done(f"kill -9 the broker, its data {'lost' if loses_data else 'kept'}", 1, time.monotonic() - began)

    return kill


def kill_database(house: House, rng: random.Random) -> Done:
    """Kills every process of PostgreSQL. Nothing excuses the alias: it answers from what it knew last."""
    began = time.monotonic()
    house.postgres.kill()
    house.rest(rng.choice([0, 3]))
    house.wait(lambda: house.is_ready("database") and house.is_ready("api"), _PATIENCE_S)
    return Done("kill -9 PostgreSQL", 1, time.monotonic() - began)


def die_at_a_point(house: House, rng: random.Random) -> Done | None:
    """Starts a worker anew with a fault point that kills it, or a process of its family, and waits for that."""
    point = rng.choice(
        [
            "after_claim",
            "before_rename",
            "after_rename",
            "before_commit_of_checkpoint",
            "before_commit_of_end",
            "after_commit_of_end",
        ]
    )
    worker = _busy_worker(house, rng)
    if worker is None:
        return None
    house.armed[worker] = f"{point}:kill"
    _kill(house.family(worker))
    mark = f"DIANDA_FAULT_POINT={point}:kill happens"
    said = (house.root / "logs" / f"{worker}.log").stat().st_size

    def has_died() -> bool:
        log = (house.root / "logs" / f"{worker}.log").read_text(errors="replace")
        return mark in log[said:] or "child_crashed" in log[said:]

    reached = house.wait(has_died, 75)
    # Disarmed by another start.
    jobs = _running(house, worker)
    began = time.monotonic()
    kills = _kill(house.family(worker))
    house.wait(lambda: _have_moved_on(house, jobs) and house.is_ready(worker), _PATIENCE_S)
    name = f"{worker} made to die at {point}{'' if reached else ' (which it did not reach)'}"
    return Done(name, kills, time.monotonic() - began)


def freeze(house: House, rng: random.Random) -> Done | None:
    """Stops a process, and lets it go on after seconds; a slot sometimes for longer than its lease."""
    victim = rng.choice(["training process", "slot", "worker", "api", "answerer", "redis", "database"])
    seconds = rng.choice([2, 4, 8])
    if victim in ("training process", "slot", "worker"):
        worker = _busy_worker(house, rng)
        if worker is None:
            return None
        by_name = {"training process": house.trainers, "slot": house.slots, "worker": house.family}
        processes = by_name[victim](worker)[:1]
        if victim == "slot" and rng.random() < 0.3:
            seconds = 36
    elif victim == "database":
        processes = house.family("database")
    else:
        processes = [psutil.Process(house.pid(victim))]
    explained = [victim] if victim in ("api", "answerer", "database") else []
    with house.outage(*explained):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
        house.rest(seconds)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
    return Done(f"{victim} frozen for {seconds} s")


def fill_the_disk(house: House, rng: random.Random) -> Done | None:
    """Leaves no byte free under the data folder for some seconds."""
    if not house.has_small_disk:
        return None
    ballast = house.settings.data_dir / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * (1 << 16))
    seconds = rng.choice([2, 5])
    house.rest(seconds)
    ballast.unlink()
    return Done(f"disk full for {seconds} s")


def upset_the_bells(house: House, rng: random.Random) -> Done:
    """Doubles the bells, holds them back and delivers them in another order, or loses them."""
    celery = make_celery(f"redis://127.0.0.1:{house.redis_port}/0")
    kind = rng.choice(["twenty times", "late and out of order", "lost"])
    if kind == "twenty times":
        for number in range(20):
            celery.send_task(LOOK_TASK, args=[f"again-{number}"], queue=QUEUE)
    else:
        deadline = time.monotonic() + 4
        held = []
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.RedisError):
                while (bell := house.broker.lpop(_QUEUE_KEY)) is not None:
                    held.append(bell)
            house.keep_up()
            time.sleep(0.02)
        if kind != "lost":
            rng.shuffle(held)
            for bell in held:
                house.broker.lpush(_QUEUE_KEY, bell)  # type: ignore[arg-type]
    celery.close()
    return Done(f"bells {kind}")


def break_the_network(house: House, rng: random.Random) -> Done:
    """Cuts, stalls or resets one link."""
    name = rng.choice(sorted(house.links))
    kind, seconds = rng.choice(["cut", "stalled", "reset"]), rng.choice([3, 8])
    link = house.links[name]
    explained = {"api-answerer": ["api"], "api-database": ["api"] if kind == "stalled" else []}.get(name, [])
    with house.outage(*explained):
        if kind == "reset":
            link.reset()
        else:
            link.cut() if kind == "cut" else link.stall()
            house.rest(seconds)
            link.heal()
    return Done(f"{name} {kind}" + ("" if kind == "reset" else f" for {seconds} s"))


def skew_the_clocks(house: House, rng: random.Random) -> Done | None:
    """Moves the wall clocks of the api and of a worker by up to two hours for some seconds."""
    if house.clock_library is None:
        return None
    seconds = rng.choice([-7200, -60, 60, 7200])
    house.set_clocks(seconds)
    house.rest(8)
    house.set_clocks(0)
    return Done(f"clocks of api and worker-2 moved by {seconds} s for 8 s")


KILLS: Mapping[str, Fault] = {
    "training process": _kill_of_worker(lambda house, worker: house.trainers(worker), "the training process"),
    "slot": _kill_of_worker(lambda house, worker: house.slots(worker), "the slot"),
    "worker": _kill_of_worker(lambda house, worker: house.family(worker)[:1], "the main process"),
    "whole worker": _kill_of_worker(lambda house, worker: house.family(worker), "every process"),
    "api": _kill_service("api", explains=("api",)),
    "answerer": _kill_service("answerer", explains=("answerer",)),
    "broker": _kill_broker(loses_data=False),
    "broker with its data": _kill_broker(loses_data=True),
    "database": kill_database,
    "fault point": die_at_a_point,
}
OTHERS: Mapping[str, Fault] = {
    "freeze": freeze,
    "full disk": fill_the_disk,
    "bells": upset_the_bells,
    "network": break_the_network,
    "clocks": skew_the_clocks,
}
