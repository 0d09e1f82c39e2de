"""A linear classifier of questions by their characters, which has a say beside the model where every answer is one code.

One linear support vector machine a code over n-grams of 1 to 4 characters, each question's of length 1 by their rarity
(TF-IDF). It errs on other questions than a language model does, so the two together are right more often than either
(docs/results/quality.md). Constants were chosen on held-out rows of BANKING77's and CLINC150's training files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from app.ml.codes import CodeVocabulary
from app.ml.engine.ngrams import ngrams_of
from app.ml.even_places import even_places

CLASSIFIER = "classifier.safetensors"
_VERSION = "1"
_MOST_NGRAM_CHARS = 4
_FEWEST_QUESTIONS = 2
"""Of an n-gram that is looked at."""
_MARGIN_PENALTY = 1.0
# Margins say which code, and too little of how surely.
_SHARPNESS = 6.0
_MARGIN_OF_UNSEEN = -2.0
_FEWEST_ROWS_A_CODE = 10
_MOST_ROWS = 20_000
_MOST_WORK = 400_000_000
"""N-grams of all rows times codes: about 20 s of one core."""
_MOST_NGRAMS = 32_768
"""Of most questions; an adapter in memory takes two bytes for each of them and each code."""


@dataclass(frozen=True, eq=False)
class CodeClassifier:
    """Margins of C codes, in the vocabulary's order, over G n-grams."""

    hashes: NDArray[np.uint32]
    """[G] sorted"""
    rarity: NDArray[np.float32]
    """[G] smoothed inverse document frequency"""
    weights: NDArray[np.float16]
    """[G, C] what an n-gram adds to each margin, of a question whose n-grams have length 1 together"""
    biases: NDArray[np.float32]
    """[C]"""

    @classmethod
    def train(
        cls, questions: Sequence[str], answers: Sequence[Sequence[str]], vocabulary: CodeVocabulary
    ) -> "CodeClassifier | None":
        """Trains on bare questions, of very many on evenly spread ones, in seconds on one core; the same rows give the same.

        None where an answer has several codes, where all have the same one, and where there are fewer than ten rows a code.

        Raises:
            KeyError: an answer's code is none of the vocabulary's.
        """
        if any(len(answer) != 1 for answer in answers):
            return None
        codes = np.array([vocabulary.index_of(answer[0]) for answer in answers], dtype=np.int64)
        distinct = len(np.unique(codes))
        places = even_places(len(codes), _MOST_ROWS)
        ngrams, codes = [_ngrams(questions[place]) for place in places], codes[places]
        work = distinct * sum(map(len, ngrams))
        places = even_places(len(codes), len(codes) * _MOST_WORK // max(_MOST_WORK, work))
        ngrams, codes = [ngrams[place] for place in places], codes[places]
        if distinct < 2 or len(codes) < _FEWEST_ROWS_A_CODE * distinct or len(np.unique(codes)) < distinct:
            return None
        hashes, counts = np.unique(np.concatenate(ngrams), return_counts=True)
        is_kept = counts >= max(_FEWEST_QUESTIONS, _frequency_of_rank(counts, _MOST_NGRAMS))
        hashes, counts = hashes[is_kept], counts[is_kept]
        rarity = (np.log((1 + len(codes)) / (1 + counts)) + 1).astype(np.float32)
        seen = [_places_of(found, hashes) for found in ngrams]
        columns, margins, biases = _support_vectors(seen, rarity, codes)
        weights = np.zeros((len(hashes), len(vocabulary.codes)), dtype=np.float16)
        weights[:, columns] = margins * rarity[:, None]
        every_bias = np.full(len(vocabulary.codes), _MARGIN_OF_UNSEEN, dtype=np.float32)
        every_bias[columns] = biases
        return cls(hashes, rarity, weights, every_bias)

    def probabilities(self, question: str) -> NDArray[np.float64]:
        """Returns [C] how likely each code is a bare question's answer; they sum to 1."""
        seen = _places_of(_ngrams(question), self.hashes)
        length = float(np.sqrt(np.square(self.rarity[seen], dtype=np.float64).sum())) or 1.0
        margins = self.weights[seen].sum(axis=0, dtype=np.float64) / length + self.biases
        likely = np.exp(_SHARPNESS * (margins - margins.max()))
        return np.asarray(likely / likely.sum(), dtype=np.float64)

    def save(self, folder: Path) -> None:
        """Writes `classifier.safetensors` into an adapter's folder."""
        tensors = {"hashes": self.hashes, "rarity": self.rarity, "weights": self.weights, "biases": self.biases}
        save_file(tensors, folder / CLASSIFIER, metadata={"version": _VERSION})


def find_code_classifier(folder: Path) -> CodeClassifier | None:
    """Reads the classifier of a verified adapter's folder; None where it has none, or one of another version."""
    path = folder / CLASSIFIER
    if not path.is_file():
        return None
    with safe_open(path, framework="np") as file:
        if (file.metadata() or {}).get("version") != _VERSION:
            return None
        return CodeClassifier(*(file.get_tensor(name) for name in ("hashes", "rarity", "weights", "biases")))


def _frequency_of_rank(counts: NDArray[np.int64], rank: int) -> int:
    """Returns the least count that at most `rank` n-grams have or pass; 0 where there are no more than that."""
    return 0 if len(counts) <= rank else int(np.sort(counts)[-rank - 1]) + 1


def _ngrams(question: str) -> NDArray[np.uint32]:
    # The blanks tell a word's start and end from its inside.
    return ngrams_of(f" {question} ", _MOST_NGRAM_CHARS)


def _places_of(ngrams: NDArray[np.uint32], hashes: NDArray[np.uint32]) -> NDArray[np.int64]:
    places = np.searchsorted(hashes, ngrams)
    places[places == len(hashes)] = 0
    return np.asarray(places[hashes[places] == ngrams] if len(hashes) else places[:0], dtype=np.int64)


def _support_vectors(
    seen: Sequence[NDArray[np.int64]], rarity: NDArray[np.float32], codes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Returns the codes that rows have [K], and their weights [G, K] and biases [K] over questions of length 1."""
    # In the training process alone: whoever answers needs the arrays.
    from scipy.sparse import csr_matrix  # noqa: PLC0415
    from sklearn.preprocessing import normalize  # noqa: PLC0415
    from sklearn.svm import LinearSVC  # noqa: PLC0415

    places = np.concatenate(seen)
    starts = np.cumsum([0, *map(len, seen)])
    rows = normalize(csr_matrix((rarity[places].astype(np.float64), places, starts), shape=(len(seen), len(rarity))))
    machine = LinearSVC(C=_MARGIN_PENALTY, random_state=0).fit(rows, codes)
    weights, biases = machine.coef_.T, machine.intercept_
    if len(machine.classes_) == 2:
        # Of two it tells the second from the first.
        weights, biases = np.hstack([-weights, weights]), np.array([-biases[0], biases[0]])
    return machine.classes_, weights, biases
