"""The api's image without Docker: what its stage copies, installed as its stage does, in an environment of its own."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from app.cli.stack import free_port
from tests.fixtures.compose import ROOT, image_environment, read_compose, read_dockerfile

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Image:
    """An environment that holds what the stage installs, and an empty working directory."""

    bin: Path
    root: Path

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Runs a program of the environment."""
        return subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.root / "work",
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        """The image's environment, the data in a folder of the test."""
        return image_environment("api") | {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.root),
            "DIANDA_DATA_DIR": str(self.root / "data"),
        }


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Installs `.[api,s3]` under the constraints from a copy of the copied files alone."""
    root = tmp_path_factory.mktemp("api-target")
    source = root / "source"
    source.mkdir()
    stage = read_dockerfile()[1]["api"]
    for copied in stage.all("COPY"):
        for name in copied.split()[:-1]:
            place = ROOT / name
            if place.is_dir():
                shutil.copytree(place, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(place, source)
    subprocess.run([sys.executable, "-m", "venv", root / "venv"], check=True)
    # The very line of the Dockerfile, up to the user and the folder that only an image has.
    (install,) = re.findall(r"pip (install .+?\"\.\[api,s3\]\")", " ".join(stage.all("RUN")))
    arguments = [part.strip('"') for part in install.split() if part != "--no-cache-dir"]
    done = subprocess.run([root / "venv/bin/pip", *arguments], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.rmtree(source)
    (root / "work").mkdir()
    yield Image(root / "venv/bin", root)
    shutil.rmtree(root, ignore_errors=True)


def test_the_installed_set_fits_together_and_has_no_torch(image: Image) -> None:
    checked = image.run("pip", "check")
    assert checked.returncode == 0, checked.stdout
    installed = {entry["name"].lower() for entry in json.loads(image.run("pip", "list", "--format=json").stdout)}
    assert not installed & {"torch", "transformers", "peft", "numba", "pytest"}


def test_the_installed_package_migrates_and_serves_with_the_compose_file_s_command(image: Image) -> None:
    migrated = image.run("dianda", "migrate")
    assert migrated.returncode == 0, migrated.stderr
    port = str(free_port())
    exchanged = {"0.0.0.0": "127.0.0.1", "8000": port}
    command = [exchanged.get(part, part) for part in read_compose()["services"]["api"]["command"]]
    log = image.root / "api.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [image.bin / command[0], *command[1:]], cwd=image.root / "work", env=image.environment, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert httpx2.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
                break
            except httpx2.TransportError:
                assert time.monotonic() < deadline and process.poll() is None, log.read_text()
                time.sleep(0.2)
        # Templates and static files are package data: a tree that runs from source would not miss them.
        assert "<!doctype html>" in httpx2.get(f"http://127.0.0.1:{port}/", follow_redirects=True).text.lower()
        assert httpx2.get(f"http://127.0.0.1:{port}/health/ready").json()["checks"]["database"]["ok"]
    finally:
        process.terminate()
        process.wait(20)
