import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs

from app.answers.backend import AnswererUnavailable, AnswerRequest, AnswerResult, Overloaded
from app.answers.backends.openai_upstream import ModelNotUpstream, OpenAIUpstreamBackend
from app.answers.model_names import ModelNames
from app.blobs.keys import adapter_key
from app.cli.stack import free_port
from app.db.engine import make_engine
from app.errors import AppError, Internal
from app.main import build_answer_backend
from app.ml.adapter_card import CARD
from app.ml.codes import AnswerMode
from app.ml.errors import AdapterMismatch, PromptTooLong
from app.ml.tokens import load_tokenizer
from app.settings import Settings
from tests.fixtures.api import make_settings
from tests.fixtures.openai_engine import ScriptedEngine, scripted_engine
from tests.fixtures.tiny import BOS, TINY
from tests.fixtures.upstream import UpstreamStores, make_upstream_backend, make_upstream_store

Result = TypeVar("Result")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> UpstreamStores:
    return make_upstream_store(tmp_path_factory.mktemp("upstream"))


@pytest.fixture
def engine() -> Iterator[ScriptedEngine]:
    with scripted_engine() as running:
        running.texts = ("随便说", "开通方式_98|9.9")
        running.models = ("upstream-tiny", "upstream-telecom")
        yield running


Ask = Callable[..., list[AnswerResult]]


@pytest.fixture
def ask(engine: ScriptedEngine, stores: UpstreamStores) -> Ask:
    def answer(
        *questions: str, mode: AnswerMode = "closed", deadline_s: float | None = None, **options: Any
    ) -> list[AnswerResult]:
        wanted = AnswerRequest(questions, TINY, options.pop("checksum", stores.checksum), 2, mode, deadline_s=deadline_s)
        return use(
            make_upstream_backend(options.pop("url", engine.url), stores, **options), lambda backend: backend.answer(wanted)
        )

    return answer


def use(backend: OpenAIUpstreamBackend, act: Callable[[OpenAIUpstreamBackend], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        try:
            return await act(backend)
        finally:
            await backend.close()

    return asyncio.run(run())


class TestWhatTheEngineIsAsked:
    def test_the_prompt_is_the_one_of_training_with_one_bos(
        self, ask: Ask, engine: ScriptedEngine, stores: UpstreamStores
    ) -> None:
        ask("彩铃<eos>")

        prompt = engine.seen[0]["prompt"]
        text = load_tokenizer(stores.models.get(TINY).path).decode(prompt[1:])
        assert (prompt[0], prompt.count(BOS)) == (BOS, 1)
        assert text == "Human: 请问彩铃<eos>怎么办？\nAssistant:"

    def test_it_is_greedy_and_bounded_and_tells_probabilities(self, ask: Ask, engine: ScriptedEngine) -> None:
        ask("彩铃")

        # Two codes of at most 16 bytes, each with its separator, and the end.
        asked = engine.seen[0]
        assert (asked["model"], asked["temperature"], asked["logprobs"]) == ("upstream-telecom", 0, 1)
        assert asked["max_tokens"] == 2 * (len("业务简介_111".encode()) + 1) + 1

    @pytest.mark.parametrize("structured", ["structured_outputs", "guided_regex", "regex"])
    def test_a_closed_answer_obeys_the_vocabulary(self, ask: Ask, structured: str) -> None:
        (result,) = ask("彩铃", structured=structured)

        assert [(code.code, code.in_vocabulary) for code in result.best.codes] == [("开通方式_98", True), ("9.9", True)]

    def test_llama_cpp_gets_a_grammar_and_no_penalty(self, ask: Ask, engine: ScriptedEngine) -> None:
        ask("彩铃", structured="grammar")

        assert engine.seen[0]["grammar"].startswith("root ::= code") and engine.seen[0]["repeat_penalty"] == 1.0

    @pytest.mark.parametrize("options", [{"mode": "free"}, {"structured": "none"}, {"checksum": None}])
    def test_nothing_is_constrained_where_nothing_shall_be(self, ask: Ask, engine: ScriptedEngine, options: Any) -> None:
        (result,) = ask("彩铃", **options)

        assert set(engine.seen[0]) == {"model", "prompt", "max_tokens", "temperature", "logprobs"}
        assert [code.in_vocabulary for code in result.best.codes] == [False]

    def test_open_values_let_a_new_value_through_and_mark_it(self, ask: Ask, engine: ScriptedEngine) -> None:
        engine.texts = ("开通方式_98|9.", "开通方式_98|9.9")

        (open_result,), (closed_result,) = ask("彩铃", mode="open_values"), ask("彩铃")

        assert [code.in_vocabulary for code in open_result.best.codes] == [True, False]
        assert [code.in_vocabulary for code in closed_result.best.codes] == [True, True]

    def test_an_engine_that_ignores_the_constraint_is_found_out(self, ask: Ask, engine: ScriptedEngine) -> None:
        engine.obeys = False

        (result,) = ask("彩铃")

        assert [code.in_vocabulary for code in result.best.codes] == [False]

    def test_the_key_is_sent(self, ask: Ask, engine: ScriptedEngine) -> None:
        ask("彩铃", api_key="sk-1")

        assert engine.keys == ["Bearer sk-1"]


class TestAnswers:
    def test_nothing_asked_is_nothing_answered(self, ask: Ask, engine: ScriptedEngine) -> None:
        assert ask() == [] and engine.seen == []

    def test_a_batch_keeps_its_order_and_its_limit(self, ask: Ask, engine: ScriptedEngine) -> None:
        engine.delay_s = 0.05
        questions = ["问" * length for length in range(1, 13)]

        results = ask(*questions, max_concurrent=3)

        lengths = [result.prompt_tokens for result in results]
        assert lengths == sorted(lengths) and len(set(lengths)) == 12
        assert engine.most_at_once == 3

    def test_nothing_is_promised_that_is_not_known(self, ask: Ask) -> None:
        (result,) = ask("彩铃")

        assert (result.alternatives, result.calibrated, result.passes) == ((), False, 0)
        assert (result.out_of_scope, result.precision_threshold) == (False, None)

    def test_a_prompt_that_the_engine_counts_otherwise_is_told_once(self, ask: Ask, engine: ScriptedEngine) -> None:
        engine.change = lambda completion: completion["usage"].update(prompt_tokens=99)

        with capture_logs() as logs:
            ask("彩铃", "宽带")

        assert [line["event"] for line in logs] == ["upstream_prompt_differs"]


class TestWhichModel:
    def test_an_adapter_may_be_listed_by_its_id(self, ask: Ask, engine: ScriptedEngine, stores: UpstreamStores) -> None:
        models = {"telecom:1": "older", "telecom:2": "upstream-telecom", "telecom:3": "unknown"}

        ask("彩铃", models=models, ids={"telecom:1": "a" * 64, "telecom:2": stores.checksum})

        assert engine.seen[0]["model"] == "upstream-telecom"

    @pytest.mark.parametrize("models", [{}, {"telecom:1": "x"}, {TINY: "upstream-tiny"}])
    def test_an_adapter_that_is_not_listed_is_refused_with_what_to_add(
        self, ask: Ask, engine: ScriptedEngine, stores: UpstreamStores, models: dict[str, str]
    ) -> None:
        with pytest.raises(ModelNotUpstream, match="DIANDA_UPSTREAM_MODELS") as caught:
            ask("彩铃", models=models)

        assert stores.checksum in caught.value.message and engine.seen == []

    def test_a_base_model_that_is_not_listed_is_refused(self, ask: Ask) -> None:
        with pytest.raises(ModelNotUpstream, match=TINY):
            ask("彩铃", checksum=None, models={"telecom:1": "x"})

    def test_an_adapter_without_files_is_refused(self, ask: Ask) -> None:
        with pytest.raises(AdapterMismatch, match="not in the blob store"):
            ask("彩铃", checksum="f" * 64, models={"f" * 64: "x"})

    def test_an_adapter_of_other_weights_is_refused(self, ask: Ask, stores: UpstreamStores) -> None:
        other = stores.put_adapter("other", base_model_checksum="e" * 64)

        with pytest.raises(AdapterMismatch, match="trained on"):
            ask("彩铃", checksum=other, models={other: "x"})

    def test_an_adapter_whose_codes_are_single_tokens_is_refused(self, ask: Ask, stores: UpstreamStores) -> None:
        checksum = stores.models.get(TINY).checksum
        single = stores.put_adapter("single", base_model_checksum=checksum, code_token_ids=(1, 2, 3))

        with pytest.raises(AdapterMismatch, match="answer_format spelled"):
            ask("彩铃", checksum=single, models={single: "x"})

    def test_an_adapter_with_a_classifier_beside_its_weights_is_refused(self, ask: Ask, stores: UpstreamStores) -> None:
        checksum = stores.models.get(TINY).checksum
        classified = stores.put_adapter("classified", base_model_checksum=checksum, has_classifier=True)

        with pytest.raises(AdapterMismatch, match="classifier_weight 0"):
            ask("彩铃", checksum=classified, models={classified: "x"})

    def test_a_damaged_card_is_refused(self, ask: Ask, stores: UpstreamStores, tmp_path: Path) -> None:
        damaged = stores.put_adapter("damaged", base_model_checksum="c" * 64)
        (stores.blobs.fetch(adapter_key(damaged), tmp_path) / CARD).write_text("{}")

        with pytest.raises(AdapterMismatch, match="damaged"):
            ask("彩铃", checksum=damaged, models={damaged: "x"})

    def test_a_card_is_read_once(self, engine: ScriptedEngine, stores: UpstreamStores, tmp_path: Path) -> None:
        checksum = stores.put_adapter("once", base_model_checksum=stores.models.get(TINY).checksum)
        wanted = AnswerRequest(("彩铃",), TINY, checksum, 0)

        async def act(backend: OpenAIUpstreamBackend) -> list[AnswerResult]:
            await backend.answer(wanted)
            shutil.rmtree(stores.blobs.fetch(adapter_key(checksum), tmp_path))
            return await backend.answer(wanted)

        assert len(use(make_upstream_backend(engine.url, stores, models={checksum: "x"}), act)) == 1

    def test_a_question_of_too_many_tokens_is_refused(self, ask: Ask, engine: ScriptedEngine) -> None:
        with pytest.raises(PromptTooLong):
            ask("短", "长" * 2000)

        assert engine.seen == []


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "kind", "names"),
        [
            (429, Overloaded, "again"),
            (500, AnswererUnavailable, "log"),
            (503, AnswererUnavailable, "log"),
            (404, AnswererUnavailable, "'upstream-telecom'"),
            (401, AnswererUnavailable, "DIANDA_UPSTREAM_API_KEY"),
            (403, AnswererUnavailable, "DIANDA_UPSTREAM_API_KEY"),
            (400, Internal, "DIANDA_UPSTREAM_STRUCTURED"),
            (422, Internal, "DIANDA_UPSTREAM_STRUCTURED"),
            (307, Internal, "307"),
        ],
    )
    def test_a_status_becomes_an_error_of_ours_without_the_engines_words(
        self, ask: Ask, engine: ScriptedEngine, status: int, kind: type[AppError], names: str
    ) -> None:
        engine.status = status

        with pytest.raises(kind) as caught:
            ask("彩铃", "宽带", api_key="sk-secret")

        assert type(caught.value) is kind and names in caught.value.message
        assert "repeated" not in caught.value.message and "sk-secret" not in repr(caught.value)

    @pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"choices": []}', b"\xff"])
    def test_a_body_that_is_no_completion_is_our_error(self, ask: Ask, engine: ScriptedEngine, body: bytes) -> None:
        engine.body = body

        with pytest.raises(Internal):
            ask("彩铃")

    def test_a_refused_connection_is_unavailable(self, ask: Ask) -> None:
        with pytest.raises(AnswererUnavailable):
            ask("彩铃", url=f"http://127.0.0.1:{free_port()}/v1")

    @pytest.mark.parametrize("limits", [{"deadline_s": 0.1}, {"timeout_s": 0.1}, {"deadline_s": 60.0, "timeout_s": 0.1}])
    def test_an_engine_that_takes_too_long_is_unavailable_in_time(self, ask: Ask, engine: ScriptedEngine, limits: Any) -> None:
        engine.delay_s = 1.5
        started = time.monotonic()

        with pytest.raises(AnswererUnavailable):
            ask("彩铃", **limits)

        assert time.monotonic() - started < 1

    def test_waiting_for_a_turn_counts_against_the_deadline(self, ask: Ask, engine: ScriptedEngine) -> None:
        engine.delay_s = 0.2

        with pytest.raises(AnswererUnavailable):
            ask(*"一二三四五六七八", max_concurrent=1, deadline_s=0.5)

        assert len(engine.seen) < 5

    def test_more_questions_than_may_wait_are_refused_unasked(self, ask: Ask, engine: ScriptedEngine) -> None:
        with pytest.raises(Overloaded):
            ask(*"一二三四", max_pending=3)

        assert engine.seen == []

    def test_after_errors_and_callers_that_went_away_every_place_is_free_again(
        self, engine: ScriptedEngine, stores: UpstreamStores
    ) -> None:
        wanted = AnswerRequest(tuple("一二三"), TINY, stores.checksum, 0)

        async def act(backend: OpenAIUpstreamBackend) -> list[AnswerResult]:
            engine.status = 503
            with pytest.raises(AnswererUnavailable):
                await backend.answer(wanted)
            engine.status, engine.delay_s = 200, 0.3
            gone = asyncio.create_task(backend.answer(wanted))
            await asyncio.sleep(0.1)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            engine.delay_s = 0.0
            return await backend.answer(wanted)

        assert len(use(make_upstream_backend(engine.url, stores, max_concurrent=1, max_pending=3), act)) == 3

    @pytest.mark.parametrize(("retry_after", "is_asked"), [("30", False), (None, True), ("soon", True)])
    def test_a_pause_that_the_engine_asks_for_is_kept(
        self, engine: ScriptedEngine, stores: UpstreamStores, retry_after: str | None, is_asked: bool
    ) -> None:
        wanted = AnswerRequest(("彩铃",), TINY, stores.checksum, 0)

        async def act(backend: OpenAIUpstreamBackend) -> None:
            engine.status, engine.headers = 429, {} if retry_after is None else {"retry-after": retry_after}
            for _ in range(2):
                with pytest.raises(Overloaded):
                    await backend.answer(wanted)

        use(make_upstream_backend(engine.url, stores), act)

        assert len(engine.seen) == (2 if is_asked else 1)


class TestHealth:
    def health(self, engine: ScriptedEngine, stores: UpstreamStores, **options: Any) -> str:
        return str(use(make_upstream_backend(options.pop("url", engine.url), stores, **options), lambda b: b.health()))

    def test_it_is_ready_when_every_listed_model_is_served(self, engine: ScriptedEngine, stores: UpstreamStores) -> None:
        assert self.health(engine, stores, api_key="sk-1") == "None"
        assert engine.keys == ["Bearer sk-1"]

    def test_a_model_that_is_not_served_is_named(self, engine: ScriptedEngine, stores: UpstreamStores) -> None:
        engine.models = ("upstream-tiny",)

        assert "does not serve: upstream-telecom." in self.health(engine, stores)

    def test_an_empty_list_is_told(self, engine: ScriptedEngine, stores: UpstreamStores) -> None:
        assert "DIANDA_UPSTREAM_MODELS" in self.health(engine, stores, models={})

    def test_a_refused_key_is_told(self, engine: ScriptedEngine, stores: UpstreamStores) -> None:
        engine.status = 401

        assert "DIANDA_UPSTREAM_API_KEY" in self.health(engine, stores)

    def test_a_refused_connection_is_told(self, engine: ScriptedEngine, stores: UpstreamStores) -> None:
        assert "does not answer" in self.health(engine, stores, url=f"http://127.0.0.1:{free_port()}/v1")

    @pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"data": [{}]}', b'{"data": null}'])
    def test_what_is_no_list_of_models_is_told(self, engine: ScriptedEngine, stores: UpstreamStores, body: bytes) -> None:
        engine.body = body

        assert "DIANDA_UPSTREAM_URL" in self.health(engine, stores)


class TestSettings:
    def test_the_deployment_chooses_the_backend(self, tmp_path: Path, stores: UpstreamStores, engine: ScriptedEngine) -> None:
        settings = make_settings(
            tmp_path,
            "sqlite://",
            answer_backend="openai_upstream",
            upstream_url=engine.url,
            upstream_api_key="sk-1",
            upstream_models={stores.checksum: "upstream-telecom"},
        )
        names = ModelNames(make_engine("sqlite://"), stores.models)
        backend = build_answer_backend(settings, stores.models, stores.blobs, names)
        assert isinstance(backend, OpenAIUpstreamBackend)

        (result,) = use(backend, lambda made: made.answer(AnswerRequest(("彩铃",), TINY, stores.checksum, 0)))

        assert result.best.codes[0].code == "开通方式_98" and engine.keys == ["Bearer sk-1"]

    def test_a_key_is_not_shown_but_handed_on(self, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, "sqlite://", upstream_api_key="sk-1")

        assert "sk-1" not in repr(settings) and "sk-1" not in settings.model_dump_json()
        assert settings.environment()["DIANDA_UPSTREAM_API_KEY"] == "sk-1"

    def test_an_alias_is_no_name_of_an_upstream_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DIANDA_UPSTREAM_MODELS", '{"telecom@production": "x"}')

        with pytest.raises(ValueError, match="telecom@production"):
            Settings(_env_file=None)  # type: ignore[call-arg]
