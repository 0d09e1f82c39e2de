"""The memory of the product's processes over time: samples, slopes, a picture."""

import io
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from app.cli.stack import Stack

_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
# Of a process's life: caches fill and pools open.
_WARM_UP_SHARE, _WARM_UP_MOST_S = 0.2, 300.0


@dataclass(frozen=True)
class Growth:
    """How one process's resident memory went."""

    name: str
    seconds: float
    first_mib: float
    last_mib: float
    slope_mib_per_hour: float
    """Least squares after the warm-up."""


@dataclass
class MemoryLog:
    """Resident memory by process; one that was restarted begins anew."""

    began: float = field(default_factory=time.monotonic)
    samples: dict[tuple[str, int], list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def sample(self, stack: Stack) -> None:
        """Takes one sample of every process of the stack, and of each worker's slot.

        Training processes come and go, and are left out.
        """
        now = time.monotonic() - self.began
        for name, managed in stack.processes.items():
            if managed.process is None or managed.exit_code is not None:
                continue
            pids = {name: managed.process.pid}
            if name.startswith("worker"):
                pids |= {f"{name}'s slot": pid for pid in _children(managed.process.pid)}
            for label, pid in pids.items():
                if mib := _resident_mib(pid):
                    self.samples[label, pid].append((now, mib))

    def growths(self) -> list[Growth]:
        """Returns the growth of each name's longest-lived process."""
        longest: dict[str, Sequence[tuple[float, float]]] = {}
        for (name, _), samples in self.samples.items():
            if len(samples) > len(longest.get(name, ())):
                longest[name] = samples
        return [growth(name, samples) for name, samples in longest.items()]

    def png(self) -> bytes:
        """Draws it."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # 300 ms, once a run
        from matplotlib.figure import Figure  # noqa: PLC0415

        figure = Figure(figsize=(9, 4.5), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        names = sorted({name for name, _ in self.samples})
        for place, name in enumerate(names):
            lives = [samples for (owner, _), samples in self.samples.items() if owner == name]
            for number, samples in enumerate(lives):
                minutes, mib = [s / 60 for s, _ in samples], [value for _, value in samples]
                # One entry of the legend for all lives of a name.
                axes.plot(minutes, mib, color=f"C{place}", linewidth=1.2, label=None if number else name)
        axes.set(xlabel="minutes", ylabel="resident memory (MiB)", title="Memory under mixed load")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, ncols=3)
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        return picture.getvalue()


def growth(name: str, samples: Sequence[tuple[float, float]]) -> Growth:
    """Returns the growth over samples of (second, MiB)."""
    seconds, mib = np.array(samples).T
    lived = seconds[-1] - seconds[0]
    warm = seconds >= seconds[0] + min(_WARM_UP_SHARE * lived, _WARM_UP_MOST_S)
    slope = float(np.polyfit(seconds[warm], mib[warm], 1)[0]) * 3600 if warm.sum() > 2 else 0.0
    return Growth(name, round(lived, 1), round(mib[warm][0], 1), round(mib[-1], 1), round(slope, 1))


def growth_table(growths: Sequence[Growth]) -> list[str]:
    """Returns Markdown lines."""
    lines = ["| process | lived | after warm-up | at the end | slope |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {one.name} | {one.seconds:.0f} s | {one.first_mib} MiB | {one.last_mib} MiB | {one.slope_mib_per_hour:+} MiB/h |"
        for one in growths
    ]
    return lines


def _children(pid: int) -> Sequence[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _resident_mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MIB
    except (OSError, IndexError):
        return 0.0
