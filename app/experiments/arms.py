"""Which arms an experiment has: what varies, spelled out. Pure; knows no rows and no files."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import InvalidInput
from app.ml.spec import OPENAI_NAMES

MAX_ARMS = 32
BASE_MODEL_LABEL = "base model"


@dataclass(frozen=True, kw_only=True)
class ArmPlan:
    """One arm as it is asked for."""

    label: str
    base_model: str
    training_rows: int | None
    """0: the base model as it is; None: all rows."""
    hyperparameters: Mapping[str, Any]


def ramp_arms(base_model: str, sizes: Sequence[int], fixed: Mapping[str, Any]) -> list[ArmPlan]:
    """Returns one arm for each number of training rows, ascending.

    Raises:
        InvalidInput: a size stands there twice, or there are too many.
    """
    if len(set(sizes)) < len(sizes):
        raise InvalidInput("Each size may stand once.", param="vary.sizes")
    return _checked(
        [
            ArmPlan(
                label=f"{size} rows" if size else BASE_MODEL_LABEL,
                base_model=base_model,
                training_rows=size,
                hyperparameters=fixed,
            )
            for size in sorted(sizes)
        ]
    )


def grid_arms(base_model: str, grid: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any]) -> list[ArmPlan]:
    """Returns one arm for each combination of the grid's values, the last name varying fastest.

    Raises:
        InvalidInput: a name is fixed, too, a value stands there twice, or the combinations are too many.
    """
    for name, values in grid.items():
        same = {name, OPENAI_NAMES.get(name, name)}
        if clash := [other for other in fixed if other in same or OPENAI_NAMES.get(other) in same]:
            raise InvalidInput(f"{clash[0]!r} is fixed and varied at once. Name it once.", param=f"vary.grid.{name}")
        if not values or any(value in values[:place] for place, value in enumerate(values)):
            raise InvalidInput("A grid has one value or more for each name, and each once.", param=f"vary.grid.{name}")
    count = 1
    for values in grid.values():
        # Before the product is spelled out: a few long lists make billions of combinations.
        count *= len(values)
        _check_count(count)
    return [
        ArmPlan(
            label=", ".join(f"{name}={value}" for name, value in zip(grid, combination, strict=True)),
            base_model=base_model,
            training_rows=None,
            hyperparameters={**fixed, **dict(zip(grid, combination, strict=True))},
        )
        for combination in itertools.product(*grid.values())
    ]


def base_model_arms(base_models: Sequence[str], fixed: Mapping[str, Any]) -> list[ArmPlan]:
    """Returns one arm for each base model.

    Raises:
        InvalidInput: a model stands there twice, or there are too many.
    """
    if len(set(base_models)) < len(base_models):
        raise InvalidInput("Each base model may stand once.", param="vary.models")
    return _checked([ArmPlan(label=name, base_model=name, training_rows=None, hyperparameters=fixed) for name in base_models])


def _checked(arms: list[ArmPlan]) -> list[ArmPlan]:
    _check_count(len(arms))
    return arms


def _check_count(count: int) -> None:
    if count > MAX_ARMS:
        raise InvalidInput(f"An experiment has at most {MAX_ARMS} arms. Vary less at once.", param="vary")
