"""Hyperparameters as a request names them: what an error of a job calls its field."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields

from app.errors import AppError
from app.ml.spec import OPENAI_NAMES, FinetuneSpec

PARAM_PREFIX = "method.supervised.hyperparameters."
_FIELDS = frozenset(field.name for field in fields(FinetuneSpec))


def request_param(param: str | None, given: Mapping[str, object]) -> str | None:
    """Returns the request's own name of a spec's field (OpenAI's where `given` has that); any other param stays as it is."""
    if param not in _FIELDS:
        return param
    openai = [name for name, field in OPENAI_NAMES.items() if field == param and name in given and param not in given]
    return PARAM_PREFIX + (openai[0] if openai else str(param))


@contextmanager
def named_as_in_request(given: Mapping[str, object]) -> Iterator[None]:
    """Within the block an `AppError` whose `param` is a spec's field gets the request's name of it."""
    try:
        yield
    except AppError as error:
        error.param = request_param(error.param, given)
        raise
