import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.experiments.service import advance_all
from app.jobs import repository
from app.jobs.leases import Lease
from tests.app.cli.terminal import Dianda, dialect, evaluate, train, worker
from tests.fixtures.api import BASE, Api, alpaca, serving
from tests.fixtures.queue import read_job

__all__ = ["dialect"]


@pytest.fixture
def dianda(api: Api) -> Iterator[Dianda]:
    with serving(api.app) as url:
        yield Dianda(url)


@pytest.fixture
def paths(tmp_path: Path) -> tuple[str, str]:
    train_path, test_path = tmp_path / "train.json", tmp_path / "test.json"
    train_path.write_bytes(alpaca())
    test_path.write_bytes(alpaca())
    return str(train_path), str(test_path)


@pytest.fixture
def working(api: Api) -> Callable[[Lease], None]:
    """Trains what is to be trained, evaluates what is to be evaluated (the base model gets nothing right), and goes on."""

    def work(lease: Lease) -> None:
        if read_job(api.engine, lease.job_id).kind == repository.EVALUATION:
            adapter = read_job(api.engine, lease.job_id).adapter_id
            evaluate(api, lease, {adapter: 0 if adapter is None else 30})
        else:
            train(api, lease)
        advance_all(api.engine, store=api.app.state.model_store, bell=api.bell, max_unfinished=100)
        time.sleep(0.01)

    return work


def test_a_ramp_is_followed_to_its_comparison(
    api: Api, dianda: Dianda, paths: tuple[str, str], working: Callable[[Lease], None]
) -> None:
    words = ("--train", paths[0], "--test", paths[1], "--sizes", "0,3", "--set", "lora_rank=4")
    with worker(api, working):
        ran = dianda("experiment", "ramp", BASE, *words)

    assert ran.code == 0, ran.err
    assert "Against base model" in ran.out and "+75.0 points" in ran.out and "better" in ran.out
    (experiment,) = api.client.get("/v1/experiments").json()["data"]
    assert (experiment["hyperparameters"], experiment["vary"]["sizes"]) == ({"lora_rank": 4}, [0, 3])


def test_a_grid_sends_values_as_what_they_look_like(api: Api, dianda: Dianda, paths: tuple[str, str]) -> None:
    words = ("--train", paths[0], "--test", paths[1], "--vary", "learning_rate=5e-5,2e-4", "--vary", "use_dora=true,false")

    made = dianda("experiment", "grid", BASE, *words, "--detach", "--json").lines[-1]

    assert made["vary"]["grid"] == {"learning_rate": [5e-5, 2e-4], "use_dora": [True, False]}
    assert len(made["arms"]) == 4


def test_a_report_is_written_where_it_is_wanted(api: Api, dianda: Dianda, paths: tuple[str, str], tmp_path: Path) -> None:
    made = dianda("experiment", "models", BASE, "--train", paths[0], "--test", paths[1], "--detach").out.strip()

    dianda("experiment", "report", made, "--to", str(tmp_path / "report.html"))
    dianda("experiment", "report", made, "--to", str(tmp_path / "table.csv"))

    assert "<html" in (tmp_path / "report.html").read_text()
    assert "base_model" in (tmp_path / "table.csv").read_text()


def test_experiments_are_listed_shown_cancelled_and_deleted(api: Api, dianda: Dianda, paths: tuple[str, str]) -> None:
    made = dianda("experiment", "models", BASE, "--train", paths[0], "--test", paths[1], "--detach").out.strip()

    assert made in dianda("experiment", "list").out
    assert dianda("experiment", "show", made, "--json").json["object"] == "experiment.comparison"
    assert dianda("experiment", "cancel", made, "--json").json["status"] == "cancelled"
    assert dianda("experiment", "delete", made).out.strip() == f"{made} is deleted."
    assert made not in dianda("experiment", "list").out


@pytest.mark.parametrize("words", [("--sizes", "few"), ("--set", "lora_rank")])
def test_a_wrong_command_line_is_refused(dianda: Dianda, paths: tuple[str, str], words: tuple[str, str]) -> None:
    assert dianda("experiment", "ramp", BASE, "--train", paths[0], "--test", paths[1], *words).code == 2
