"""What `dianda up` sets by itself: a default preset that the machine can train."""

from pathlib import Path

import pytest

from app.cli import main
from app.settings import Settings


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a GPU would show itself; none does yet."""
    device = tmp_path / "kfd"
    monkeypatch.setattr(main, "_GPU_DEVICES", (str(device),))
    monkeypatch.delenv("DIANDA_DEFAULT_PRESET", raising=False)
    return device


def settings() -> Settings:
    return Settings(_env_file=None)


def test_without_a_gpu_jobs_train_with_quick_and_the_operator_is_told(gpu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = main._for_this_machine(settings())
    assert (chosen.default_preset, chosen.environment()["DIANDA_DEFAULT_PRESET"]) == ("quick", "quick")
    assert "DIANDA_DEFAULT_PRESET" in capsys.readouterr().err


def test_with_a_gpu_they_train_with_auto(gpu: Path) -> None:
    gpu.touch()
    assert main._for_this_machine(settings()).resolved_default_preset == "auto"


def test_what_the_operator_set_stays(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIANDA_DEFAULT_PRESET", "auto")
    assert main._for_this_machine(settings()).default_preset == "auto"


def test_where_another_engine_answers_jobs_train_what_it_can_serve(gpu: Path) -> None:
    fields = {"answer_backend": "openai_upstream", "upstream_url": "http://127.0.0.1:9", "upstream_models": {"tiny": "tiny"}}
    upstream = Settings(_env_file=None, **fields)  # type: ignore[arg-type]
    assert upstream.resolved_default_preset == "direct"
    assert settings().resolved_default_preset == "auto"
