"""The load: `python -m bench.load.driver`, a process of its own. A request has a moment when it is due, come what may.

An open loop: a request's time counts from when it was due, so a product that stands still for a second is not spared the
requests of that second.
"""

import argparse
import asyncio
import heapq
import itertools
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp

from bench.load.visits import KINDS, Failed, Visitor

# A second; together about 15 requests a second, of which an answer is the commonest.
RATES: Mapping[str, float] = {
    "answer": 10,
    "batch": 1,
    "page": 1,
    "look": 1,
    "upload": 0.25,
    "stream": 0.2,
    "job": 1 / 60,
    "evaluation": 1 / 180,
}
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Visit:
    """One request and what came of it."""

    kind: str
    due_s: float
    """Since the load began."""
    ms: float
    """From when it was due to its end."""
    error: str | None
    was_refused: bool = False
    """Nobody listened: the request never began."""


def schedule(rates: Mapping[str, float] = RATES) -> Iterator[tuple[float, str]]:
    """Yields what is due when, in order and without end; the first of a kind comes after half of its interval."""
    return heapq.merge(*(zip(itertools.count(0.5 / rate, 1 / rate), itertools.repeat(kind)) for kind, rate in rates.items()))


async def run(
    url: str, seconds: float, training_file: str, test_file: str, *, may_end: threading.Event
) -> tuple[list[Visit], Visitor]:
    """Makes every visit when it is due, for so many seconds and until it may end; returns them in the order of their ends."""
    visits: list[Visit] = []
    # Shorter than the server's patience with an idle connection: else a request may meet the closing.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3)
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        visitor = Visitor(session, training_file, test_file)
        started = time.monotonic()

        async def visit(due_s: float, kind: str) -> None:
            error, was_refused = None, False
            try:
                await KINDS[kind](visitor)
            except Failed as failure:
                error = str(failure)
            except aiohttp.ClientConnectorError as failure:
                error, was_refused = type(failure).__name__, True
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, IndexError) as failure:
                error = f"{type(failure).__name__}: {failure}"
            ms = (time.monotonic() - started - due_s) * 1000
            visits.append(Visit(kind, round(due_s, 3), round(ms, 2), error, was_refused))

        under_way: set[asyncio.Task[None]] = set()
        for due_s, kind in schedule():
            if due_s >= seconds and may_end.is_set():
                break
            await asyncio.sleep(max(0.0, started + due_s - time.monotonic()))
            task = asyncio.create_task(visit(due_s, kind))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
    return visits, visitor


def main() -> None:
    """Reads the command line, runs the load, and writes what came of it."""
    parser = argparse.ArgumentParser(prog="python -m bench.load.driver", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("seconds", type=float)
    parser.add_argument("training_file")
    parser.add_argument("test_file")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    may_end = threading.Event()
    # Whoever started this closes the pipe once what it wanted to do under load is done.
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), may_end.set()), daemon=True).start()
    visits, visitor = asyncio.run(run(options.url, options.seconds, options.training_file, options.test_file, may_end=may_end))
    made = {"visits": [asdict(visit) for visit in visits], "jobs": visitor.jobs, "evaluations": visitor.evaluations}
    options.output.write_text(json.dumps(made))


if __name__ == "__main__":
    main()
