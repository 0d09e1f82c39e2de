"""Asks an engine that speaks OpenAI's dialect (vLLM, SGLang, llama.cpp) and serves merged models of our adapters.

The prompt goes as token ids, so it is the one of training to the token: one BOS, and `<eos>` typed by a customer stays text.
What the engines take, and where that was read: docs/serving.md. Not run on any of them.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import httpx2
import structlog
from anyio.to_thread import run_sync

from app.answers.backend import AnswererUnavailable, AnswerRequest, AnswerResult, Overloaded
from app.answers.backends.completion import read_completion
from app.answers.backends.prompted_models import PromptedModel, PromptedModels
from app.errors import AppError, Internal, InvalidInput
from app.ml.answer_patterns import answer_gbnf, answer_regex
from app.ml.codes import AnswerMode, CodeVocabulary

StructuredOutput = Literal["structured_outputs", "guided_regex", "regex", "grammar", "none"]
"""How the engine is told which answers are valid."""

_log = structlog.get_logger()
_MAX_PAUSE_S = 60.0
_NO_SIGN = "The upstream engine does not answer. Try again in a moment."


class ModelNotUpstream(InvalidInput):
    """The deployment's list says of no upstream model that it is this one."""

    code = "model_not_upstream"


@dataclass(frozen=True)
class UpstreamLimits:
    """What is asked of the engine at once, and for how long."""

    timeout_s: float
    """Longest wait for one request's answers."""
    max_concurrent: int
    """Questions under way at the engine."""
    max_pending: int
    """Questions under way or waiting here; further ones are refused."""


class OpenAIUpstreamBackend:
    """An `AnswerBackend` over `/completions`; finds no alternatives, and its confidences are never calibrated."""

    def __init__(
        self,
        url: str,
        limits: UpstreamLimits,
        *,
        api_key: str | None,
        models: Mapping[str, str],
        structured: StructuredOutput,
        prompted_models: PromptedModels,
        find_checksum: Callable[[str], Awaitable[str | None]],
    ) -> None:
        """`models` maps an adapter's checksum or id, or a base model's name, to the engine's name for it."""
        self._client = httpx2.AsyncClient(
            base_url=url,
            headers={} if api_key is None else {"authorization": f"Bearer {api_key}"},
            timeout=httpx2.Timeout(limits.timeout_s, connect=2.0),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=limits.max_concurrent),
        )
        self._limits = limits
        self._models = models
        self._structured: StructuredOutput = structured
        self._prompted_models = prompted_models
        self._find_checksum = find_checksum
        self._checksum_of_id: dict[str, str] = {}
        self._turns = asyncio.Semaphore(limits.max_concurrent)
        self._pending = 0
        self._paused_until = 0.0
        self._told_of_other_prompt = False

    async def answer(self, request: AnswerRequest) -> list[AnswerResult]:
        """Returns one result a question, in order; `alternatives` and `precision` find nothing here."""
        count = len(request.questions)
        if count == 0:
            return []
        self._refuse_too_many(count)
        limit_s = self._limits.timeout_s if request.deadline_s is None else min(request.deadline_s, self._limits.timeout_s)
        self._pending += count
        try:
            async with asyncio.timeout(limit_s):
                return await self._answer(request)
        except TimeoutError as error:
            raise AnswererUnavailable(_NO_SIGN) from error
        finally:
            self._pending -= count

    async def health(self) -> str | None:
        """Returns None if the engine serves every model of the list."""
        if not self._models:
            return "No model is served: say in DIANDA_UPSTREAM_MODELS which upstream model is which of ours."
        try:
            response = await self._client.get("models", timeout=2.0)
        except httpx2.HTTPError:
            return "The upstream engine does not answer. Look at its log, and check DIANDA_UPSTREAM_URL."
        if response.status_code in (401, 403):
            return "The upstream engine refuses the key. Check DIANDA_UPSTREAM_API_KEY."
        try:
            served = {str(model["id"]) for model in response.json()["data"]}
        except (ValueError, KeyError, TypeError):
            return "What answers in the upstream engine's place is none. Check DIANDA_UPSTREAM_URL; it ends with /v1."
        missing = sorted(set(self._models.values()) - served)
        return f"The upstream engine does not serve: {', '.join(missing)}. Check DIANDA_UPSTREAM_MODELS." if missing else None

    async def find_pause(self) -> str | None:
        """Returns None: its card is its own."""
        return None

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    def _refuse_too_many(self, count: int) -> None:
        pause_s = self._paused_until - time.monotonic()
        if pause_s > 0:
            raise Overloaded(f"The upstream engine is overloaded. Try again in {math.ceil(pause_s)} s.")
        if self._pending + count > self._limits.max_pending:
            raise Overloaded(f"More than {self._limits.max_pending} questions wait. Try again in a moment.")

    async def _answer(self, request: AnswerRequest) -> list[AnswerResult]:
        name = await self._upstream_name(request)
        model = await run_sync(self._prompted_models.get, request.base_model, request.adapter_checksum)
        prompts = await run_sync(model.prompts, request.questions)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(name, prompt, model, request.mode)) for prompt in prompts]
        except* AppError as errors:
            failure = _first(errors)
        else:
            return [task.result() for task in tasks]
        raise failure

    async def _upstream_name(self, request: AnswerRequest) -> str:
        checksum = request.adapter_checksum
        key = checksum or request.base_model
        if (name := self._models.get(key)) is not None:
            return name
        if checksum is not None:
            for adapter_id, name in self._models.items():
                if ":" in adapter_id and await self._checksum(adapter_id) == checksum:
                    return name
        what = f"Base model {key!r}" if checksum is None else f"The adapter with checksum {key}"
        raise ModelNotUpstream(
            f"{what} is not on the list of upstream models. Serve it there, then add it to DIANDA_UPSTREAM_MODELS: "
            f'{{"{key}": "NAME"}}.',
            param="model",
        )

    async def _checksum(self, adapter_id: str) -> str | None:
        # A version is never given twice, so what an id stands for is asked once.
        if adapter_id not in self._checksum_of_id:
            found = await self._find_checksum(adapter_id)
            if found is None:
                return None
            self._checksum_of_id[adapter_id] = found
        return self._checksum_of_id[adapter_id]

    async def _ask(self, name: str, prompt: Sequence[int], model: PromptedModel, mode: AnswerMode) -> AnswerResult:
        body = {
            "model": name,
            "prompt": prompt,
            "max_tokens": model.max_answer_tokens,
            "temperature": 0,
            "logprobs": 1,
            **_constraint(self._structured, model.vocabulary, mode),
        }
        async with self._turns:
            result = read_completion(await self._post(body), model.vocabulary)
        if result.prompt_tokens != len(prompt) and not self._told_of_other_prompt:
            self._told_of_other_prompt = True
            _log.warning("upstream_prompt_differs", model=name, sent_tokens=len(prompt), counted_tokens=result.prompt_tokens)
        return result

    async def _post(self, body: Mapping[str, object]) -> Any:
        try:
            response = await self._client.post("completions", json=body)
        except httpx2.HTTPError as error:
            raise AnswererUnavailable(_NO_SIGN) from error
        if response.status_code != 200:
            if response.status_code == 429:
                self._paused_until = time.monotonic() + _seconds(response.headers.get("retry-after"))
            raise _error_of(response.status_code, str(body["model"]))
        try:
            return response.json()
        except ValueError:
            return None


@lru_cache(maxsize=64)
def _constraint(structured: StructuredOutput, vocabulary: CodeVocabulary | None, mode: AnswerMode) -> Mapping[str, object]:
    if vocabulary is None or mode == "free":
        return {}
    match structured:
        case "structured_outputs":
            return {"structured_outputs": {"regex": answer_regex(vocabulary, mode)}}
        case "guided_regex" | "regex":
            return {structured: answer_regex(vocabulary, mode)}
        case "grammar":
            # llama.cpp may punish repetition by default, and codes repeat each other's tokens.
            return {"grammar": answer_gbnf(vocabulary, mode), "repeat_penalty": 1.0}
        case "none":
            return {}


def _error_of(status: int, model: str) -> AppError:
    """Makes an error of a status; the engine's own words may hold the prompt, so they are not repeated."""
    if status == 429:
        return Overloaded("The upstream engine is overloaded. Try again in a moment.")
    if status == 404:
        return AnswererUnavailable(
            f"The upstream engine has no model {model!r}, or no /completions. Check DIANDA_UPSTREAM_MODELS and "
            "DIANDA_UPSTREAM_URL."
        )
    if status in (401, 403):
        return AnswererUnavailable("The upstream engine refuses the key. Check DIANDA_UPSTREAM_API_KEY.")
    if status >= 500:
        return AnswererUnavailable("The upstream engine failed. Its log says why; try again in a moment.")
    return Internal(
        f"The upstream engine refuses the request (status {status}). Its log says why; check DIANDA_UPSTREAM_STRUCTURED and "
        "the model's context length."
    )


def _seconds(retry_after: str | None) -> float:
    """Returns the pause that a `Retry-After` in seconds asks for, at most a minute; 0 for none or a date."""
    return min(float(retry_after), _MAX_PAUSE_S) if retry_after is not None and retry_after.isdecimal() else 0.0


def _first(errors: BaseExceptionGroup[AppError]) -> AppError:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
