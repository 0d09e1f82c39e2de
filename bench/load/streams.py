"""Many event streams of one job, held by a process of its own: `python -m bench.load.streams`."""

import argparse
import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

_READ_S = 40.0
"""The server speaks at least every 15 s."""


@dataclass
class Follower:
    """One stream, made again behind its last event when it breaks."""

    last: int = 0
    arrived_at: list[float] = field(default_factory=list)
    """By event, Unix time."""
    out_of_order: int = 0
    breaks: int = 0
    refusals: int = 0
    is_done: bool = False

    async def follow(self, session: aiohttp.ClientSession, path: str) -> None:
        """Reads until the stream says that the job has ended."""
        while not self.is_done:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await self._read(session, path)
            if not self.is_done:
                self.breaks += 1
                await asyncio.sleep(0.5)

    async def _read(self, session: aiohttp.ClientSession, path: str) -> None:
        headers = {"last-event-id": str(self.last)}
        async with session.get(path, params={"stream": "true"}, headers=headers) as response:
            if response.status != 200:
                self.refusals += 1
                return
            async for line in response.content:
                if line.startswith(b"id: "):
                    number = int(line[4:])
                    self.out_of_order += number != self.last + 1
                    self.last = number
                    self.arrived_at.append(time.time())
                elif line.startswith(b"data: [DONE]"):
                    self.is_done = True
                    return


async def hold(url: str, job_id: str, count: int) -> list[Follower]:
    """Holds so many streams of a job until it has ended."""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=_READ_S)
    followers = [Follower() for _ in range(count)]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout, read_bufsize=2**14) as session:
        path = f"/v1/fine_tuning/jobs/{job_id}/events"
        await asyncio.gather(*(follower.follow(session, path) for follower in followers))
    return followers


def main() -> None:
    """Reads the command line, holds the streams, and writes when each event came last and how many streams had each."""
    parser = argparse.ArgumentParser(prog="python -m bench.load.streams", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("job_id")
    parser.add_argument("count", type=int)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    began = time.time()
    followers = asyncio.run(hold(options.url, options.job_id, options.count))
    most = max(len(follower.arrived_at) for follower in followers)
    result = {
        "streams": len(followers),
        "began_at": began,
        "events": most,
        "complete": sum(len(follower.arrived_at) == most for follower in followers),
        "out_of_order": sum(follower.out_of_order for follower in followers),
        "breaks": sum(follower.breaks for follower in followers),
        "refusals": sum(follower.refusals for follower in followers),
        "arrivals": [
            [follower.arrived_at[place] for follower in followers if place < len(follower.arrived_at)] for place in range(most)
        ],
    }
    options.output.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
