from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from app.ml.engine.device import free_memory_bytes, limit_memory, memory_limit_bytes
from app.ml.engine.host_memory import available_bytes, resident_bytes
from tests.app.ml.engine.training_help import CPU

GIB = 2**30


@pytest.fixture(autouse=True)
def _no_limit_afterwards() -> Iterator[None]:
    yield
    limit_memory(CPU, None)


class Machine:
    """The kernel's files of a process, as `available_bytes` reads them."""

    def __init__(self, root: Path, *, available_gib: float, group: str) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        kilobytes = int(available_gib * GIB) // 1024
        (self.proc / "meminfo").write_text(f"MemTotal:  99999999 kB\nMemAvailable:  {kilobytes} kB\n")
        (self.proc / "self" / "cgroup").write_text(group)
        self.cgroups.mkdir()

    def add_group(self, path: str, **files: int | str) -> None:
        folder = self.cgroups / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / name.replace("__", ".")).write_text(f"{value}\n")

    def available(self) -> float:
        return available_bytes(self.proc, self.cgroups) / GIB


def test_without_a_control_group_the_kernels_word_counts(tmp_path: Path) -> None:
    assert Machine(tmp_path, available_gib=12, group="0::/\n").available() == 12


def test_a_control_group_lowers_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path, available_gib=12, group="0::/user/job\n")
    machine.add_group("user/job", memory__max=4 * GIB, memory__current=3 * GIB, memory__stat=f"anon 1\ninactive_file {GIB}")

    assert machine.available() == 2


def test_the_tightest_group_around_counts(tmp_path: Path) -> None:
    machine = Machine(tmp_path, available_gib=12, group="0::/user/job\n")
    machine.add_group("user/job", memory__max="max", memory__current=GIB, memory__stat="")
    machine.add_group("user", memory__max=4 * GIB, memory__current=3 * GIB, memory__stat="")

    assert machine.available() == 1


def test_a_container_whose_path_is_not_mounted_has_its_root(tmp_path: Path) -> None:
    machine = Machine(tmp_path, available_gib=12, group="0::/system.slice/docker-1.scope\n")
    machine.add_group(".", memory__max=4 * GIB, memory__current=GIB, memory__stat="")

    assert machine.available() == 3


def test_the_older_control_groups_are_read(tmp_path: Path) -> None:
    machine = Machine(tmp_path, available_gib=12, group="5:cpu,memory:/box\n4:devices:/\n")
    machine.add_group("memory/box", memory__limit_in_bytes=2 * GIB, memory__usage_in_bytes=GIB, memory__stat="")

    assert machine.available() == 1


def test_a_group_that_is_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    machine = Machine(tmp_path, available_gib=12, group="0::/\n")
    machine.add_group(".", memory__max=GIB, memory__current=2 * GIB, memory__stat="")

    assert machine.available() == 0


def test_this_machine_can_be_read() -> None:
    assert 0 < resident_bytes() < 64 * GIB
    assert available_bytes() > 0


def test_a_limit_caps_what_is_free_on_a_cpu() -> None:
    limit_memory(CPU, resident_bytes() / GIB + 0.125)

    assert 0 < free_memory_bytes(CPU) <= 0.126 * GIB


def test_below_what_is_used_already_nothing_is_free() -> None:
    limit_memory(CPU, 0.001)

    assert free_memory_bytes(CPU) == 0


def test_a_limit_can_be_lifted() -> None:
    limit_memory(CPU, 0.001)
    limit_memory(CPU, None)

    assert free_memory_bytes(CPU) > 0


def test_a_part_of_a_card_limits_no_cpu() -> None:
    limit_memory(CPU, None, card_share=0.5)

    assert memory_limit_bytes(CPU) is None


def test_a_limit_in_gib_is_kept_beside_a_share() -> None:
    limit_memory(CPU, 2, card_share=0.5)

    assert memory_limit_bytes(CPU) == 2 * GIB


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_share_of_a_gpu_is_of_its_whole_memory() -> None:
    device = torch.device("cuda", 0)
    limit_memory(device, None, card_share=0.25)
    try:
        assert memory_limit_bytes(device) == torch.cuda.get_device_properties(device).total_memory // 4
    finally:
        limit_memory(device, None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_behaves_like_a_smaller_card() -> None:
    device = torch.device("cuda", 0)
    limit_memory(device, 1)
    try:
        assert free_memory_bytes(device) <= GIB
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(2 * GIB, dtype=torch.uint8, device=device)
        torch.empty(GIB // 2, dtype=torch.uint8, device=device)
    finally:
        limit_memory(device, None)
