"""What Dockerfile.rocm promises, read off the file and from what each target's process imports."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.fixtures.compose import DOCKERFILE, ROOT, read_compose, read_dockerfile

VERSIONS, STAGES = read_dockerfile()
TARGETS = ("api", "answerer", "worker")
ENTRIES = {
    "api": ("app.main", "app.cli.main"),
    "answerer": ("app.answerer.main",),
    "worker": ("worker.main", "worker.health", "worker.child", "app.cli.main"),
}
# Imports modules and prints which files of ours are in the process then.
_LOADED = (
    "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    "for name, module in list(sys.modules.items()):\n"
    "    if name.partition('.')[0] in ('app', 'worker', 'migrations') and getattr(module, '__file__', None):\n"
    "        print(module.__file__)"
)
# Comes with a GPU's torch, and is imported only where it is there.
_OF_THE_TORCH = {"triton"}


def extras_of(target: str) -> list[str]:
    """Returns the extras that a target installs."""
    (install,) = re.findall(r'pip install \S+ -c constraints\.txt "\.\[([a-z,0-9-]+)\]"', " ".join(STAGES[target].all("RUN")))
    return install.split(",")


def imports_of(file: Path) -> set[str]:
    """Returns the top-level packages that a source file imports anywhere, even late."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def distributions_of(extras: list[str]) -> set[str]:
    """Returns every distribution that the core and these extras bring, and what those bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    found: set[str] = set()
    queue = [Requirement(line) for line in wanted]
    while queue:
        requirement = queue.pop()
        key = str(canonicalize_name(requirement.name))
        known = f"{key}[{','.join(sorted(requirement.extras))}]"
        if known in found:
            continue
        found |= {known, key}
        try:
            further = [Requirement(line) for line in requires(key) or []]
        except ModuleNotFoundError:
            continue  # of another platform
        asked = [{"extra": ""}, *({"extra": extra} for extra in requirement.extras)]
        queue += [one for one in further if one.marker is None or any(one.marker.evaluate(extra) for extra in asked)]
    return found


def test_the_linter_finds_nothing() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [linter, "--no-color", "--config", ROOT / ".hadolint.yaml", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_its_targets_are_those_of_the_compose_file() -> None:
    built = {service["build"]["target"] for service in read_compose()["services"].values() if "build" in service}
    assert built == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_as_a_numeric_user_that_owns_the_data_alone(target: str) -> None:
    assert STAGES[target].all("USER") == ["10001:10001"]
    assert STAGES[target].instructions[-1][0] == "CMD"


@pytest.mark.parametrize("target", TARGETS)
def test_everything_that_a_target_copies_is_there_and_not_ignored(target: str) -> None:
    stage = STAGES[target]
    copied = stage.all("COPY") or STAGES[stage.base].all("COPY")
    ignored = {line.strip("*/") for line in (ROOT / ".dockerignore").read_text().split()}
    for sources in copied:
        for source in sources.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source not in ignored


def test_the_api_s_target_has_no_torch() -> None:
    assert "torch" not in distributions_of(extras_of("api"))


def test_the_worker_s_target_has_no_fastapi() -> None:
    assert "fastapi" not in distributions_of(extras_of("worker"))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.timeout(180)
def test_a_target_s_extras_name_everything_that_its_processes_import(target: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, *ENTRIES[target]], capture_output=True, text=True, cwd=ROOT, check=False, timeout=150
    )
    assert done.returncode == 0, done.stderr
    imported = {package for file in done.stdout.split() for package in imports_of(Path(file))}
    assert {"pydantic", "structlog"} <= imported
    owners = packages_distributions()
    foreign = imported - set(sys.stdlib_module_names) - {"app", "worker", "migrations"} - _OF_THE_TORCH
    brought = distributions_of(extras_of(target))
    # Where several distributions share a package's name, one of them will do.
    assert {name for name in foreign if not any(str(canonicalize_name(owner)) in brought for owner in owners[name])} == set()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Yields the files that the script works on."""
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def keep_torch(source: Path, floor: str) -> "subprocess.CompletedProcess[str]":
    """Runs the script of the Dockerfile."""
    return subprocess.run(
        ["sh", str(ROOT / "scripts" / "keep_torch.sh")],
        cwd=source,
        env={"PYTHON": sys.executable, "TORCH_FLOOR": floor, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_base_s_torch_is_the_one_that_pip_must_keep(source: Path) -> None:
    from importlib.metadata import version

    assert keep_torch(source, "2.11").returncode == 0
    lines = (source / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("torch==")] == [f"torch=={version('torch')}"]


def test_a_base_with_too_old_a_torch_is_refused_with_what_to_do(source: Path) -> None:
    done = keep_torch(source, "99.0")
    assert done.returncode != 0
    assert "ROCM_IMAGE" in done.stderr
    assert "docs/rocm.md" in done.stderr


def test_a_lowered_floor_is_written_into_the_requirements(source: Path) -> None:
    assert keep_torch(source, "2.6").returncode == 0
    assert '"torch>=2.6"' in (source / "pyproject.toml").read_text()
