"""A chat completion as the chunks of OpenAI's stream: the role, the answer in one piece, the end."""

import json
from collections.abc import Iterator
from typing import Any

from fastapi.sse import format_sse_event

from app.answers.schemas import ChatCompletion


def chat_chunks(completion: ChatCompletion) -> Iterator[bytes]:
    """Yields server-sent events, `[DONE]` last; an answer is decoded whole, so there is nothing to trickle."""
    steps: list[tuple[dict[str, Any], str | None]] = [
        ({"role": "assistant", "content": ""}, None),
        ({"content": completion.choices[0].message.content}, None),
        ({}, "stop"),
    ]
    for delta, finish_reason in steps:
        chunk = {
            "id": completion.id,
            "object": "chat.completion.chunk",
            "created": completion.created,
            "model": completion.model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}],
        }
        yield format_sse_event(data_str=json.dumps(chunk, ensure_ascii=False))
    yield format_sse_event(data_str="[DONE]")
