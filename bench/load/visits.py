"""What visitors of the product do, each visit one kind of request; a visit raises `Failed` for what is no success."""

import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.tiny_gemma import TINY

ALIAS = "load@production"
_ANSWERS = ("取消方式_1", "开通方式_2|9.9", "业务简介_11", "11.9")
_PAGES = ("", "/console/jobs", "/console/datasets", "/console/evaluations", "/console/answers", "/console/models")


class Failed(Exception):
    """A reply that is no success; the text is its status and code."""


@dataclass
class Visitor:
    """What the visits share: one address, its connections, and what was made so far."""

    session: aiohttp.ClientSession
    training_file: str
    test_file: str
    jobs: list[str] = field(default_factory=list)
    evaluations: list[str] = field(default_factory=list)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def _ask(self, method: str, path: str, **options: Any) -> bytes:
        # Nobody follows a redirect unseen: the overview's address answers itself.
        async with self.session.request(method, path, **options) as response:
            body = await response.read()
            if response.status >= 400:
                raise Failed(f"{response.status} {body[:160].decode(errors='replace')}")
            return body

    async def answer(self) -> None:
        """Asks one question."""
        body = {"question": f"问题{next(self.numbers) % 500}号怎么办", "model": ALIAS, "alternatives": 1}
        given = json.loads(await self._ask("POST", "/answer", json=body))
        if not given["codes"]:
            raise Failed("an answer without codes")

    async def batch(self) -> None:
        """Asks eight questions at once."""
        questions = [f"问题{next(self.numbers) % 500}号" for _ in range(8)]
        given = json.loads(await self._ask("POST", "/answer/batch", json={"questions": questions, "model": ALIAS}))
        if len(given["data"]) != len(questions):
            raise Failed("a batch with answers missing")

    async def page(self) -> None:
        """Looks at a page of the console."""
        await self._ask("GET", _PAGES[next(self.numbers) % len(_PAGES)] or "/")

    async def upload(self) -> None:
        """Uploads a dataset of 64 rows, and removes it again."""
        number = next(self.numbers)
        form = aiohttp.FormData()
        form.add_field("purpose", "fine-tune")
        form.add_field("file", dataset(64, seed=number), filename=f"load-{number}.json")
        made = json.loads(await self._ask("POST", "/v1/files", data=form))
        await self._ask("DELETE", f"/v1/files/{made['id']}")

    async def look(self) -> None:
        """Lists jobs and looks at the newest."""
        listed = json.loads(await self._ask("GET", "/v1/fine_tuning/jobs", params={"limit": "5"}))
        await self._ask("GET", f"/v1/fine_tuning/jobs/{listed['data'][0]['id']}")

    async def job(self) -> None:
        """Posts a job of seconds."""
        made = json.loads(await self._ask("POST", "/v1/fine_tuning/jobs", json=job_request(self.training_file, "load")))
        self.jobs.append(made["id"])

    async def evaluation(self) -> None:
        """Posts an evaluation."""
        made = json.loads(await self._ask("POST", "/v1/evaluations", json={"model": ALIAS, "file": self.test_file}))
        self.evaluations.append(made["id"])

    async def stream(self) -> None:
        """Follows the newest job's events for at most five seconds; they must come in order, without gaps.

        A stream that an api cuts as it stops is made again behind its last event, as any client of such streams does.
        """
        if not self.jobs:
            return
        path = f"/v1/fine_tuning/jobs/{self.jobs[-1]}/events"
        place = _Place(self.session.loop.time() + 5)
        for is_last_try in (False, True):
            try:
                await self._follow(path, place)
                break
            except aiohttp.ClientPayloadError:
                if is_last_try:
                    raise

    async def _follow(self, path: str, place: "_Place") -> None:
        patience = aiohttp.ClientTimeout(total=None, sock_read=20)
        headers = {"last-event-id": str(place.last)}
        async with self.session.get(path, params={"stream": "true"}, headers=headers, timeout=patience) as response:
            if response.status >= 400:
                raise Failed(f"{response.status}")
            async for line in response.content:
                if line.startswith(b"id: "):
                    number = int(line[4:])
                    if number != place.last + 1:
                        raise Failed(f"event {number} after {place.last}")
                    place.last = number
                if line.startswith(b"data: [DONE]") or self.session.loop.time() > place.ends_at:
                    return


@dataclass
class _Place:
    """How far a stream was read, and until when it is."""

    ends_at: float
    last: int = 0


KINDS: Mapping[str, Callable[[Visitor], Awaitable[None]]] = {
    "answer": Visitor.answer,
    "batch": Visitor.batch,
    "page": Visitor.page,
    "look": Visitor.look,
    "upload": Visitor.upload,
    "stream": Visitor.stream,
    "job": Visitor.job,
    "evaluation": Visitor.evaluation,
}


def dataset(rows: int, *, seed: int = 0) -> bytes:
    """Returns an Alpaca file; each seed has questions of its own."""
    outputs = [_ANSWERS[row % len(_ANSWERS)] for row in range(rows)]
    data = [{"instruction": f"问题{seed}-{row}号怎么办", "input": "", "output": output} for row, output in enumerate(outputs)]
    return json.dumps(data, ensure_ascii=False).encode()


def job_request(file_id: str, suffix: str, **hyperparameters: Any) -> dict[str, Any]:
    """Returns a job on the tiny model; 16 rows of batch 8 are two steps an epoch."""
    asked = {"preset": "quick", "lora_rank": 4, "precision": "fp32", "learning_rate": 1e-3, "n_epochs": 2, **hyperparameters}
    method = {"type": "supervised", "supervised": {"hyperparameters": asked}}
    return {"model": TINY, "training_file": file_id, "suffix": suffix, "seed": 5, "method": method}
