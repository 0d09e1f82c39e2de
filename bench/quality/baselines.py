"""What needs no language model: the nearest training question, and TF-IDF with a linear SVM. On a CPU, in one run."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from app.ml.codes import CodeVocabulary
from app.ml.engine.question_index import QuestionIndex
from app.ml.formats.example import Example
from app.ml.metrics import Codes
from app.ml.prompting import find_wrapper
from bench.quality.datasets import DATA_SETS, OUT_OF_SCOPE, material_for_choosing, material_for_report
from bench.quality.scoring import score_codes

Answering = Callable[[Sequence[str]], list[Codes]]


def run_baselines(name: str, data: Path, *, is_report: bool) -> list[dict[str, Any]]:
    """Returns one line of results for each baseline; rows that a job calibrates with are trained on, since these need none."""
    material = (material_for_report if is_report else material_for_choosing)(name, data)
    held_back = () if DATA_SETS[name].dev or material.calibration is None else material.calibration
    training = [*material.training, *held_back]
    wrapper = find_wrapper([row.question for row in training])
    made: Mapping[str, Callable[[], Answering]] = {
        "n-gram neighbour": lambda: _neighbour(training, wrapper.strip),
        "TF-IDF + linear SVM": lambda: _svm(training, wrapper.strip, language=DATA_SETS[name].language),
    }
    mode = "report" if is_report else "choose"
    known = frozenset(code for row in training for code in row.codes)
    results = []
    for variant, make in made.items():
        began = time.monotonic()
        answer = make()
        parts, scope = {}, {}
        for part, rows in material.scored.items():
            given = answer([wrapper.strip(row.question) for row in rows])
            parts[part] = score_codes(given, [row.codes for row in rows], known=known)
            if name == "clinc150":
                scope[part] = _scope(given, rows)
        results.append(
            {
                "key": f"{mode}/{name}/{variant}/0",
                "data_set": name,
                "variant": variant,
                "seed": 0,
                "mode": mode,
                "rows": len(training),
                "verbatim": dict(material.verbatim),
                "seconds": {"job": round(time.monotonic() - began, 1)},
                "device": "CPU",
                "parts": parts,
                "scope": scope or None,
            }
        )
    return results


def _neighbour(training: Sequence[Example], strip: Callable[[str], str]) -> Answering:
    vocabulary = CodeVocabulary.from_answers(row.codes for row in training)
    index = QuestionIndex.build([strip(row.question) for row in training], [row.codes for row in training], vocabulary=vocabulary)

    def answer(questions: Sequence[str]) -> list[Codes]:
        nearest = index.nearest_many(questions, 1)
        return [tuple(vocabulary.codes[place] for place in index.answers[found[0][0]]) for found in nearest]

    return answer


def _svm(training: Sequence[Example], strip: Callable[[str], str], *, language: str) -> Answering:
    """TF-IDF of characters 1 to 3 (Chinese), or of words 1 to 2 and characters 2 to 5 (English); LinearSVC, C = 1.

    Single codes are classes. Where answers have several codes, each code is yes or no, and the likeliest one is given where
    all say no.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415  # of the extra `test` alone
    from sklearn.pipeline import make_union  # noqa: PLC0415
    from sklearn.svm import LinearSVC  # noqa: PLC0415

    vectorizers = [TfidfVectorizer(analyzer="char", ngram_range=(1, 3))]
    if language == "en":
        vectorizers = [TfidfVectorizer(ngram_range=(1, 2)), TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5))]
    features = make_union(*vectorizers)
    seen = features.fit_transform([strip(row.question) for row in training])
    codes = CodeVocabulary.from_answers(row.codes for row in training).codes
    if all(len(row.codes) == 1 for row in training):
        classifier = LinearSVC(C=1.0).fit(seen, [row.codes[0] for row in training])
        return lambda questions: [(str(code),) for code in classifier.predict(features.transform(questions))]
    places = {code: place for place, code in enumerate(codes)}
    holds = np.zeros((len(training), len(codes)), dtype=np.int8)
    for number, row in enumerate(training):
        holds[number, [places[code] for code in row.codes]] = 1
    classifiers = [LinearSVC(C=1.0).fit(seen, holds[:, place]) for place in range(len(codes))]

    def answer(questions: Sequence[str]) -> list[Codes]:
        asked = features.transform(questions)
        margins = np.stack([classifier.decision_function(asked) for classifier in classifiers], axis=1)
        return [tuple(codes[place] for place in np.flatnonzero(row > 0)) or (codes[int(row.argmax())],) for row in margins]

    return answer


def _scope(given: Sequence[Codes], rows: Sequence[Example]) -> dict[str, float]:
    inside = [set(mine) == set(row.codes) for mine, row in zip(given, rows, strict=True) if OUT_OF_SCOPE not in row.codes]
    outside = [OUT_OF_SCOPE in mine for mine, row in zip(given, rows, strict=True) if OUT_OF_SCOPE in row.codes]
    return {
        "in_scope_accuracy_without": sum(inside) / len(inside),
        "out_of_scope_recall_without": sum(outside) / len(outside),
    }
