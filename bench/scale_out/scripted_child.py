"""A training process that sleeps instead of training: same assignment, same messages, same files in the end; no torch."""

import os
import sys
import time
from pathlib import Path

from app.durable import seal_folder
from app.ml.evaluated_rows import EvaluatedRow
from app.ml.evaluation_metrics import measure
from app.ml.formats.reading import read_examples
from app.ml.plots import loss_csv
from worker.assignment import OUTPUT, Assignment, read_assignment
from worker.messages import MESSAGE_FD_VARIABLE, Advanced, Answered, Finished, Message, Started, encode

TRAINING_S, EVALUATION_S = "BENCH_SCALE_OUT_TRAINING_S", "BENCH_SCALE_OUT_EVALUATION_S"
_STEPS = 5
# A PNG of one pixel, so that whoever shows the loss curve has something to show.
_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c636060606000000005000157a2e1be0000000049454e44ae426082"
)


def _train(assignment: Assignment, folder: Path, say: "Say") -> Finished:
    losses = []
    say(Started({"trainable_parameters": 1, "total_steps": _STEPS, "resumed_from_step": 0}))
    for step in range(1, _STEPS + 1):
        time.sleep(float(os.environ[TRAINING_S]) / _STEPS)
        losses.append({"step": step, "epoch": step / _STEPS, "loss": 1 / step, "learning_rate": 1e-3, "grad_norm": 1.0})
        say(Advanced({"step": step, "total_steps": _STEPS, "loss": 1 / step}))
    unsealed = folder / "unsealed"
    unsealed.mkdir()
    # Named after the attempt: equal adapters share a key.
    (unsealed / "scripted.txt").write_text(folder.name)
    checksum = seal_folder(unsealed, about={"base_model": assignment.base_model})
    output = folder / OUTPUT
    output.mkdir()
    unsealed.rename(output / "adapter")
    (output / "loss.csv").write_bytes(loss_csv(losses))
    (output / "loss.png").write_bytes(_PIXEL)
    return Finished({"checksum": checksum, "metrics": {"train_loss": 1 / _STEPS}, "trained_tokens": 1})


def _evaluate(assignment: Assignment, say: "Say") -> Finished:
    examples = list(read_examples(Path(assignment.dataset)))[: assignment.max_rows]
    say(Started({"rows": len(examples), "answered_before": 0}))
    time.sleep(float(os.environ[EVALUATION_S]))
    rows = [
        EvaluatedRow(
            row=example.row,
            question=example.question,
            expected=example.codes,
            given=example.codes,
            code_confidences=(1.0,) * len(example.codes),
            confidence=1.0,
            in_vocabulary=True,
            fallback=None,
            latency_ms=1.0,
            passes=1,
        )
        for example in examples
    ]
    say(Answered([row.to_mapping() for row in rows]))
    return Finished({"metrics": measure(rows)})


class Say:
    """The way up to the supervisor."""

    def __init__(self) -> None:
        self._pipe = os.fdopen(int(os.environ[MESSAGE_FD_VARIABLE]), "wb", buffering=0)

    def __call__(self, message: Message) -> None:
        """Sends a message."""
        self._pipe.write(encode(message))


def main() -> None:
    """Runs one assignment."""
    folder = Path(sys.argv[1])
    assignment, say = read_assignment(folder), Say()
    say(_train(assignment, folder, say) if assignment.kind == "finetune" else _evaluate(assignment, say))


if __name__ == "__main__":
    main()
