"""What every `AnswerBackend` promises, held against each of them; the answerer's runs over a real socket and a tiny model."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

from app.answers.backend import (
    AnswerBackend,
    AnswererUnavailable,
    AnswerRequest,
    AnswerResult,
    Candidate,
    ConfidentCode,
    Overloaded,
    ServingPaused,
)
from app.answers.backends.answerer import AnswererBackend, RefusedByAnswerer
from app.answers.backends.answerers import AnswererPool
from app.answers.backends.scripted import ScriptedBackend
from app.cli.stack import free_port
from app.errors import AppError, Internal
from tests.fixtures.api import make_settings, serving
from tests.fixtures.openai_engine import scripted_engine
from tests.fixtures.tiny import TINY, write_tiny_model
from tests.fixtures.upstream import make_upstream_backend, make_upstream_store

Result = TypeVar("Result")
MakeBackend = Callable[[], AnswerBackend]


def use(make: MakeBackend, ask: Callable[[AnswerBackend], Awaitable[Result]]) -> Result:
    """Opens a backend in an event loop of its own, uses and closes it."""

    async def run() -> Result:
        backend = make()
        try:
            return await ask(backend)
        finally:
            await backend.close()

    return asyncio.run(run())


def names(result: AnswerResult) -> list[str]:
    return [code.code for code in result.best.codes]


def request(*questions: str, checksum: str | None = None, base_model: str = TINY, alternatives: int = 0) -> AnswerRequest:
    return AnswerRequest(questions, base_model, checksum, alternatives)


@pytest.fixture(scope="module")
def answerer_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yields the address of the real answerer process's app with a tiny model in memory."""
    from app.answerer.main import create_app

    data_dir = tmp_path_factory.mktemp("answerer")
    write_tiny_model(data_dir / "models" / TINY)
    settings = make_settings(data_dir, "sqlite://", threads=1, max_pending_answers=8)
    with serving(create_app(settings)) as url:
        yield url


@pytest.fixture(scope="module")
def make_upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeBackend]:
    """Yields a maker of backends over a scripted engine of OpenAI's dialect."""
    stores = make_upstream_store(tmp_path_factory.mktemp("upstream"))
    with scripted_engine() as engine:
        yield lambda: make_upstream_backend(engine.url, stores, models={TINY: "upstream-tiny"})


@pytest.fixture(scope="module", params=["scripted", "answerer", "two_answerers", "openai_upstream"])
def make(request: pytest.FixtureRequest) -> MakeBackend:
    if request.param == "scripted":
        return lambda: ScriptedBackend({"甲": ("a_1",)})
    if request.param == "openai_upstream":
        make_upstream: MakeBackend = request.getfixturevalue("make_upstream")
        return make_upstream
    url = request.getfixturevalue("answerer_url")

    def ready_backend() -> AnswerBackend:
        async def wait() -> None:
            backend = AnswererBackend(url, timeout_s=30)
            for _ in range(600):
                if await backend.health() is None:
                    break
                await asyncio.sleep(0.05)
            await backend.close()

        thread = threading.Thread(target=lambda: asyncio.run(wait()))
        thread.start()
        thread.join()
        if request.param == "answerer":
            return AnswererBackend(url, timeout_s=30)
        return AnswererPool({name: AnswererBackend(url, timeout_s=30) for name in ("one", "two")}, timeout_s=30)

    return ready_backend


class TestEveryBackend:
    def test_gives_one_result_a_question(self, make: MakeBackend) -> None:
        results = use(make, lambda backend: backend.answer(request("甲", "乙", "丙")))

        assert len(results) == 3
        assert all(isinstance(result, AnswerResult) for result in results)

    def test_gives_results_in_the_order_of_the_questions(self, make: MakeBackend) -> None:
        async def ask(backend: AnswerBackend) -> tuple[list[AnswerResult], list[AnswerResult]]:
            return await backend.answer(request("甲", "乙丙丁")), await backend.answer(request("乙丙丁", "甲"))

        forward, backward = use(make, ask)

        assert [result.prompt_tokens for result in forward] == [result.prompt_tokens for result in backward][::-1]
        # Names alone: questions that share a pass in another order may round differently.
        assert [names(result) for result in forward] == [names(result) for result in backward][::-1]

    def test_gives_confidences_that_are_probabilities(self, make: MakeBackend) -> None:
        (result,) = use(make, lambda backend: backend.answer(request("甲")))

        assert 0 <= result.best.confidence <= 1
        assert all(0 <= code.confidence <= 1 for code in result.best.codes)

    def test_counts_tokens(self, make: MakeBackend) -> None:
        (result,) = use(make, lambda backend: backend.answer(request("甲")))

        assert result.prompt_tokens > 0 and result.completion_tokens > 0

    def test_gives_no_more_alternatives_than_were_asked_for(self, make: MakeBackend) -> None:
        (result,) = use(make, lambda backend: backend.answer(request("甲", alternatives=2)))

        assert len(result.alternatives) <= 2

    def test_answers_many_at_once(self, make: MakeBackend) -> None:
        async def ask(backend: AnswerBackend) -> list[list[AnswerResult]]:
            return list(await asyncio.gather(*(backend.answer(request("甲")) for _ in range(6))))

        answers = use(make, ask)

        assert [[names(result) for result in answer] for answer in answers] == [[names(answers[0][0])]] * 6

    def test_a_caller_that_goes_away_leaves_the_next_one_its_answer(self, make: MakeBackend) -> None:
        async def ask(backend: AnswerBackend) -> list[AnswerResult]:
            gone = asyncio.create_task(backend.answer(request("甲", "乙")))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            return await backend.answer(request("丙"))

        assert len(use(make, ask)) == 1

    def test_is_healthy(self, make: MakeBackend) -> None:
        assert use(make, lambda backend: backend.health()) is None

    def test_says_nothing_of_a_pause_while_there_is_none(self, make: MakeBackend) -> None:
        assert use(make, lambda backend: backend.find_pause()) is None

    def test_can_be_closed_twice(self, make: MakeBackend) -> None:
        assert use(make, lambda backend: backend.close()) is None


class TestTheAnswerer:
    @pytest.fixture
    def ready(self, answerer_url: str, make: MakeBackend) -> MakeBackend:
        return make

    def test_refuses_an_adapter_that_is_not_in_its_blob_store(self, answerer_url: str) -> None:
        with pytest.raises(RefusedByAnswerer) as caught:
            use(lambda: AnswererBackend(answerer_url, timeout_s=30), lambda b: b.answer(request("甲", checksum="f" * 64)))

        assert caught.value.code == "adapter_mismatch"

    def test_refuses_another_base_model_and_says_what_to_set(self, answerer_url: str) -> None:
        with pytest.raises(RefusedByAnswerer, match="DIANDA_BASE_MODEL"):
            use(lambda: AnswererBackend(answerer_url, timeout_s=30), lambda b: b.answer(request("甲", base_model="other")))

    def test_is_overloaded_beyond_its_limit(self, answerer_url: str) -> None:
        with pytest.raises(Overloaded):
            use(lambda: AnswererBackend(answerer_url, timeout_s=30), lambda b: b.answer(request(*"甲乙丙丁戊己庚辛壬")))

    def test_refuses_a_question_of_too_many_tokens(self, answerer_url: str) -> None:
        with pytest.raises(RefusedByAnswerer) as caught:
            use(lambda: AnswererBackend(answerer_url, timeout_s=30), lambda b: b.answer(request("长" * 3000)))

        assert caught.value.code == "question_too_long"


def test_an_answerer_without_weights_says_what_to_do(tmp_path: Path) -> None:
    from app.answerer.main import create_app

    with serving(create_app(make_settings(tmp_path, "sqlite://", base_model="no-weights-yet"))) as url:

        async def ask(backend: AnswerBackend) -> str | None:
            for _ in range(200):
                message = await backend.health()
                if message is not None and "being loaded" not in message:
                    return message
                await asyncio.sleep(0.02)
            return None

        assert "dianda models import no-weights-yet" in str(use(lambda: AnswererBackend(url, timeout_s=5), ask))


class ScriptedServer(ThreadingHTTPServer):
    """Answers every request with one status and body."""

    daemon_threads = True
    status = 200
    body = b""
    bodies_seen: list[Any]


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def do_GET(self) -> None:
        self._reply()

    def do_POST(self) -> None:
        self.server.bodies_seen.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self._reply()

    def log_message(self, *args: object) -> None:
        pass

    def _reply(self) -> None:
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    made = ScriptedServer(("127.0.0.1", 0), _Handler)
    made.bodies_seen = []
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def error_body(code: str, *, param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": "Do this.", "type": "t", "param": param, "code": code}}).encode()


def ask_server(server: ScriptedServer) -> list[AnswerResult]:
    url = f"http://127.0.0.1:{server.server_port}"
    return use(lambda: AnswererBackend(url, timeout_s=2), lambda backend: backend.answer(request("甲", alternatives=1)))


class TestWhatTheAnswererReplies:
    @pytest.mark.parametrize(
        ("status", "body", "kind", "code"),
        [
            (429, error_body("overloaded"), Overloaded, "overloaded"),
            (503, error_body("answerer_unavailable"), AnswererUnavailable, "answerer_unavailable"),
            (503, error_body("serving_paused"), ServingPaused, "serving_paused"),
            (500, error_body("internal"), Internal, "internal"),
            (400, error_body("question_too_long", param="question"), RefusedByAnswerer, "question_too_long"),
            (422, error_body("malformed_request"), RefusedByAnswerer, "malformed_request"),
            (500, b"<html>", Internal, "internal"),
            (404, b"[]", Internal, "internal"),
            (400, b'{"error": "text"}', Internal, "internal"),
            (200, b"<html>", Internal, "internal"),
            (200, b"{}", Internal, "internal"),
            (200, b'{"results": [{}]}', Internal, "internal"),
            (200, b'{"results": []}', Internal, "internal"),
        ],
    )
    def test_an_error_becomes_ours(
        self, server: ScriptedServer, status: int, body: bytes, kind: type[AppError], code: str
    ) -> None:
        server.status, server.body = status, body

        with pytest.raises(AppError) as caught:
            ask_server(server)

        assert isinstance(caught.value, kind)
        assert caught.value.code == code

    def test_a_refusal_keeps_the_answerers_words_and_field(self, server: ScriptedServer) -> None:
        server.status, server.body = 400, error_body("question_too_long", param="question")

        with pytest.raises(RefusedByAnswerer) as caught:
            ask_server(server)

        assert (caught.value.message, caught.value.param) == ("Do this.", "question")

    def test_a_refusals_code_does_not_stick_to_the_next_one(self, server: ScriptedServer) -> None:
        server.status, server.body = 400, error_body("question_too_long")
        with pytest.raises(RefusedByAnswerer):
            ask_server(server)

        assert RefusedByAnswerer("x").code == "invalid_request"

    def test_an_answerer_that_takes_too_long_is_unavailable(self) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"

            with pytest.raises(AnswererUnavailable):
                use(lambda: AnswererBackend(url, timeout_s=0.1), lambda backend: backend.answer(request("甲")))

    def test_a_refused_connection_is_unavailable(self) -> None:
        url = f"http://127.0.0.1:{free_port()}"

        with pytest.raises(AnswererUnavailable):
            use(lambda: AnswererBackend(url, timeout_s=1), lambda backend: backend.answer(request("甲")))

    def test_after_an_error_the_next_call_may_succeed(self, server: ScriptedServer) -> None:
        url = f"http://127.0.0.1:{server.server_port}"
        good = {"codes": [{"code": "a_1", "confidence": 0.5, "in_vocabulary": True}], "confidence": 0.5}
        result = {"best": good, "alternatives": [good], "prompt_tokens": 3, "completion_tokens": 1}

        async def ask(backend: AnswerBackend) -> list[AnswerResult]:
            server.status, server.body = 503, error_body("answerer_unavailable")
            with pytest.raises(AnswererUnavailable):
                await backend.answer(request("甲"))
            server.status, server.body = 200, json.dumps({"results": [result]}).encode()
            return await backend.answer(request("甲"))

        (answer,) = use(lambda: AnswererBackend(url, timeout_s=2), ask)
        assert answer.best.codes[0].code == "a_1" and len(answer.alternatives) == 1

    def test_it_is_told_everything_that_was_asked(self, server: ScriptedServer) -> None:
        asked = AnswerRequest(("甲",), TINY, "f" * 64, 1, mode="open_values", precision=0.95, deadline_s=0.7)
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(Internal):
            use(lambda: AnswererBackend(url, timeout_s=2), lambda backend: backend.answer(asked))

        assert server.bodies_seen == [asdict(asked) | {"questions": ["甲"]}]

    def test_everything_that_it_says_of_an_answer_comes_back(self, server: ScriptedServer) -> None:
        best = Candidate((ConfidentCode("a_1", 0.5, True), ConfidentCode("9.9", 0.25, False)), 0.125)
        said = AnswerResult(best, (best,), 3, 2, passes=4, calibrated=True, out_of_scope=True, precision_threshold=0.75)
        server.body = json.dumps({"results": [asdict(said)]}).encode()

        assert ask_server(server) == [said]

    def test_a_deadline_ends_the_wait_before_the_time_limit(self) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            asked = AnswerRequest(("甲",), TINY, None, 0, deadline_s=0.1)

            started = time.monotonic()
            with pytest.raises(AnswererUnavailable):
                use(lambda: AnswererBackend(url, timeout_s=30), lambda backend: backend.answer(asked))

        assert time.monotonic() - started < 5

    @pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"status": "loading"}'])
    def test_a_health_that_is_none_of_ours_is_not_healthy(self, server: ScriptedServer, body: bytes) -> None:
        server.body = body
        url = f"http://127.0.0.1:{server.server_port}"

        message = use(lambda: AnswererBackend(url, timeout_s=2), lambda backend: backend.health())

        assert message is not None and "answerer" in message
