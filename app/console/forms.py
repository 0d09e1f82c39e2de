"""What a browser's form sends, as the bodies that the services know. An empty field is one that was not sent."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from app.errors import InvalidInput
from app.jobs.idempotency import CreationKey
from app.ml.spec import OPENAI_NAMES, PRESETS, FinetuneSpec

Body = TypeVar("Body", bound=BaseModel)

# The fields of a spec that the form shows; all others are the HTTP dialect's.
SPEC_FIELDS = (
    "num_train_epochs",
    "learning_rate",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "warmup_ratio",
    "cutoff_len",
    "max_samples",
    "early_stopping_patience",
)
SPEC_SWITCHES = ("use_dora", "use_rslora", "load_best_model_at_end", "gradient_checkpointing")
_SWITCH = {"yes": True, "no": False}


class WrongField(InvalidInput):
    """A field of a form is not of its kind."""

    code = "wrong_field"


def filled(form: Mapping[str, Any]) -> dict[str, str]:
    """Returns the text fields that are not empty, without blanks around them."""
    return {name: value.strip() for name, value in form.items() if isinstance(value, str) and value.strip()}


def checked(body: type[Body], values: Mapping[str, Any]) -> Body:
    """Builds a request's body.

    Raises:
        WrongField: a value is not of its kind; `param` names it.
    """
    try:
        return body.model_validate(dict(values))
    except ValidationError as error:
        raise wrong_field(error) from error


def creation_key(values: Mapping[str, str], body: BaseModel) -> CreationKey | None:
    """Returns the key that a form was shown with: a second click on its button, or a reload, makes no second thing.

    Whoever goes back to the form and asks for something else gets that.
    """
    shown = CreationKey.find(values.get("key"), body)
    return None if shown is None else replace(shown, key=f"console-{shown.key[:64]}-{shown.body_sha256[:16]}")


def wrong_field(error: ValidationError) -> WrongField:
    """Returns the error that names the first value that is not of its kind."""
    first = error.errors(include_url=False, include_input=False)[0]
    name, reason = ".".join(str(part) for part in first["loc"]), str(first["msg"])[:300]
    return WrongField(f"{name}: {reason}" if name else reason, param=name or None)


def number(form: Mapping[str, str], name: str, *, default: float | None = None) -> float | None:
    """Returns a field's number.

    Raises:
        WrongField: it is none.
    """
    text = form.get(name)
    if text is None:
        return default
    try:
        return float(text)
    except ValueError as error:
        raise WrongField(f"{name} must be a number.", param=name) from error


def whole(form: Mapping[str, str], name: str, *, default: int | None = None) -> int | None:
    """Returns a field's whole number.

    Raises:
        WrongField: it is none.
    """
    text = form.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.lstrip("-").isdecimal() or len(text) > 18:
        raise WrongField(f"{name} must be a whole number.", param=name)
    return int(text)


def job_values(form: Mapping[str, str]) -> dict[str, Any]:
    """Returns the body of `CreateJob` that the form of a job asks for.

    Raises:
        WrongField: a number is none.
    """
    given: dict[str, Any] = {"preset": form["preset"]} if "preset" in form else {}
    kinds = {field.name: str(field.type) for field in fields(FinetuneSpec)}
    for name in SPEC_FIELDS:
        value = whole(form, name) if "int" in kinds[name] else number(form, name)
        if value is not None:
            given[name] = value
    for name in SPEC_SWITCHES:
        if form.get(name) in _SWITCH:
            given[name] = _SWITCH[form[name]]
    values: dict[str, Any] = {"method": {"type": "supervised", "supervised": {"hyperparameters": given}}}
    for name in ("model", "training_file", "validation_file", "suffix"):
        if name in form:
            values[name] = form[name]
    if (seed := whole(form, "seed")) is not None:
        values["seed"] = seed
    if form.get("codebook_codes") == "yes":
        values["codebook_codes"] = True
    return values


def spec_rows() -> list[dict[str, Any]]:
    """Returns what the form shows of each field of a spec: its range, unit and value in every preset."""
    known = {field.name: field for field in fields(FinetuneSpec)}
    return [
        {
            "name": name,
            "low": known[name].metadata["low"],
            "high": known[name].metadata["high"],
            "is_whole": "int" in str(known[name].type),
            "presets": {preset: getattr(spec, name) for preset, spec in PRESETS.items()},
        }
        for name in SPEC_FIELDS
    ]


def field_of(param: str | None) -> str:
    """Returns the form's own name of the field that an error names."""
    name = (param or "").rpartition(".")[2]
    return OPENAI_NAMES.get(name, name)
