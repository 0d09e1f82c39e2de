"""A client that goes away: over real sockets, its question ends in the answerer, too."""

import asyncio
import json
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.answerer.main import create_app as create_answerer
from app.answers.backends.answerer import AnswererBackend
from app.main import create_app
from app.ml.engine.asks import EngineAnswer
from tests.fixtures.api import BASE, make_settings, serving, write_store_of_zeros
from tests.fixtures.db import Databases
from tests.fixtures.queue import RecordingDoorbell


class PatientRoom:
    """Never answers; notes who came and whose question was taken away again."""

    base_model = BASE
    device = None
    pause = None

    def __init__(self) -> None:
        self.asked, self.cancelled = threading.Event(), threading.Event()

    def missing(self) -> None:
        return None

    def start_loading(self) -> None: ...

    async def suspend(self, holder: str, *, lease_s: float, wait_s: float) -> bool:
        return True

    def resume(self, holder: str) -> None: ...

    async def answer(self, questions: Sequence[str], **_: Any) -> list[EngineAnswer]:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return []

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/answer", {"question": "怎么取消"}),
        ("/answer/batch", {"questions": ["怎么取消"]}),
        ("/v1/chat/completions", {"model": BASE, "messages": [{"role": "user", "content": "怎么取消"}]}),
    ],
)
def test_a_client_that_goes_away_cancels_its_question_in_the_answerer(
    tmp_path: Path, databases: Databases, path: str, body: dict[str, Any]
) -> None:
    room = PatientRoom()
    with databases.database("sqlite") as database_url:
        settings = make_settings(tmp_path, database_url)
        write_store_of_zeros(settings.models_dir)
        with serving(create_answerer(settings, room=room)) as answerer_url:
            backend = AnswererBackend(answerer_url, timeout_s=60)
            with serving(create_app(settings, answer_backend=backend, doorbell=RecordingDoorbell())) as url:
                address = urlsplit(url)
                content = json.dumps(body).encode()
                head = (
                    f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
                )
                with socket.create_connection((address.hostname, address.port)) as client:
                    client.sendall(head.encode() + content)
                    assert room.asked.wait(10)
                    assert not room.cancelled.is_set()

                assert room.cancelled.wait(10)
