"""The training questions that are nearest to a question, by shared characters: where drafts of its answer come from.

Similarity is the cosine of two questions' sets of character 1- and 2-grams, each weighted by the root of its inverse document
frequency; chosen on a split of the telecom training rows (the true answer first: 0.38, among 32: 0.69; 1..3-grams: 0.35, 0.68).
The file holds hashes of n-grams, no text.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from app.ml.codes import CodeVocabulary
from app.ml.engine.compiled import compiled

QUESTIONS = "questions.safetensors"
MAX_INDEXED_QUESTIONS = 20_000
_VERSION = "1"
_MOST_NGRAM_CHARS = 2
_EDGE_CHARS = 128
# N-grams of more than a quarter of the questions are most of the work and tell little.
_COMMON_SHARE, _ALWAYS_RARE = 0.25, 256
_FREQUENCY_WEIGHT = 0.02
_FNV_OFFSET = 2_166_136_261
_FNV_PRIME = 16_777_619

Neighbour = tuple[int, float]
"""Number of a distinct answer, and how near its nearest question is, 0..1."""


@dataclass(frozen=True, eq=False)
class QuestionIndex:
    """Distinct training questions, sorted by their answer, as lists of which question holds which n-gram."""

    hashes: NDArray[np.uint32]
    """[G] sorted hashes of the n-grams."""
    starts: NDArray[np.int64]
    """[G + 1] where the n-gram's questions begin in `rows`; a common n-gram has none there and counts for nothing."""
    rows: NDArray[np.int64]
    """[P] numbers of questions, ascending within an n-gram."""
    answer_starts: NDArray[np.int64]
    """[A + 1] the first question of each distinct answer."""
    frequencies: NDArray[np.int64]
    """[A] how many training rows have the answer, exact duplicates of a question included."""
    answers: tuple[tuple[int, ...], ...]
    """Distinct answers, as numbers of codes in the vocabulary's order."""

    @classmethod
    def build(cls, questions: Sequence[str], answers: Sequence[Sequence[str]], *, vocabulary: CodeVocabulary) -> "QuestionIndex":
        """Indexes bare questions (see `Wrapper.strip`) with their answers; of many, 20,000 evenly spread ones.

        Raises:
            ValueError: an answer holds a code that the vocabulary lacks, or the two sequences differ in length.
        """
        number_of = {code: number for number, code in enumerate(vocabulary.codes)}
        try:
            coded = [tuple(number_of[code] for code in answer) for answer in answers]
        except KeyError as error:
            raise ValueError(f"the vocabulary lacks the code {error.args[0]!r}") from error
        counts = Counter((_ngrams(question).tobytes(), answer) for question, answer in zip(questions, coded, strict=True))
        pairs = list(counts)
        kept = min(len(pairs), MAX_INDEXED_QUESTIONS)
        by_answer: dict[tuple[int, ...], list[bytes]] = {}
        for place in range(kept):
            ngrams, answer = pairs[place * len(pairs) // kept]
            by_answer.setdefault(answer, []).append(ngrams)
        frequency = Counter(coded)
        documents = [np.frombuffer(ngrams, dtype=np.uint32) for group in by_answer.values() for ngrams in group]
        flat = np.concatenate([np.empty(0, np.uint32), *documents])
        row_of = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
        order = np.argsort(flat, kind="stable")
        hashes, lengths = np.unique(flat[order], return_counts=True)
        is_common = lengths > max(len(documents) * _COMMON_SHARE, _ALWAYS_RARE)
        rows = row_of[order][~np.repeat(is_common, lengths)]
        return cls(
            hashes=hashes,
            starts=np.concatenate([[0], np.cumsum(np.where(is_common, 0, lengths))]).astype(np.int64),
            rows=rows.astype(np.int64),
            answer_starts=np.cumsum([0, *(len(group) for group in by_answer.values())]),
            frequencies=np.array([frequency[answer] for answer in by_answer], dtype=np.int64),
            answers=tuple(by_answer),
        )

    def nearest(self, question: str, count: int = 32) -> list[Neighbour]:
        """Returns up to `count` distinct answers, best first.

        An answer's similarity is the cosine of its nearest question, and up to 0.02 more for a frequent answer.
        """
        answers, similarities = self.nearest_answers(question, count)
        return list(zip(answers.tolist(), similarities.tolist(), strict=True))

    def nearest_answers(self, question: str, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns `nearest` as two arrays."""
        return _nearest(
            _ngrams(question),
            self.hashes,
            self.starts,
            self.rows,
            self._weights,
            self._inverse_norms,
            self.answer_starts,
            self._frequency_terms,
            count,
        )

    def nearest_many(self, questions: Sequence[str], count: int = 32) -> list[list[Neighbour]]:
        """Returns `nearest` of each question."""
        return [self.nearest(question, count) for question in questions]

    def save(self, folder: Path) -> None:
        """Writes `questions.safetensors` into an adapter's folder."""
        tensors = {
            "hashes": self.hashes,
            "starts": self.starts.astype(np.uint32),
            "rows": self.rows.astype(np.uint16),
            "answer_starts": self.answer_starts.astype(np.uint32),
            "frequencies": self.frequencies.astype(np.uint32),
            "answer_codes": np.array([code for answer in self.answers for code in answer], dtype=np.uint32),
            "answer_lengths": np.array([len(answer) for answer in self.answers], dtype=np.uint16),
        }
        save_file(tensors, folder / QUESTIONS, metadata={"version": _VERSION})

    @cached_property
    def _question_count(self) -> int:
        return int(self.answer_starts[-1])

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """[G] the square of an n-gram's weight, which is what two questions that hold it share."""
        lengths = np.diff(self.starts)
        weights = np.log1p(self._question_count / np.maximum(lengths, 1))
        return np.asarray(weights * (lengths > 0), dtype=np.float64)

    @cached_property
    def _inverse_norms(self) -> NDArray[np.float64]:
        """[M] one over the length of each question's vector; 0 for a question without characters."""
        shares = np.repeat(self._weights, np.diff(self.starts))
        squares = np.bincount(self.rows, weights=shares, minlength=self._question_count).astype(np.float64)
        return np.divide(1.0, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0)

    @cached_property
    def _frequency_terms(self) -> NDArray[np.float64]:
        logs = np.log1p(self.frequencies)
        return np.asarray(logs * (_FREQUENCY_WEIGHT / logs.max(initial=1e-9)), dtype=np.float64)


def find_question_index(folder: Path) -> QuestionIndex | None:
    """Reads the index of a verified adapter's folder; None where it has none, or one of another version."""
    path = folder / QUESTIONS
    if not path.is_file():
        return None
    with safe_open(path, framework="np") as file:
        if (file.metadata() or {}).get("version") != _VERSION:
            return None
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # the file is no mapping
    ends = np.cumsum(tensors["answer_lengths"], dtype=np.int64).tolist()
    codes = tensors["answer_codes"].tolist()
    return QuestionIndex(
        hashes=tensors["hashes"],
        starts=tensors["starts"].astype(np.int64),
        rows=tensors["rows"].astype(np.int64),
        answer_starts=tensors["answer_starts"].astype(np.int64),
        frequencies=tensors["frequencies"].astype(np.int64),
        answers=tuple(tuple(codes[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)),
    )


@compiled
def _nearest(
    ngrams: NDArray[np.uint32],
    hashes: NDArray[np.uint32],
    starts: NDArray[np.int64],
    rows: NDArray[np.int64],
    weights: NDArray[np.float64],
    inverse_norms: NDArray[np.float64],
    answer_starts: NDArray[np.int64],
    frequency_terms: NDArray[np.float64],
    count: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    scores = np.zeros(len(inverse_norms))
    square = 0.0
    for ngram in ngrams:
        place = np.searchsorted(hashes, ngram)
        if place < len(hashes) and hashes[place] == ngram:
            square += weights[place]
            for index in range(starts[place], starts[place + 1]):
                scores[rows[index]] += weights[place]
        else:
            # What no training question holds is as rare as can be.
            square += math.log1p(len(inverse_norms))
    scale = 1 / math.sqrt(square) if square > 0 else 1.0
    kept = max(0, min(count, len(frequency_terms)))
    best, similarities = np.empty(kept, np.int64), np.empty(kept)
    size = 0
    for answer in range(len(frequency_terms)):
        similarity = 0.0
        for row in range(answer_starts[answer], answer_starts[answer + 1]):
            similarity = max(similarity, scores[row] * inverse_norms[row])
        similarity = similarity * scale + frequency_terms[answer]
        if size < kept:
            size += 1
        elif kept == 0 or similarity <= similarities[-1]:
            continue
        at = size - 1
        while at and similarities[at - 1] < similarity:
            best[at], similarities[at] = best[at - 1], similarities[at - 1]
            at -= 1
        best[at], similarities[at] = answer, similarity
    return best, similarities


def _ngrams(question: str) -> NDArray[np.uint32]:
    """Returns the sorted distinct hashes of a question's n-grams; of a long one its first and last 128 characters count."""
    if len(question) > 2 * _EDGE_CHARS:
        question = question[:_EDGE_CHARS] + question[-_EDGE_CHARS:]
    folded = unicodedata.normalize("NFKC", question).casefold()
    # A lone surrogate is a character like any other here.
    return _hashed(np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).copy())


@compiled
def _hashed(characters: NDArray[np.uint32]) -> NDArray[np.uint32]:
    hashes = np.empty(_MOST_NGRAM_CHARS * len(characters), np.uint32)
    count = 0
    for length in range(1, _MOST_NGRAM_CHARS + 1):
        for place in range(len(characters) - length + 1):
            # FNV-1a over characters; Python's own hash differs from process to process.
            value = np.uint32(_FNV_OFFSET + length)
            for character in characters[place : place + length]:
                value = np.uint32((value ^ character) * np.uint32(_FNV_PRIME))
            hashes[count] = value ^ (value >> np.uint32(15))
            count += 1
    hashes = np.sort(hashes[:count])
    distinct = 0
    for place in range(count):
        if place == 0 or hashes[place] != hashes[place - 1]:
            hashes[distinct] = hashes[place]
            distinct += 1
    return hashes[:distinct].copy()
