"""What bodies share: a request's unknown fields, NaN and text that a database refuses are errors."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from app.ml.formats.storable import unusable_text


class RequestBody(BaseModel):
    """Base of all request bodies."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


def _storable(text: str) -> str:
    if reason := unusable_text(text):
        raise ValueError(f"the text {reason}")
    return text


Text = Annotated[str, AfterValidator(_storable)]


class Deleted(BaseModel):
    """OpenAI's answer to a deletion."""

    id: str
    object: str
    deleted: Literal[True] = True
