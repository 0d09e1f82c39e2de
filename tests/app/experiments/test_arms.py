import pytest

from app.errors import InvalidInput
from app.experiments.arms import MAX_ARMS, base_model_arms, grid_arms, ramp_arms


def test_a_ramp_begins_with_the_fewest_rows() -> None:
    arms = ramp_arms("gemma", [400, 0, 100], {"n_epochs": 3})
    assert [(arm.label, arm.training_rows) for arm in arms] == [("base model", 0), ("100 rows", 100), ("400 rows", 400)]
    assert all(arm.hyperparameters == {"n_epochs": 3} for arm in arms)


def test_a_grid_has_an_arm_for_each_combination() -> None:
    arms = grid_arms("gemma", {"learning_rate": [1e-4, 1e-3], "lora_rank": [8, 16]}, {"n_epochs": 3})
    assert [arm.label for arm in arms] == [
        "learning_rate=0.0001, lora_rank=8",
        "learning_rate=0.0001, lora_rank=16",
        "learning_rate=0.001, lora_rank=8",
        "learning_rate=0.001, lora_rank=16",
    ]
    assert arms[3].hyperparameters == {"n_epochs": 3, "learning_rate": 1e-3, "lora_rank": 16}


def test_base_models_are_arms_by_name() -> None:
    assert [arm.base_model for arm in base_model_arms(["gemma-3-270m", "gemma-2b"], {})] == ["gemma-3-270m", "gemma-2b"]


@pytest.mark.parametrize("fixed", ["n_epochs", "num_train_epochs"])
@pytest.mark.parametrize("varied", ["n_epochs", "num_train_epochs"])
def test_what_is_fixed_cannot_vary_under_either_of_its_names(fixed: str, varied: str) -> None:
    with pytest.raises(InvalidInput, match="fixed and varied") as caught:
        grid_arms("gemma", {varied: [1, 2]}, {fixed: 3})
    assert caught.value.param == f"vary.grid.{varied}"


def test_a_value_stands_once() -> None:
    with pytest.raises(InvalidInput):
        grid_arms("gemma", {"lora_rank": [8, 8]}, {})
    with pytest.raises(InvalidInput):
        ramp_arms("gemma", [100, 100], {})
    with pytest.raises(InvalidInput):
        base_model_arms(["gemma", "gemma"], {})


def test_a_grid_of_billions_is_refused_before_it_is_spelled_out() -> None:
    grid = {f"name_{number}": list(range(MAX_ARMS)) for number in range(10)}
    with pytest.raises(InvalidInput, match=f"at most {MAX_ARMS}"):
        grid_arms("gemma", grid, {})
