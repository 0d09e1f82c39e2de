"""Rounds of faults at random moments, and a check after each."""

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.faults.faults import KILLS, OTHERS, Fault
from tests.faults.history import Books, read_history
from tests.faults.house import House
from tests.faults.invariants import TERMINAL, History, Recovery, find_violations, is_explained
from tests.faults.visitors import ALIAS, Asker, ask, insist
from tests.fixtures.tiny import TINY

# Of three faults two are kills.
_KILL_SHARE = 0.67
_FAULTS_A_ROUND = 4
_END_S = 300.0
QUESTIONS = [f"问题{row}号怎么办" for row in range(6)]
_ANSWERS = ("取消方式_1", "开通方式_2|9.9", "业务简介_11", "11.9")


@dataclass
class Driver:
    """One run of the suite."""

    house: House
    rng: random.Random
    kills_wanted: int
    evidence: Path
    books: Books = field(default_factory=Books)
    files: dict[str, str] = field(default_factory=dict)
    """Recipe -> its training file."""
    rounds: int = 0
    kills: int = 0
    done: Counter[str] = field(default_factory=Counter)
    violations: list[dict[str, Any]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def run(self) -> dict[str, Any]:
        """Runs rounds until enough was killed, and returns the figures."""
        began = time.monotonic()
        asker = Asker(self.house.url, QUESTIONS)
        try:
            self._make_twins(asker)
            asker.start()
            while self.kills < self.kills_wanted:
                self._round(asker)
        finally:
            asker.stop()
        history = read_history(self.house, self.books, asker)
        return self._figures(history, time.monotonic() - began)

    def _make_twins(self, asker: Asker) -> None:
        for recipe, shift in (("A", 0), ("B", 1)):
            path = self.house.root / f"rows-{recipe}.json"
            rows = [
                {"instruction": f"问题{row}号怎么办", "input": "", "output": _ANSWERS[(row + shift) % len(_ANSWERS)]}
                for row in range(16)
            ]
            path.write_text(json.dumps(rows, ensure_ascii=False))
            with path.open("rb") as file:
                reply = httpx2.post(
                    f"{self.house.url}/v1/files", files={"file": (path.name, file)}, data={"purpose": "fine-tune"}, timeout=60
                )
            self.files[recipe] = reply.raise_for_status().json()["id"]
            self._post_job(recipe, f"twin-{recipe}")
        if not self.house.wait(lambda: not self._unfinished(), _END_S):
            raise AssertionError(f"the jobs do not end even if left alone\n{self.house.tail('worker-1')}")
        stories = read_history(self.house, self.books, asker).jobs
        self.books.twins = {job.recipe: job for job in stories}
        for job in stories:
            assert job.status == "succeeded", job
            for question in QUESTIONS:
                with httpx2.Client(base_url=self.house.url, timeout=60) as client:
                    probe = ask(client, question, job.adapters[0])
                assert probe.answer is not None, probe
                self.books.known_answers[job.adapters[0], question] = probe.answer
        answers = [[self.books.known_answers[job.adapters[0], question] for question in QUESTIONS] for job in stories]
        assert answers[0] != answers[1], "the two adapters answer alike, so a mixed answer would not be seen"
        self._promote()

    def _promote(self) -> None:
        adapter = self.rng.choice([twin.adapters[0] for twin in self.books.twins.values()])
        insist(self.house.url, "PUT", f"/v1/aliases/{ALIAS}", body={"to": adapter}, key=None, rest=self.house.rest)

    def _round(self, asker: Asker) -> None:
        self.rounds += 1
        log: list[str] = []
        for number in range(_FAULTS_A_ROUND):
            if self.kills >= self.kills_wanted:
                break
            while len(self._unfinished()) < 2:
                self._post_job(self.rng.choice("AB"), f"r{self.rounds}-{number}-{len(self.books.accepted)}")
            self.house.rest(self.rng.uniform(0, 6))
            name, fault = self._draw()
            said = fault(self.house, self.rng)
            if said is None:
                continue
            self.kills += said.kills and 1
            self.done[name] += 1
            log.append(said.what)
            if said.recovery_s is not None:
                self.books.recoveries.append(Recovery(said.what, said.recovery_s))
            self._say(f"{self.kills:3} {said.what}" + ("" if said.recovery_s is None else f": {said.recovery_s:.1f} s"))
        self.house.wait(lambda: not self._unfinished(), _END_S)
        self.house.wait(lambda: not self.house.trainers(), 45)
        self._promote()
        # What the asker asked last has come back.
        self.house.rest(1.5)
        self._check(read_history(self.house, self.books, asker), log)

    def _draw(self) -> tuple[str, Fault]:
        choices = KILLS if self.rng.random() < _KILL_SHARE else OTHERS
        name = self.rng.choice(sorted(choices))
        return name, choices[name]

    def _post_job(self, recipe: str, key: str) -> None:
        asked = {"preset": "quick", "lora_rank": 4, "precision": "fp32", "learning_rate": 3e-3, "n_epochs": 150, "save_steps": 40}
        body = {
            "model": TINY,
            "training_file": self.files[recipe],
            "suffix": key,
            "seed": 5,
            "method": {"type": "supervised", "supervised": {"hyperparameters": asked}},
        }
        job = insist(self.house.url, "POST", "/v1/fine_tuning/jobs", body=body, key=key, rest=self.house.rest)
        self.books.accepted[key] = job["id"]
        self.books.recipes[job["id"]] = recipe

    def _unfinished(self) -> list[str]:
        from sqlalchemy import select
        from sqlalchemy.exc import OperationalError

        from app.db.unit_of_work import read_only
        from app.jobs.models import Job

        try:
            with read_only(self.house.engine) as session:
                return list(session.scalars(select(Job.id).where(Job.status.not_in(TERMINAL))))
        except OperationalError:
            return ["unknown"]

    def _check(self, history: History, log: list[str]) -> None:
        for line in find_violations(history):
            if line in self.seen:
                continue
            self.seen.add(line)
            self.violations.append({"round": self.rounds, "violation": line, "faults": log})
            self._say(f"VIOLATION in round {self.rounds}: {line}")
        if any(violation["round"] == self.rounds for violation in self.violations):
            self._keep_evidence(history)
        failed = sum(job.status == "failed" for job in history.jobs)
        self._say(f"round {self.rounds}: {len(history.jobs)} jobs, {failed} of them failed, {len(self.violations)} violations")

    def _keep_evidence(self, history: History) -> None:
        folder = self.evidence / f"round-{self.rounds}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "violations.json").write_text(json.dumps(self.violations, ensure_ascii=False, indent=1))
        (folder / "jobs.txt").write_text("\n".join(map(str, history.jobs)))
        (folder / "outages.txt").write_text("\n".join(map(str, history.outages)))
        for service in self.house.processes:
            (folder / f"{service}.log").write_text(self.house.tail(service, 200_000))
        (folder / "database.log").write_bytes((self.house.postgres.root / "log").read_bytes()[-200_000:])

    def _figures(self, history: History, seconds: float) -> dict[str, Any]:
        recoveries = sorted(recovery.seconds for recovery in self.books.recoveries)
        failed = [probe for probe in history.probes if probe.error is not None]
        return {
            "rounds": self.rounds,
            "kills": self.kills,
            "faults": dict(sorted(self.done.items())),
            "left_out": list(_left_out(self.house)),
            "jobs": len(history.jobs),
            "jobs_failed_with_an_error": sum(job.status == "failed" for job in history.jobs),
            "answers": len(history.probes) - len(failed),
            "answers_missed_while_down": sum(is_explained(probe, history.outages) for probe in failed),
            "violations": len(self.violations),
            "recovery_s": {"p50": round(recoveries[len(recoveries) // 2], 1), "max": round(recoveries[-1], 1)}
            if recoveries
            else {},
            "seconds": round(seconds),
        }

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _left_out(house: House) -> Iterator[str]:
    if not house.has_small_disk:
        yield "full disk: no tmpfs can be mounted here"
    if house.clock_library is None:
        yield "clocks: there is no C compiler here"
