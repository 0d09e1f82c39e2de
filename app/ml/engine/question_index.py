"""The training questions that are nearest to a question, by shared characters: where drafts of its answer come from.

Similarity is the cosine of two questions' sets of character 1- and 2-grams, each weighted by the root of its inverse document
frequency; chosen on a split of the telecom training rows (the true answer first: 0.38, among 32: 0.69; 1..3-grams: 0.35, 0.68).
The file holds hashes of n-grams, and texts only where the adapter's prompts show its training questions.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from app.ml.augmentation.phrases import PhraseBook
from app.ml.codes import CodeVocabulary
from app.ml.engine.compiled import compiled
from app.ml.engine.ngrams import ngrams_of
from app.ml.even_places import even_places

QUESTIONS = "questions.safetensors"
MAX_INDEXED_QUESTIONS = 20_000
_VERSION = "1"
_MOST_NGRAM_CHARS = 2
# N-grams of more than a quarter of the questions are most of the work and tell little.
_COMMON_SHARE, _ALWAYS_RARE = 0.25, 256
_MOST_SHOWN_CHARS = 240
_FREQUENCY_WEIGHT = 0.02

Neighbour = tuple[int, float]
"""Number of a distinct answer, and how near its nearest question is, 0..1."""


class Ranking(Protocol):
    """What makes a question near, other than the characters that it shares."""

    @property
    def weights(self) -> NDArray[np.float64]:
        """[G] what two questions that hold an n-gram share; 0 for a common one."""
        ...

    @property
    def inverse_norms(self) -> NDArray[np.float64]:
        """[M] `QuestionIndex.inverse_norms_of` these weights."""
        ...

    @property
    def unknown_weight(self) -> float:
        """What an n-gram weighs that no training question holds."""
        ...

    def answer_terms(self, ngrams: NDArray[np.uint32], left_out: int) -> NDArray[np.float64]:
        """Returns [A] what is added to each answer's similarity, as if the question `left_out` were not there (-1: none)."""
        ...


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
    """[A] how many training rows have the answer, exact duplicates of a question included; 0: it was inferred."""
    answers: tuple[tuple[int, ...], ...]
    """Distinct answers, as numbers of codes in the vocabulary's order."""
    texts: tuple[str, ...] | None = None
    """[M] the questions' first 240 characters, for prompts that show them; None: not kept"""
    row_counts: tuple[int, ...] | None = None
    """[M] how many training rows a question stands for; None once it was read from a file"""
    affixes: PhraseBook = PhraseBook()
    """Starts and ends that say nothing: greetings, particles. They are taken off every question that is indexed or looked for."""

    @classmethod
    def build(
        cls,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        *,
        vocabulary: CodeVocabulary,
        keeps_texts: bool = False,
        affixes: PhraseBook = PhraseBook(),  # frozen and empty
        inferred: Sequence[tuple[str, Sequence[str]]] = (),
    ) -> "QuestionIndex":
        """Indexes bare questions (see `Wrapper.strip`) with their answers; of many, 20,000 evenly spread ones.

        `inferred`: questions that no row asks, with their answers; they are found, and count as no row.

        Raises:
            ValueError: an answer holds a code that the vocabulary lacks, or the two sequences differ in length.
        """
        row_count = len(answers)
        questions = [*questions, *(question for question, _ in inferred)]
        answers = [*answers, *(answer for _, answer in inferred)]
        number_of = {code: number for number, code in enumerate(vocabulary.codes)}
        try:
            coded = [tuple(number_of[code] for code in answer) for answer in answers]
        except KeyError as error:
            raise ValueError(f"the vocabulary lacks the code {error.args[0]!r}") from error
        questions = [affixes.core(question) for question in questions]
        folded = [ngrams_of(question, _MOST_NGRAM_CHARS).tobytes() for question in questions]
        counts = Counter(zip(folded, coded, strict=True))
        pairs = list(counts)
        by_answer: dict[tuple[int, ...], list[bytes]] = {}
        for place in even_places(len(pairs), MAX_INDEXED_QUESTIONS):
            ngrams, answer = pairs[place]
            by_answer.setdefault(answer, []).append(ngrams)
        frequency = Counter(coded[:row_count])
        documents = [np.frombuffer(ngrams, dtype=np.uint32) for group in by_answer.values() for ngrams in group]
        flat = np.concatenate([np.empty(0, np.uint32), *documents])
        row_of = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
        order = np.argsort(flat, kind="stable")
        hashes, lengths = np.unique(flat[order], return_counts=True)
        is_common = lengths > max(len(documents) * _COMMON_SHARE, _ALWAYS_RARE)
        rows = row_of[order][~np.repeat(is_common, lengths)]
        texts, row_counts = None, None
        if keeps_texts:
            # Of questions with the same n-grams the first one's text.
            text_of = dict(reversed(list(zip(zip(folded, coded, strict=True), questions, strict=True))))
            kept_pairs = [(ngrams, answer) for answer, group in by_answer.items() for ngrams in group]
            texts = tuple(text_of[pair][:_MOST_SHOWN_CHARS] for pair in kept_pairs)
            row_counts = tuple(counts[pair] for pair in kept_pairs)
        return cls(
            hashes=hashes,
            starts=np.concatenate([[0], np.cumsum(np.where(is_common, 0, lengths))]).astype(np.int64),
            rows=rows.astype(np.int64),
            answer_starts=np.cumsum([0, *(len(group) for group in by_answer.values())]),
            frequencies=np.array([frequency[answer] for answer in by_answer], dtype=np.int64),
            answers=tuple(by_answer),
            texts=texts,
            row_counts=row_counts,
            affixes=affixes,
        )

    def nearest(self, question: str, count: int = 32) -> list[Neighbour]:
        """Returns up to `count` distinct answers, best first.

        An answer's similarity is the cosine of its nearest question, and up to 0.02 more for a frequent answer.
        """
        answers, similarities = self.nearest_answers(question, count)
        return list(zip(answers.tolist(), similarities.tolist(), strict=True))

    def nearest_answers(self, question: str, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns `nearest` as two arrays."""
        answers, similarities, _ = self._nearest(question, count, left_out=-1)
        return answers, similarities

    def nearest_documents(
        self,
        question: str,
        count: int,
        *,
        own: tuple[str, tuple[int, ...]] | None = None,
        ranking: Ranking | None = None,
    ) -> list[int]:
        """Returns the nearest question's number of up to `count` distinct answers, best first; needs texts.

        Without `own`, a question and its answer, unless several training rows have them. `ranking`: None is by characters.
        """
        assert self.texts is not None
        left_out = -1
        if own is not None:
            found = self._document_of.get((self.affixes.core(own[0])[:_MOST_SHOWN_CHARS], own[1]), -1)
            is_single = found >= 0 and (self.row_counts is None or self.row_counts[found] == 1)
            left_out = found if is_single else -1
        # The answer of a question that is left out may still rank for itself, and has nothing to show.
        _, _, documents = self._nearest(question, count + (left_out >= 0), left_out=left_out, ranking=ranking)
        return [document for document in documents.tolist() if document >= 0][:count]

    def _nearest(
        self, question: str, count: int, *, left_out: int, ranking: Ranking | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        ngrams, answer_terms = ngrams_of(self.affixes.core(question), _MOST_NGRAM_CHARS), self._frequency_terms
        if ranking is not None:
            answer_terms = answer_terms + ranking.answer_terms(ngrams, left_out)
        return _nearest(
            ngrams,
            self.hashes,
            self.starts,
            self.rows,
            self._weights if ranking is None else ranking.weights,
            self._inverse_norms if ranking is None else ranking.inverse_norms,
            # What no training question holds is as rare as can be.
            math.log1p(self._question_count) if ranking is None else ranking.unknown_weight,
            self.answer_starts,
            answer_terms,
            count,
            left_out,
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
        if self.texts is not None:
            encoded = [text.encode("utf-8", "surrogatepass") for text in self.texts]
            tensors["texts"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
            tensors["text_lengths"] = np.array([len(text) for text in encoded], dtype=np.uint16)
        metadata = {"version": _VERSION}
        if self.affixes:
            metadata["affixes"] = json.dumps({"starts": self.affixes.starts, "ends": self.affixes.ends})
        save_file(tensors, folder / QUESTIONS, metadata=metadata)

    @cached_property
    def answer_of_document(self) -> NDArray[np.int64]:
        """[M] number of each question's answer."""
        return np.repeat(np.arange(len(self.answers)), np.diff(self.answer_starts))

    @cached_property
    def _document_of(self) -> dict[tuple[str, tuple[int, ...]], int]:
        assert self.texts is not None
        answers = self.answer_of_document.tolist()
        return {(text, self.answers[answer]): place for place, (text, answer) in enumerate(zip(self.texts, answers, strict=True))}

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
        return self.inverse_norms_of(self._weights)

    def inverse_norms_of(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns [M] one over the length of each question's vector; 0 for a question without characters."""
        shares = np.repeat(weights, np.diff(self.starts))
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
        metadata = file.metadata() or {}
        if metadata.get("version") != _VERSION:
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
        texts=_read_texts(tensors) if "texts" in tensors else None,
        affixes=_read_affixes(metadata.get("affixes")),
    )


def _read_affixes(stored: str | None) -> PhraseBook:
    found = {} if stored is None else json.loads(stored)
    return PhraseBook(tuple(found.get("starts", ())), tuple(found.get("ends", ())))


def _read_texts(tensors: dict[str, NDArray[np.uint8]]) -> tuple[str, ...]:
    whole, ends = tensors["texts"].tobytes(), np.cumsum(tensors["text_lengths"], dtype=np.int64).tolist()
    return tuple(whole[begin:end].decode("utf-8", "surrogatepass") for begin, end in zip([0, *ends], ends, strict=False))


@compiled
def _nearest(
    ngrams: NDArray[np.uint32],
    hashes: NDArray[np.uint32],
    starts: NDArray[np.int64],
    rows: NDArray[np.int64],
    weights: NDArray[np.float64],
    inverse_norms: NDArray[np.float64],
    unknown_weight: float,
    answer_starts: NDArray[np.int64],
    answer_terms: NDArray[np.float64],
    count: int,
    left_out: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    scores = np.zeros(len(inverse_norms))
    square = 0.0
    for ngram in ngrams:
        place = np.searchsorted(hashes, ngram)
        if place < len(hashes) and hashes[place] == ngram:
            square += weights[place]
            for index in range(starts[place], starts[place + 1]):
                scores[rows[index]] += weights[place]
        else:
            square += unknown_weight
    scale = 1 / math.sqrt(square) if square > 0 else 1.0
    kept = max(0, min(count, len(answer_terms)))
    best, similarities, documents = np.empty(kept, np.int64), np.empty(kept), np.empty(kept, np.int64)
    if left_out >= 0:
        scores[left_out] = -1.0
    size = 0
    for answer in range(len(answer_terms)):
        similarity, document = 0.0, -1
        for row in range(answer_starts[answer], answer_starts[answer + 1]):
            if scores[row] * inverse_norms[row] > similarity:
                similarity, document = scores[row] * inverse_norms[row], row
        similarity = similarity * scale + answer_terms[answer]
        if size < kept:
            size += 1
        elif kept == 0 or similarity <= similarities[-1]:
            continue
        at = size - 1
        while at and similarities[at - 1] < similarity:
            best[at], similarities[at], documents[at] = best[at - 1], similarities[at - 1], documents[at - 1]
            at -= 1
        best[at], similarities[at], documents[at] = answer, similarity, document
    return best, similarities, documents
