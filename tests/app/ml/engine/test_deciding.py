from itertools import permutations

import pytest
import torch

from app.ml.engine.answering import AnswerEngine
from app.ml.engine.asks import EngineAnswer
from app.ml.engine.deciding import decided
from app.ml.engine.decoding import DecodedAnswer
from app.ml.engine.loading import LoadedModel
from tests.app.ml.engine.training_help import EXAMPLES, Published

QUESTIONS = [*(example.question for example in EXAMPLES), "price of plan A, and how to stop it", "is B open"]


def answer_of(*leaves: tuple[str, float], calibrated: bool = False) -> EngineAnswer:
    """An engine's answer of strings and their probabilities, the best first."""
    best, *others = [DecodedAnswer(tuple(codes), tuple(p for _ in codes), p, tokens=len(codes) + 1) for codes, p in leaves]
    known = tuple(tuple(True for _ in other.codes) for other in others)
    in_vocabulary = tuple(True for _ in best.codes)
    return EngineAnswer(best, tuple(others), 3, best.tokens, in_vocabulary, known, calibrated=calibrated, precision_threshold=0.5)


def said(answer: EngineAnswer) -> list[tuple[str, float]]:
    return [("".join(one.codes), pytest.approx(one.confidence)) for one in (answer.best, *answer.alternatives)]


def test_the_orders_of_a_set_count_together() -> None:
    answer = decided(answer_of(("a", 0.4), ("bc", 0.3), ("cb", 0.2), ("d", 0.05)), "set")
    assert said(answer) == [("bc", 0.5), ("a", 0.4), ("d", 0.05)]
    assert answer.completion_tokens == 3


def test_a_set_stands_in_its_likeliest_order() -> None:
    assert said(decided(answer_of(("bc", 0.1), ("cb", 0.3)), "set")) == [("cb", 0.4)]


def test_the_best_expected_f1_may_be_that_of_a_set_that_others_share_codes_with() -> None:
    leaves = [("a", 0.4), ("bc", 0.3), ("b", 0.25)]
    assert said(decided(answer_of(*leaves), "set"))[0] == ("a", 0.4)
    # F1 of bc and b: 2/3. bc: 0.3 + 0.25 * 2/3 = 0.467; b: 0.25 + 0.3 * 2/3 = 0.45; a: 0.4.
    assert said(decided(answer_of(*leaves), "expected_f1")) == [("bc", 0.3), ("a", 0.4), ("b", 0.25)]


def test_by_the_answer_nothing_changes() -> None:
    answer = answer_of(("a", 0.4), ("bc", 0.3), ("cb", 0.2), calibrated=True)
    assert decided(answer, "answer") == answer


def test_a_decision_over_sets_claims_no_calibration() -> None:
    answer = decided(answer_of(("a", 0.9), calibrated=True), "set")
    assert (answer.calibrated, answer.precision_threshold) == (False, None)


@pytest.mark.parametrize("name", ["lora", "embedding"])
def test_an_engine_decides_over_what_its_beam_found(base: LoadedModel, published: dict[str, Published], name: str) -> None:
    adapter = published[name]
    engine = AnswerEngine(base)
    engine.load(adapter.checksum, adapter.folder)
    with torch.inference_mode():
        plain = engine.answer(QUESTIONS, checksum=adapter.checksum, alternatives=7)
        by_set = engine.answer(QUESTIONS, checksum=adapter.checksum, alternatives=7, decide_by="set")
    for one, other in zip(plain, by_set, strict=True):
        sums: dict[frozenset[str], float] = {}
        for leaf in (one.best, *one.alternatives):
            sums[frozenset(leaf.codes)] = sums.get(frozenset(leaf.codes), 0.0) + leaf.confidence
        given = {frozenset(leaf.codes): leaf.confidence for leaf in (other.best, *other.alternatives)}
        assert given == {codes: pytest.approx(min(1.0, total), rel=1e-4) for codes, total in sums.items()}
        assert other.best.confidence == max(given.values())


def test_no_order_of_the_beam_matters() -> None:
    leaves = [("ab", 0.3), ("ba", 0.25), ("c", 0.35)]
    for order in permutations(leaves):
        assert said(decided(answer_of(*order), "set")) == [("ab", 0.55), ("c", 0.35)]
