import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.console.experiment_pages import parse_grid, parse_sizes
from app.console.forms import WrongField
from tests.app.console.visitor import Visitor
from tests.fixtures.api import BASE, Api

NAMES = st.text(alphabet="abcdefgh_", min_size=1, max_size=12)


def test_a_ramp_is_started_watched_and_cancelled(api: Api) -> None:
    file_id = api.file_id()
    visitor = Visitor(api)
    fields = {"model": BASE, "training_file": file_id, "test_file": file_id, "kind": "ramp", "preset": "quick"}

    response = visitor.send("/console/experiments/new", sizes="0，2", name="how many", **fields)

    assert response.status_code == 303
    address = response.headers["location"].partition("?")[0]
    html = visitor.page(address)
    assert "how many" in html and "baseline" in html
    assert visitor.send(f"{address}/cancel").status_code == 303
    assert api.client.get("/v1/experiments").json()["data"][0]["status"] == "cancelled"
    assert "how many" in visitor.page("/console/experiments")


def test_what_every_arm_has_stands_beside_what_varies(api: Api) -> None:
    file_id = api.file_id()
    fields = {"model": BASE, "training_file": file_id, "test_file": file_id, "kind": "hyperparameters", "preset": "quick"}

    response = Visitor(api).send("/console/experiments/new", grid="learning_rate: 5e-5, 2e-4", fixed="lora_rank: 4", **fields)

    assert response.status_code == 303
    (experiment,) = api.client.get("/v1/experiments").json()["data"]
    assert [(arm["hyperparameters"]["lora_rank"], arm["hyperparameters"]["learning_rate"]) for arm in experiment["arms"]] == [
        (4, 5e-5),
        (4, 2e-4),
    ]


def test_a_grid_that_cannot_be_read_is_said_at_its_field_and_kept(api: Api) -> None:
    file_id = api.file_id()
    fields = {"model": BASE, "training_file": file_id, "test_file": file_id, "kind": "hyperparameters"}

    response = Visitor(api).send("/console/experiments/new", grid="learning_rate 5e-5", **fields)

    assert response.status_code == 400
    assert ">learning_rate 5e-5</textarea>" in response.text
    assert 'aria-invalid="true"' in response.text


def test_base_models_are_chosen_by_their_boxes(api: Api) -> None:
    file_id = api.file_id()
    fields = {"training_file": file_id, "test_file": file_id, "kind": "base_models", "models": BASE, "preset": "quick"}

    assert Visitor(api).send("/console/experiments/new", **fields).status_code == 303
    (experiment,) = api.client.get("/v1/experiments").json()["data"]
    assert [arm["base_model"] for arm in experiment["arms"]] == [BASE]


@given(
    st.dictionaries(
        NAMES,
        st.lists(st.integers(-1000, 1000) | st.booleans() | st.floats(-1e6, 1e6), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_a_written_grid_is_read_again(grid: dict[str, list[float]]) -> None:
    text = "\n".join(f"{name}: {', '.join(str(value).lower() for value in values)}" for name, values in grid.items())

    assert parse_grid(text) == grid


def test_words_and_full_width_signs_are_read_in_a_grid() -> None:
    assert parse_grid("lr_scheduler_type：cosine，linear\n\n") == {"lr_scheduler_type": ["cosine", "linear"]}


@pytest.mark.parametrize("text", ["a", "a:", ": 1", "a: ,"])
def test_a_line_without_a_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(WrongField):
        parse_grid(text)


def test_sizes_are_whole_numbers_between_commas() -> None:
    assert parse_sizes("0, 100、400，5000,") == [0, 100, 400, 5000]
    with pytest.raises(WrongField):
        parse_sizes("many")
