"""What people say of answers: right, wrong, or what would have been right; the last word counts, all words are kept."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sqlalchemy.orm import Session

from app.answers import repository, review_repository
from app.answers.models import AnswerReview, LoggedAnswer
from app.blobs.keys import adapter_key
from app.blobs.store import BlobStore
from app.errors import Conflict, InvalidInput
from app.ml.adapter_card import read_card
from app.ml.codes import CodeVocabulary, join_codes
from app.ml.formats.example import RowError, make_example

Verdict = Literal["right", "wrong", "corrected"]
MAX_REVIEWS_OF_AN_ANSWER = 100


class UnknownCode(InvalidInput):
    """A corrected code that the adapter's vocabulary does not list."""

    code = "unknown_code"


def review(
    session: Session,
    blobs: BlobStore,
    answer_id: str,
    *,
    verdict: Verdict,
    codes: Sequence[str] | None,
    allow_unknown_codes: bool,
    reviewer: str | None,
    comment: str | None,
) -> AnswerReview:
    """Stores a review of a logged answer.

    Raises:
        NotFound: no such answer in the log.
        InvalidInput: codes are missing, superfluous or malformed.
        UnknownCode: the vocabulary of the adapter that answered does not list a code, or cannot be read.
        Conflict: the answer has 100 reviews already.
    """
    answer = repository.get(session, answer_id, for_update=True)
    right_codes = _right_codes(answer, verdict, codes)
    if verdict == "corrected" and right_codes is not None and not allow_unknown_codes:
        _check_known(right_codes, _find_vocabulary(blobs, answer.adapter_checksum))
    earlier = review_repository.count_reviews(session, answer_id)
    if earlier >= MAX_REVIEWS_OF_AN_ANSWER:
        raise Conflict(f"Answer {answer_id!r} has {earlier} reviews, the most that are kept.")
    return review_repository.add(
        session, answer, number=earlier + 1, verdict=verdict, codes=right_codes, reviewer=reviewer, comment=comment
    )


def _right_codes(answer: LoggedAnswer, verdict: Verdict, codes: Sequence[str] | None) -> list[str] | None:
    if verdict != "corrected":
        if codes is not None:
            raise InvalidInput("Only the verdict 'corrected' brings codes.", param="codes")
        if verdict == "wrong":
            return None
        codes = [code["code"] for code in answer.codes]
        if not codes:
            raise InvalidInput("The answer has no code that could be right. Send the right ones as 'corrected'.", param="verdict")
    if not codes:
        raise InvalidInput("The verdict 'corrected' needs the right codes.", param="codes")
    checked = make_example(1, "-", join_codes(codes), {}, question_field="question", answer_field="codes", findings=None)
    if isinstance(checked, RowError):
        raise InvalidInput(f"The codes cannot be an answer: it {checked.reason}.", param="codes")
    if checked.codes != tuple(codes):
        raise InvalidInput("A code has no '|' and no blanks around it.", param="codes")
    return list(codes)


def _check_known(codes: Sequence[str], vocabulary: CodeVocabulary | None) -> None:
    hint = "Check the spelling, or send allow_unknown_codes where it is new."
    if vocabulary is None:
        raise UnknownCode(f"There is no adapter whose codes these could be compared with. {hint}", param="codes")
    for code in codes:
        if code not in vocabulary:
            raise UnknownCode(f"The adapter that answered knows no code {code!r}. {hint}", param="codes")


def _find_vocabulary(blobs: BlobStore, checksum: str | None) -> CodeVocabulary | None:
    """Returns the codes of an adapter; None for a base model, or if the adapter is gone."""
    if checksum is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return read_card(blobs.fetch(adapter_key(checksum), Path(scratch))).vocabulary
        except FileNotFoundError:
            return None
