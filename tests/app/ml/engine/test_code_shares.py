"""A classifier's shares joined with the model's probabilities: over a trie, in both engines, and from rows to answers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ml.adapter_card import read_card
from app.ml.codes import AnswerGrammar, AnswerState, CodeVocabulary
from app.ml.engine.answering import AnswerEngine
from app.ml.engine.asks import Ask
from app.ml.engine.code_classifier import CLASSIFIER, find_code_classifier
from app.ml.engine.code_shares import CodeShares
from app.ml.engine.decoding import decode_constrained, observe_constrained
from app.ml.engine.drafted.engine import DraftedEngine
from app.ml.engine.drafted.lookout import Lookout
from app.ml.engine.evaluating import HeldOut
from app.ml.model_store import BaseModelFolder
from app.ml.spec import resolve_spec
from tests.app.ml.engine.drafted.test_engine import answered
from tests.app.ml.engine.test_decoding import make_grammar
from tests.app.ml.engine.training_help import CPU, load
from tests.fixtures.tiny import BOS, EOS, PAD, TINY, write_tiny_model
from tests.worker.assignments import training_assignment
from worker.assignment import OUTPUT, Assignment
from worker.child import finetune
from worker.child_inputs import load_base
from worker.line import SilentLine
from worker.messages import Finished, Message, Note

CODES = st.lists(st.text("ab", min_size=1, max_size=4), min_size=2, max_size=6, unique=True)
PROMPTS = st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=20).map(lambda ids: [BOS, *ids]), min_size=1, max_size=3)
SHARES = st.lists(st.floats(0.001, 1.0), min_size=6, max_size=6)


@pytest.fixture(scope="module")
def drafted(sharp_folder: BaseModelFolder) -> DraftedEngine:
    return DraftedEngine(load(sharp_folder), adapter_gib=0.01, most_adapters=4)


def spelled(codes: list[str]) -> AnswerGrammar:
    return AnswerGrammar(CodeVocabulary(tuple(codes), 1), lambda text: list(text.encode()), end_id=EOS)


def shares_for(grammar: AnswerGrammar, shares: list[float], weight: float) -> CodeShares:
    said = np.array(shares[: len(grammar.vocabulary.codes)])
    return CodeShares.of(said / said.sum(), grammar, weight)


def every_answer(grammar: AnswerGrammar, state: AnswerState, shares: CodeShares) -> "list[tuple[tuple[str, ...], float]]":
    """All complete answers with the sum of their log-probabilities, where the model finds all edges alike."""
    if state.ended:
        return [(grammar.codes_of(state), 0.0)]
    edges = grammar.edges(state)
    uniform = [-math.log(len(edges))] * len(edges)
    joined = shares.joined(uniform, [grammar.edge_low[edge] for edge in edges], [grammar.edge_high[edge] for edge in edges])
    found = []
    for edge, log_p in zip(edges, joined.tolist(), strict=True):
        found += [(codes, log_p + rest) for codes, rest in every_answer(grammar, grammar.follow(state, edge), shares)]
    return found


@given(codes=CODES, shares=SHARES)
def test_beside_a_model_that_finds_all_alike_an_answer_is_as_likely_as_the_classifier_says(
    codes: list[str], shares: list[float]
) -> None:
    grammar = spelled(codes)
    said = np.array(shares[: len(codes)]) / sum(shares[: len(codes)])
    found = dict(every_answer(grammar, grammar.initial, shares_for(grammar, shares, 1.0)))
    assert {code: math.exp(found[(code,)]) for code in codes} == pytest.approx(dict(zip(codes, said, strict=True)))


@given(said=st.lists(st.floats(-20, 0), min_size=2, max_size=6), shares=SHARES, weight=st.floats(0, 4))
def test_joined_probabilities_are_the_normalised_product_and_what_is_closed_stays_closed(
    said: list[float], shares: list[float], weight: float
) -> None:
    count = len(said)
    both = CodeShares(np.concatenate([[0.0], np.cumsum(shares[:count])]), weight)
    joined = np.exp(both.joined([*said, -math.inf], [*range(count), 0], [*range(1, count + 1), 1]))
    product = np.exp(said) * np.array(shares[:count]) ** weight
    assert joined[:-1] == pytest.approx(product / product.sum(), abs=1e-9)
    assert joined[-1] == 0.0


@settings(max_examples=20)
@given(prompts=PROMPTS, codes=CODES, shares=SHARES, weight=st.floats(0.1, 2.0), width=st.integers(1, 4))
def test_the_drafted_engine_joins_them_as_stepwise_decoding_does(
    drafted: DraftedEngine,
    prompts: list[list[int]],
    codes: list[str],
    shares: list[float],
    weight: float,
    width: int,
) -> None:
    grammar = make_grammar(drafted.base, CodeVocabulary(tuple(codes), 1))
    both = shares_for(grammar, shares, weight)
    network = drafted.base.network
    stepwise = decode_constrained(network, prompts, grammar, pad_id=PAD, device=CPU, shares=[both] * len(prompts))
    beams = decode_constrained(network, prompts, grammar, pad_id=PAD, device=CPU, width=width, shares=[both] * len(prompts))
    observed = observe_constrained(network, prompts, grammar, pad_id=PAD, device=CPU, shares=[both] * len(prompts))
    questions = answered(drafted, prompts, grammar, drafts=8, width=width, shares=both)
    for question, (best,), beam, seen in zip(questions, stepwise, beams, observed, strict=True):
        assert question.best is not None
        assert question.best.codes == best.codes == seen.codes
        assert question.best.confidence == pytest.approx(best.confidence, rel=1e-3)
        if width > 1:
            assert [one.codes for one in question.beam] == [one.codes for one in beam]


def test_a_sure_classifier_decides_where_its_weight_lets_it(drafted: DraftedEngine) -> None:
    grammar = make_grammar(drafted.base, CodeVocabulary(("ab", "b", "ba"), 1))
    prompt = [BOS, *b"how to stop plan A"]
    (alone,) = answered(drafted, [prompt], grammar, drafts=0, width=1)
    assert alone.best is not None
    for code in grammar.vocabulary.codes:
        said = [0.999999 if other == code else 5e-7 for other in grammar.vocabulary.codes]
        (sure,) = answered(drafted, [prompt], grammar, drafts=0, width=1, shares=shares_for(grammar, said, 4.0))
        (unheard,) = answered(drafted, [prompt], grammar, drafts=0, width=1, shares=shares_for(grammar, said, 0.0))
        assert sure.best is not None and unheard.best is not None
        assert sure.best.codes == (code,)
        assert unheard.best.codes == alone.best.codes


# ---- from rows to answers

ASKS = {"stop": "stop_1", "price of": "price_1", "how to open": "open_1"}
THINGS = [f"plan {first}{second}" for first in "abcdef" for second in "xyz"]
ROWS = [{"instruction": f"{ask} {thing}", "output": code} for ask, code in ASKS.items() for thing in THINGS]


def assignment_in(folder: Path, rows: list[dict[str, str]], **asked: Any) -> Assignment:
    folder.mkdir(parents=True)
    (folder / "rows.json").write_text(json.dumps(rows))
    few = {"preset": "quick", "lora_rank": 4, "precision": "fp32", "min_train_steps": 1, "max_train_steps": 2}
    (folder / "held_out.json").write_text(json.dumps(rows[::9]))
    spec = resolve_spec({**few, "classifier_weight": 2.0, **asked})
    base = write_tiny_model(folder / "models" / TINY)
    return training_assignment(base, folder / "rows.json", spec, validation=folder / "held_out.json")


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Assignment, Path, Finished]:
    """A model that has hardly learnt anything, with a classifier that has."""
    folder = tmp_path_factory.mktemp("classified") / "run"
    assignment = assignment_in(folder, ROWS)
    ending = finetune(assignment, folder, SilentLine())
    assert isinstance(ending, Finished)
    return assignment, folder / OUTPUT / "adapter", ending


@pytest.mark.parametrize("is_padded", [False, True])
def test_an_adapters_classifier_has_its_say_in_every_engine(
    classified: tuple[Assignment, Path, Finished], is_padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assignment, adapter, ending = classified
    if is_padded:
        monkeypatch.setattr("app.ml.engine.answering.find_anatomy", lambda network: None)
    engine, checksum = AnswerEngine(load_base(assignment, precision="fp32")), ending.result["checksum"]
    engine.load(checksum, adapter)
    assert read_card(adapter).has_classifier
    questions = [f"{ask} plan qq" for ask in ASKS]
    wanted = [(code,) for code in ASKS.values()]

    answers = engine.answer(questions, checksum=checksum)
    assert [answer.best.codes for answer in answers] == wanted
    assert [answer.best.codes for answer in engine.answer(questions, checksum=checksum, alternatives=2)] == wanted
    observed = engine.observe(questions, checksum)
    assert [one.codes for one in observed] == wanted
    said = [math.exp(sum(step[chosen] for step, chosen in zip(one.steps, one.chosen, strict=True))) for one in observed]
    assert said == pytest.approx([answer.best.confidence for answer in answers], rel=1e-3), "calibration sees what is said"
    assert ending.result["metrics"]["validation"]["exact_match"] == 1.0, "the training answers as the answerer will"


def test_what_the_lookout_finds_of_them_is_what_the_engine_would_find(classified: tuple[Assignment, Path, Finished]) -> None:
    assignment, adapter, ending = classified
    engine, checksum = AnswerEngine(load_base(assignment, precision="fp32")), ending.result["checksum"]
    engine.load(checksum, adapter)
    assert engine.drafted is not None
    questions = [f"{ask} plan qq" for ask in ASKS] * 40
    alone = [(one.best.codes, one.best.confidence) for one in engine.answer(questions, checksum=checksum)]
    lookout = Lookout(engine.drafted.shelf)
    engine.drafted._lookout = lookout
    given = [(one.best.codes, pytest.approx(one.best.confidence)) for one in engine.answer(questions, checksum=checksum)]
    assert given == alone
    assert lookout._looking is not None
    assert lookout._looking.exception(5) is None


def test_values_outside_the_vocabulary_are_the_models_alone(classified: tuple[Assignment, Path, Finished]) -> None:
    assignment, adapter, ending = classified
    engine, checksum = AnswerEngine(load_base(assignment, precision="fp32")), ending.result["checksum"]
    engine.load(checksum, adapter)
    for mode in ("open_values", "free"):
        assert engine.answer_mixed([Ask("stop plan qq", checksum, mode=mode)])[0].best.codes  # type: ignore[arg-type]


def test_the_weight_goes_with_the_temperature_of_the_whole(classified: tuple[Assignment, Path, Finished], tmp_path: Path) -> None:
    assignment, adapter, _ = classified
    engine = AnswerEngine(load_base(assignment, precision="fp32"))
    engine.load_unsealed("cool", adapter)
    assert engine.drafted is not None
    loaded = engine.drafted.shelf.loaded["cool"]
    plain, hot = (loaded.shares("stop plan qq", "closed", factor=factor) for factor in (1.0, 0.5))
    assert plain is not None and hot is not None
    assert (plain.weight, hot.weight) == (2.0, 1.0)
    assert loaded.shares("stop plan qq", "open_values", factor=1.0) is None


def test_a_job_says_that_a_classifier_has_a_say(tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(SilentLine):
        def say(self, message: Message) -> None:
            said.extend([message.text] if isinstance(message, Note) else [])

    assert isinstance(finetune(assignment_in(tmp_path / "run", ROWS), tmp_path / "run", Listening()), Finished)
    assert "Every answer is one code of 3: a linear classifier has a say in answers." in said


def test_answers_of_several_codes_have_no_classifier(tmp_path: Path) -> None:
    rows = [{**row, "output": f"{row['output']}|9.9"} for row in ROWS]
    assert isinstance(finetune(assignment_in(tmp_path / "run", rows), tmp_path / "run", SilentLine()), Finished)
    adapter = tmp_path / "run" / OUTPUT / "adapter"
    assert not (adapter / CLASSIFIER).exists()
    assert not read_card(adapter).has_classifier


def test_a_job_that_wants_no_classifier_gets_none(tmp_path: Path) -> None:
    assert isinstance(
        finetune(assignment_in(tmp_path / "run", ROWS, classifier_weight=0.0), tmp_path / "run", SilentLine()), Finished
    )
    assert find_code_classifier(tmp_path / "run" / OUTPUT / "adapter") is None


def test_held_out_rows_without_a_classifier_have_no_shares(drafted: DraftedEngine) -> None:
    grammar = make_grammar(drafted.base, CodeVocabulary(("a", "b"), 1))
    assert HeldOut([], [], [], [], grammar).shares([]) is None
