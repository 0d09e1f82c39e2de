"""What a fresh adapter's confidence is worth: observed on rows that it was not trained on, before it is published."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.ml.calibration import Calibration, fit_calibration
from app.ml.engine.answering import MAX_PROMPT_TOKENS, AnswerEngine
from app.ml.engine.evaluating import observe_rows
from app.ml.engine.novelty import MAX_REFERENCES, References
from app.ml.engine.observing import Observation
from app.ml.engine.training import Wish
from app.ml.even_places import even_places
from app.ml.formats.example import Example
from app.ml.novelty_limit import MIN_LIMIT_ROWS, NoveltyLimit, find_novelty_limit
from app.ml.prompting import PromptRenderer, SolvedQuestion
from worker.line import Line
from worker.messages import Note

_ADAPTER = "unsealed"
_MAX_HELD_OUT = 2000
_ENOUGH_HELD_OUT = 200
"""Even where time is short: twice what calibration needs."""
_HELD_OUT_SHARE = 0.6
"""Of the time allowed; the rest is for the references."""
_MIN_REFERENCES = 64


@dataclass(frozen=True)
class Confidence:
    """What was found; both None where there are no held-out rows to find it on."""

    calibration: Calibration | None = None
    novelty: NoveltyLimit | None = None

    def to_metrics(self) -> dict[str, Any]:
        """Returns what the adapter's metrics show of it."""
        return {
            "calibration": None if self.calibration is None else self.calibration.to_summary(),
            "out_of_scope": None if self.novelty is None else self.novelty.to_mapping(),
        }


def observe_adapter(
    engine: AnswerEngine,
    folder: Path,
    *,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    renderer: PromptRenderer,
    budget_s: float,
    line: Line,
) -> Confidence | None:
    """Calibrates the unsealed adapter of `folder` and writes its references there; None where a wish came between.

    Takes about `budget_s` at most, and longer only for 200 held-out rows.
    """
    began = time.monotonic()

    def observe(
        name: str, rows: Sequence[Example], *, until_s: float, at_least: int, are_trained: bool = False
    ) -> list[Observation]:
        def is_enough(done: int) -> bool:
            return line.wish() is not Wish.NONE or (done >= at_least and time.monotonic() - began > until_s)

        # A training question is seen as a new one would be: its prompt shows others, not itself.
        own = [SolvedQuestion(renderer.wrapper.strip(row.question), row.codes) for row in rows] if are_trained else None
        seen = observe_rows(engine, _ADAPTER, [row.question for row in rows], is_enough=is_enough, own=own)
        if len(seen) < len(rows) and line.wish() is Wish.NONE:
            line.say(Note(f"To save time {len(seen)} of {len(rows)} {name} were looked at for the adapter's confidence."))
        return seen

    trained = {renderer.wrapper.strip(example.question) for example in examples}
    fresh = [row for row in held_out if renderer.wrapper.strip(row.question) not in trained]
    if len(fresh) < len(held_out):
        line.say(
            Note(
                f"{len(held_out) - len(fresh)} held-out row(s) have a question of the training file: they say nothing of the "
                "adapter's confidence and were left out of the calibration."
            )
        )
    if not fresh:
        return Confidence()
    engine.load_unsealed(_ADAPTER, folder)
    fresh = _spread(fresh, _MAX_HELD_OUT)
    seen = observe("held-out rows", fresh, until_s=budget_s * _HELD_OUT_SHARE, at_least=_ENOUGH_HELD_OUT)
    if line.wish() is not Wish.NONE:
        return None
    calibration = fit_calibration([one.scored(row.codes) for one, row in zip(seen, fresh, strict=False)])
    line.say(Note(_calibration_line(calibration)))
    if len(seen) < MIN_LIMIT_ROWS:
        return Confidence(calibration)
    familiar = _spread(list({row.question: row for row in examples}.values()), MAX_REFERENCES)
    tokenizer = engine.base.tokenizer
    familiar = [row for row in familiar if len(renderer.encode(row.question, tokenizer)) <= MAX_PROMPT_TOKENS]
    known = observe("training questions", familiar, until_s=budget_s, at_least=1, are_trained=True)
    if line.wish() is not Wish.NONE:
        return None
    if len(known) < _MIN_REFERENCES:
        return Confidence(calibration)
    references = References.of([one.hidden for one in known])
    references.save(folder)
    return Confidence(calibration, find_novelty_limit(references.novelties([one.hidden for one in seen])))


def _spread(rows: Sequence[Example], count: int) -> list[Example]:
    """Returns at most `count` evenly spread rows, shuffled, so that the first of them are spread over the file, too."""
    chosen = [rows[place] for place in even_places(len(rows), count)]
    random.Random(0).shuffle(chosen)
    return chosen


def _calibration_line(calibration: Calibration) -> str:
    if not calibration.is_calibrated:
        return f"Confidences are not calibrated: {calibration.rows} held-out row(s) are too few, 100 are needed."
    return (
        f"Confidences are calibrated on {calibration.rows} held-out rows: temperature {calibration.temperature:.2f}, "
        f"calibration error {calibration.ece:.3f} (before: {calibration.ece_before:.3f})."
    )
