"""Reviewed answers as a dataset: the last review of a question counts, and a parent's rows give way to it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from app.answers.review_repository import ReviewedAnswer
from app.datasets.splits import alpaca_line
from app.errors import InvalidInput, TooLarge
from app.ml.formats.example import Example
from app.ml.formats.reading import iterate_examples
from app.ml.prompting import Wrapper, find_wrapper

MAX_REVIEWED = 100_000
_WRAPPER_ROWS = 1000


@dataclass(frozen=True)
class ReviewedCounts:
    """What went into a dataset of reviewed answers."""

    reviewed_answers: int
    """Reviews that were looked at, each the last one of its answer."""
    questions: int
    """Different questions with right codes: rows of the dataset that reviews brought."""
    corrected: int
    """How many of these were corrected by hand."""
    only_wrong: int
    """Questions whose last review says no more than that the answer was wrong: they bring no row."""
    parent_rows: int
    replaced_parent_rows: int
    """The parent's rows with a reviewed question: the review stands in their place."""
    last_reviewed_at: float


def write_reviewed_dataset(path: Path, reviewed: Iterable[ReviewedAnswer], *, parent_rows: Path | None) -> ReviewedCounts:
    """Writes Alpaca JSON Lines: the parent's rows, if any, then one row a reviewed question.

    Where all the parent's questions share a wrapper, the reviewed ones get it too: else training would find none.

    Raises:
        InvalidInput: no review brings a row.
        TooLarge: more than 100,000 reviewed answers.
    """
    wrapper = Wrapper() if parent_rows is None else _shared_wrapper(parent_rows)
    last: dict[str, ReviewedAnswer] = {}
    count = 0
    for one in reviewed:
        count += 1
        if count > MAX_REVIEWED:
            raise TooLarge(f"More than {MAX_REVIEWED} reviewed answers. Take fewer with reviewed_since and reviewed_until.")
        question = wrapper.strip(one.question.strip())
        # Out and in again: rows stand in the order of their last reviews.
        last.pop(question, None)
        last[question] = one
    rows = {question: one.codes for question, one in last.items() if one.codes is not None}
    if not rows:
        raise InvalidInput(
            "No reviewed answer brings a row. Review some with POST /v1/answers/{id}/feedback; only answers whose text is kept "
            "(DIANDA_ANSWER_LOG_QUESTIONS=text) can become rows."
        )
    kept = replaced = 0
    with path.open("wb") as file:
        for example in () if parent_rows is None else iterate_examples(parent_rows):
            if wrapper.strip(example.question.strip()) in rows:
                replaced += 1
            else:
                kept += 1
                file.write(alpaca_line(example))
        for number, (question, codes) in enumerate(rows.items(), start=kept + 1):
            file.write(alpaca_line(Example(number, wrapper.apply(question), codes)))
    return ReviewedCounts(
        reviewed_answers=count,
        questions=len(rows),
        corrected=sum(last[question].is_corrected for question in rows),
        only_wrong=len(last) - len(rows),
        parent_rows=kept,
        replaced_parent_rows=replaced,
        last_reviewed_at=max(one.reviewed_at for one in last.values()),
    )


def _shared_wrapper(parent_rows: Path) -> Wrapper:
    def questions() -> Iterator[str]:
        return (example.question for example in iterate_examples(parent_rows))

    # A guess from the first rows that all the others must bear out: a million questions need not be held at once.
    wrapper = find_wrapper(list(islice(questions(), _WRAPPER_ROWS)))
    return wrapper if all(wrapper.apply(question) == question for question in questions()) else Wrapper()
