"""How much main memory this process may still take, from the kernel's own files (Linux)."""

from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def available_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Returns what the kernel calls available, within the limit of each control group that the process is in."""
    host = _kilobytes(proc / "meminfo", "MemAvailable")
    return max(0, min([host, *_free_in_groups(proc, cgroups)]))


def resident_bytes(proc: Path = _PROC) -> int:
    """Returns the main memory that this process holds."""
    return _kilobytes(proc / "self" / "status", "VmRSS")


def _kilobytes(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{path} has no {name}")


def _free_in_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _free_above(cgroups, path, limit="memory.max", used="memory.current", cache="inactive_file")
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            yield from _free_above(
                root, path, limit="memory.limit_in_bytes", used="memory.usage_in_bytes", cache="total_inactive_file"
            )


def _free_above(root: Path, path: str, *, limit: str, used: str, cache: str) -> Iterator[int]:
    """Yields what is free in a group and in each group around it that has a limit."""
    # In a container the path may be the host's, of which only the root is mounted.
    inner = root / path.lstrip("/")
    for folder in (inner, *inner.parents):
        if not folder.is_relative_to(root):
            return
        try:
            allowed = (folder / limit).read_text().strip()
            if allowed != "max":
                # Cached file pages go first when memory runs short.
                freeable = _field(folder / "memory.stat", cache)
                yield int(allowed) - int((folder / used).read_text()) + freeable
        except FileNotFoundError:
            continue


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
