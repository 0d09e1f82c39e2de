"""The settings of a product on the tiny model, for tests and benchmarks that run it as processes."""

from pathlib import Path
from typing import Any

from app.cli.stack import free_port
from app.settings import Settings
from bench.tiny_gemma import TINY, write_tiny_model


def tiny_product(data_dir: Path, **fields: Any) -> Settings:
    """Writes the tiny model into a data folder and returns the settings of a product on it; `fields` are further ones by name."""
    write_tiny_model(data_dir / "models" / TINY)
    return Settings(
        # Whatever the caller's folder says about a deployment is not meant.
        _env_file=None,  # type: ignore[call-arg]
        data_dir=data_dir,
        port=free_port(),
        base_model=TINY,
        # Imported already; from nowhere else.
        base_models={TINY: "folder:/nowhere"},
        threads=1,
        **fields,
    )
