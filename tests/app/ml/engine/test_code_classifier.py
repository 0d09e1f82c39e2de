"""The linear classifier of questions by their characters."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from app.ml.codes import CodeVocabulary
from app.ml.engine import code_classifier
from app.ml.engine.code_classifier import CLASSIFIER, CodeClassifier, find_code_classifier

ASKS = {"stop": "stop_1", "price of": "price_1", "how to open": "open_1"}
THINGS = [f"plan {first}{second}" for first in "abcdef" for second in "xyz"]
ROWS = [(f"{ask} {thing}", code) for ask, code in ASKS.items() for thing in THINGS]
VOCABULARY = CodeVocabulary(("open_1", "never_1", "price_1", "stop_1"), 1)


def train(rows: list[tuple[str, str]], vocabulary: CodeVocabulary = VOCABULARY) -> CodeClassifier | None:
    return CodeClassifier.train([question for question, _ in rows], [(code,) for _, code in rows], vocabulary)


@pytest.fixture(scope="module")
def trained() -> CodeClassifier:
    found = train(ROWS)
    assert found is not None
    return found


def likeliest(classifier: CodeClassifier, question: str, vocabulary: CodeVocabulary = VOCABULARY) -> str:
    return vocabulary.codes[int(classifier.probabilities(question).argmax())]


def test_what_is_asked_is_told_of_things_that_no_row_names(trained: CodeClassifier) -> None:
    for ask, code in ASKS.items():
        assert likeliest(trained, f"Please {ask.upper()} plan qq") == code


def test_two_codes_are_told_apart_as_more_are() -> None:
    rows = [row for row in ROWS if row[1] != "open_1"]
    found = train(rows)
    assert found is not None
    assert [likeliest(found, f"{ask} plan qq") for ask in ("stop", "price of")] == ["stop_1", "price_1"]


def test_a_code_that_no_row_has_is_hardly_likely(trained: CodeClassifier) -> None:
    said = trained.probabilities("stop plan ax")
    assert said[VOCABULARY.index_of("never_1")] == said.min()
    assert said.max() > 0.9


@given(question=st.text(max_size=400))
def test_any_text_has_probabilities(trained: CodeClassifier, question: str) -> None:
    said = trained.probabilities(question)
    assert said.shape == (len(VOCABULARY.codes),)
    assert (said >= 0).all()
    assert said.sum() == pytest.approx(1.0)


def test_the_same_rows_give_the_same_classifier_and_a_stored_one_says_the_same(trained: CodeClassifier, tmp_path: Path) -> None:
    again = train(ROWS)
    assert again is not None
    again.save(tmp_path)
    stored = find_code_classifier(tmp_path)
    assert stored is not None
    for question, _ in ROWS[::7]:
        assert np.array_equal(stored.probabilities(question), trained.probabilities(question))


def test_there_is_none_where_there_is_nothing_to_tell_or_too_little_to_learn_from() -> None:
    assert CodeClassifier.train(["a", "b"] * 20, [("x",), ("x", "y")] * 20, CodeVocabulary(("x", "y"), 2)) is None
    assert train([("stop plan", "stop_1")] * 50) is None, "all have the same answer"
    assert train(ROWS[::7]) is None, "fewer than ten rows a code"
    assert train([]) is None


def test_of_very_many_rows_evenly_spread_ones_are_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(ROWS)
    monkeypatch.setattr(code_classifier, "_MOST_ROWS", 36)
    found = train(ROWS)
    assert whole is not None and found is not None
    assert 0 < len(found.hashes) < len(whole.hashes)
    assert likeliest(found, "how to open plan qq") == "open_1"
    monkeypatch.setattr(code_classifier, "_MOST_ROWS", 12)
    assert train(ROWS) is None, "too few would be left"


def test_of_long_rows_fewer_are_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(ROWS)
    work = len(ASKS) * sum(len(code_classifier._ngrams(question)) for question, _ in ROWS)
    monkeypatch.setattr(code_classifier, "_MOST_WORK", work)
    same = train(ROWS)
    monkeypatch.setattr(code_classifier, "_MOST_WORK", work // 4 * 3)
    fewer = train(ROWS)
    assert whole is not None and same is not None and fewer is not None
    assert np.array_equal(same.rarity, whole.rarity)
    assert not np.array_equal(fewer.rarity, whole.rarity)
    monkeypatch.setattr(code_classifier, "_MOST_WORK", work // 2)
    assert train(ROWS) is None, "too few would be left"


def test_the_ngrams_of_most_questions_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_classifier, "_MOST_NGRAMS", 40)
    found = train(ROWS)
    assert found is not None
    assert 0 < len(found.hashes) <= 40
    assert likeliest(found, "how to open plan qq") == "open_1"


def test_a_file_of_another_version_is_none(trained: CodeClassifier, tmp_path: Path) -> None:
    assert find_code_classifier(tmp_path) is None
    trained.save(tmp_path)
    save_file(load_file(tmp_path / CLASSIFIER), tmp_path / CLASSIFIER, metadata={"version": "0"})
    assert find_code_classifier(tmp_path) is None


def test_whoever_answers_needs_no_library_of_training(trained: CodeClassifier, tmp_path: Path) -> None:
    trained.save(tmp_path)
    code = (
        "import sys; from pathlib import Path; from app.ml.engine.code_classifier import find_code_classifier\n"
        "find_code_classifier(Path(sys.argv[1])).probabilities('stop plan ax')\n"
        "assert not {'sklearn', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
