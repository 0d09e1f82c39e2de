"""Pictures of a run, for people who would rather look than read."""

import csv
import io
from collections.abc import Mapping, Sequence


def loss_csv(losses: Sequence[Mapping[str, float]]) -> bytes:
    """Returns one line a step: step, epoch, loss, learning_rate, grad_norm."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["step", "epoch", "loss", "learning_rate", "grad_norm"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(losses)
    return text.getvalue().encode()


def loss_png(losses: Sequence[Mapping[str, float]], *, title: str) -> bytes:
    """Draws the loss a step, with a running mean over a twentieth of the run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # 300 ms, once a run
    from matplotlib.figure import Figure  # noqa: PLC0415

    steps = [entry["step"] for entry in losses]
    values = [entry["loss"] for entry in losses]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps, values, color="#9db7d5", linewidth=1, label="loss of a step")
    axes.plot(steps, _running_mean(values), color="#1f4e8c", linewidth=2, label="running mean")
    axes.set(xlabel="optimiser step", ylabel="loss (nats a token)", title=title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _running_mean(values: Sequence[float]) -> list[float]:
    window = max(1, len(values) // 20)
    means = []
    for end in range(1, len(values) + 1):
        part = values[max(0, end - window) : end]
        means.append(sum(part) / len(part))
    return means
