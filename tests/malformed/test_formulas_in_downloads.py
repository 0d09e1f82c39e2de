"""Every CSV that the product writes: no cell of it is a formula, whatever a dataset, a code book or an experiment is called."""

import csv
import io
from dataclasses import replace
from unittest.mock import sentinel

import pytest

from app.experiments.comparison import ComparedArm, Comparison, comparison_csv
from app.ml.formats.formula_cells import guarded, unguarded
from app.ml.plots import loss_csv
from tests.fixtures.api import Api

FORMULAS = [
    "=1+1",
    "+1",
    "-1+cmd\\calc",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "＝1",
    "＋1",
    "－1",
    "＠1",
    '=HYPERLINK("http://x")',
]
ARM = ComparedArm(
    number=0,
    label="8 rows",
    is_baseline=True,
    status="succeeded",
    base_model="tiny",
    adapter=None,
    job=None,
    evaluation=None,
    training_rows=8,
    hyperparameters={},
    metrics={},
    intervals={},
    versus_baseline=None,
    cost={},
    loss=(),
    by_epoch=(),
)


@pytest.mark.parametrize("text", [*FORMULAS, "'=1", "''=1"])
def test_a_cell_is_no_formula_and_comes_back_as_it_was(text: str) -> None:
    assert guarded(text).startswith("'")
    assert unguarded(guarded(text)) == text


@pytest.mark.parametrize("text", ["取消方式_12", "9.9", "", "'", "a=b", "{}"])
def test_a_cell_that_begins_no_formula_stays(text: str) -> None:
    assert (guarded(text), unguarded(text)) == (text, text)


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_comparison_has_no_formula(formula: str) -> None:
    table = comparison_csv(
        Comparison(experiment=sentinel.unread, arms=[replace(ARM, label=formula, base_model=formula)], file_names={})
    )

    (line,) = csv.DictReader(io.StringIO(table.decode("utf-8-sig"), newline=""))
    assert (line["label"], line["base_model"]) == ("'" + formula, "'" + formula)


def test_a_code_book_of_formulas_is_downloaded_without_one(api: Api) -> None:
    entries = [{"code": f"{text.strip()}_{number}", "text": text.strip()} for number, text in enumerate(FORMULAS)]
    assert api.client.put("/v1/codebook", json={"entries": entries}).status_code == 200

    lines = csv.reader(io.StringIO(api.client.get("/v1/codebook?format=csv").content.decode("utf-8-sig"), newline=""))

    assert {cell[:1] for line in list(lines)[1:] for cell in line if cell} == {"'"}


def test_a_loss_curve_is_numbers() -> None:
    table = loss_csv([{"step": 1, "epoch": 0.5, "loss": -0.25, "learning_rate": 5e-05, "grad_norm": float("inf")}])

    assert [float(cell) for cell in table.decode().splitlines()[1].split(",")][:4] == [1, 0.5, -0.25, 5e-05]


def test_a_dataset_of_formulas_is_data_and_is_served_as_no_table(api: Api) -> None:
    rows = "question,answer\n" + "".join(f'"问题{text.strip().replace(chr(34), chr(34) * 2)}",a_1\n' for text in FORMULAS)

    file_id = api.file_id(content=rows.encode(), name="=cmd.csv")

    response = api.client.get(f"/v1/files/{file_id}/content")
    assert (response.content, response.headers["content-type"]) == (rows.encode(), "application/octet-stream")
    assert response.headers["x-content-type-options"] == "nosniff"
