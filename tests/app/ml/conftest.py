from pathlib import Path

import pytest

from app.ml.model_store import BaseModelFolder
from tests.fixtures.tiny import TINY, write_tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> BaseModelFolder:
    """A tiny base model; nobody writes into it."""
    return write_tiny_model(tmp_path_factory.mktemp("store") / TINY)


@pytest.fixture(scope="session")
def tiny_folder_path(tiny_folder: BaseModelFolder) -> Path:
    return tiny_folder.path
