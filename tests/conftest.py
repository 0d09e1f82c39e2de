"""Fixtures that every test may use, and the settings of Hypothesis."""

import os

# Triton's kernels run in its interpreter, on the CPU. It reads this at its first import, which torch or peft may cause.
os.environ["TRITON_INTERPRET"] = "1"

import pytest
from hypothesis import HealthCheck, settings

from tests.fixtures.api import api, module_api, shared_api
from tests.fixtures.db import databases, dialect, engine, module_database_url, module_engine

__all__ = ["api", "databases", "dialect", "engine", "module_api", "module_database_url", "module_engine", "shared_api"]

settings.register_profile(
    "dianda", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("dianda")


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the developer's own DIANDA_… variables out of the tests, and the width of their terminal."""
    for name in list(os.environ):
        if name.startswith("DIANDA_") or name == "COLUMNS":
            monkeypatch.delenv(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the integration tier first: its files run longest, and a long file begun last would leave all but one process idle."""
    items.sort(key=lambda item: "integration" not in item.path.parts)
