import pytest

from app.jobs.hyperparameters import PARAM_PREFIX, named_as_in_request, request_param
from app.ml.errors import InvalidSpec


@pytest.mark.parametrize(
    ("param", "given", "name"),
    [
        ("lora_rank", {"lora_rank": 8}, "lora_rank"),
        ("lora_rank", {}, "lora_rank"),
        ("per_device_train_batch_size", {"batch_size": 8}, "batch_size"),
        ("num_train_epochs", {"n_epochs": 1}, "n_epochs"),
        ("learning_rate", {"learning_rate_multiplier": 2}, "learning_rate_multiplier"),
        ("learning_rate", {"learning_rate_multiplier": "auto", "learning_rate": 1}, "learning_rate"),
        ("learning_rate", {"n_epochs": 1}, "learning_rate"),
    ],
)
def test_a_hyperparameter_is_called_as_the_request_calls_it(param: str, given: dict[str, object], name: str) -> None:
    assert request_param(param, given) == PARAM_PREFIX + name


@pytest.mark.parametrize("param", [None, "model", "training_file", "output"])
def test_what_is_no_hyperparameter_keeps_its_name(param: str | None) -> None:
    assert request_param(param, {"batch_size": 8}) == param


def test_an_error_is_renamed_on_its_way_out() -> None:
    with pytest.raises(InvalidSpec) as caught, named_as_in_request({"n_epochs": 1}):
        raise InvalidSpec("Too many.", param="num_train_epochs")

    assert caught.value.param == f"{PARAM_PREFIX}n_epochs"
