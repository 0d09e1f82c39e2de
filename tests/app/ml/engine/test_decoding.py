import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ml.codes import AnswerGrammar, AnswerState, CodeVocabulary, join_codes
from app.ml.engine.decoding import DecodedAnswer, decode_constrained, decode_free
from app.ml.engine.loading import LoadedModel
from app.ml.model_store import BaseModelFolder
from tests.app.ml.engine.training_help import CPU, Published, grammar_for, load, token_rows
from tests.fixtures.tiny import BOS, EOS, PAD

# Prompts on both sides of the tiny model's sliding window of 32 tokens; codes of two letters, so that many share a start.
PROMPTS = st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=45).map(lambda ids: [BOS, *ids]), min_size=1, max_size=4)
VOCABULARIES = st.builds(
    lambda codes, most: CodeVocabulary(tuple(codes), min(most, len(codes))),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=6, unique=True),
    st.integers(1, 3),
)
SMALL = CodeVocabulary(("ab", "a", "abb"), 2)
QUESTION = [BOS, *b"how to stop plan A, and what does it cost"]


@pytest.fixture(scope="module")
def shared(sharp_folder: BaseModelFolder) -> LoadedModel:
    """A base model that no test changes."""
    return load(sharp_folder)


def make_grammar(base: LoadedModel, vocabulary: CodeVocabulary) -> AnswerGrammar:
    return AnswerGrammar(vocabulary, base.tokenizer.encode, end_id=EOS)


@torch.inference_mode()
def next_log_probabilities(network: Any, ids: Sequence[int], allowed: Sequence[int]) -> torch.Tensor:
    """The reference: one unpadded row, no cache, all logits, everything masked that the grammar forbids."""
    logits: torch.Tensor = network(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, -1].float()
    forbidden = torch.ones_like(logits, dtype=torch.bool)
    forbidden[list(allowed)] = False
    return logits.masked_fill(forbidden, -math.inf).log_softmax(-1)


def greedy_reference(network: Any, prompt: Sequence[int], grammar: AnswerGrammar) -> tuple[tuple[str, ...], float]:
    ids, state, total = list(prompt), grammar.initial, 0.0
    while allowed := grammar.allowed(state):
        best, token = next_log_probabilities(network, ids, allowed).max(-1)
        total += float(best)
        ids.append(int(token))
        state = grammar.advance(state, int(token))
    return grammar.codes_of(state), math.exp(total)


def every_answer(
    network: Any, ids: list[int], grammar: AnswerGrammar, state: AnswerState
) -> Iterator[tuple[tuple[str, ...], float]]:
    allowed = grammar.allowed(state)
    if not allowed:
        yield grammar.codes_of(state), 0.0
        return
    scores = next_log_probabilities(network, ids, allowed)
    for token in allowed:
        for codes, rest in every_answer(network, [*ids, token], grammar, grammar.advance(state, token)):
            yield codes, float(scores[token]) + rest


def decode(
    base: LoadedModel, prompts: Sequence[Sequence[int]], grammar: AnswerGrammar, width: int = 1
) -> list[list[DecodedAnswer]]:
    return decode_constrained(base.network, prompts, grammar, pad_id=PAD, device=CPU, width=width)


@settings(max_examples=15)
@given(prompts=PROMPTS, vocabulary=VOCABULARIES)
def test_greedy_answers_are_those_of_a_stepwise_reference(
    shared: LoadedModel, prompts: list[list[int]], vocabulary: CodeVocabulary
) -> None:
    grammar = make_grammar(shared, vocabulary)
    for (answer,), prompt in zip(decode(shared, prompts, grammar), prompts, strict=True):
        codes, probability = greedy_reference(shared.network, prompt, grammar)
        assert answer.codes == codes
        assert answer.confidence == pytest.approx(probability, rel=1e-3)


def test_an_adapters_greedy_answers_are_those_of_a_stepwise_reference(
    shared: LoadedModel, published: dict[str, Published]
) -> None:
    network, examples = published["dora"].network, published["dora"].examples
    grammar = grammar_for(shared, examples)
    prompts = [row.prompt for row in token_rows(shared, examples)] + [QUESTION]
    answers = decode_constrained(network, prompts, grammar, pad_id=PAD, device=CPU)
    assert [answer.codes for (answer,) in answers] == [greedy_reference(network, prompt, grammar)[0] for prompt in prompts]


@settings(max_examples=10)
@given(prompts=PROMPTS, vocabulary=VOCABULARIES)
def test_the_confidence_of_an_answer_is_the_product_of_its_codes(
    shared: LoadedModel, prompts: list[list[int]], vocabulary: CodeVocabulary
) -> None:
    for (answer,) in decode(shared, prompts, make_grammar(shared, vocabulary)):
        assert len(answer.code_confidences) == len(answer.codes)
        assert all(0.0 <= value <= 1.0 + 1e-6 for value in answer.code_confidences)
        assert answer.confidence == pytest.approx(math.prod(answer.code_confidences))


@settings(max_examples=10)
@given(
    prompt=PROMPTS.map(lambda prompts: prompts[0]),
    codes=st.lists(st.text("ab1", min_size=1, max_size=3), min_size=3, max_size=3, unique=True).map(tuple),
    width=st.integers(9, 20),
)
def test_a_wide_beam_finds_every_answer_with_its_probability(
    shared: LoadedModel, prompt: list[int], codes: tuple[str, ...], width: int
) -> None:
    # 3 codes, at most 2 of them in an answer: 3 + 3 * 2 answers.
    grammar = make_grammar(shared, CodeVocabulary(codes, 2))
    expected = dict(every_answer(shared.network, prompt, grammar, grammar.initial))
    assert len(expected) == 9
    (beam,) = decode(shared, [prompt], grammar, width)
    found = {answer.codes: answer.confidence for answer in beam}
    assert len(beam) == len(found) == 9
    assert found == {answer: pytest.approx(math.exp(score), rel=1e-3) for answer, score in expected.items()}
    assert sum(found.values()) == pytest.approx(1.0, rel=1e-4)
    assert list(found.values()) == sorted(found.values(), reverse=True)


@settings(max_examples=10)
@given(prompts=PROMPTS, vocabulary=VOCABULARIES, width=st.integers(2, 5))
def test_a_beam_gives_distinct_valid_answers_best_first(
    shared: LoadedModel, prompts: list[list[int]], vocabulary: CodeVocabulary, width: int
) -> None:
    for beam in decode(shared, prompts, make_grammar(shared, vocabulary), width):
        assert 1 <= len(beam) <= width
        assert len({answer.codes for answer in beam}) == len(beam)
        assert all(code in vocabulary for answer in beam for code in answer.codes)
        confidences = [answer.confidence for answer in beam]
        assert confidences == sorted(confidences, reverse=True)


@settings(max_examples=10)
@given(prompts=PROMPTS, vocabulary=VOCABULARIES)
def test_a_beam_of_a_question_is_the_same_alone_and_in_a_batch(
    shared: LoadedModel, prompts: list[list[int]], vocabulary: CodeVocabulary
) -> None:
    grammar = make_grammar(shared, vocabulary)
    together = decode(shared, prompts, grammar, 3)
    for beam, prompt in zip(together, prompts, strict=True):
        (alone,) = decode(shared, [prompt], grammar, 3)
        assert [answer.codes for answer in beam] == [answer.codes for answer in alone]


@settings(max_examples=10)
@given(prompt=PROMPTS.map(lambda prompts: prompts[0]))
def test_the_best_of_a_beam_that_holds_every_path_is_no_worse_than_greedy(shared: LoadedModel, prompt: list[int]) -> None:
    # A narrower beam may lose the greedy path to partial answers that end worse.
    grammar = make_grammar(shared, SMALL)
    ((greedy,),), (beam,) = decode(shared, [prompt], grammar), decode(shared, [prompt], grammar, 9)
    assert beam[0].confidence >= greedy.confidence * (1 - 1e-4)
    assert greedy.codes in [answer.codes for answer in beam]


def test_a_vocabulary_of_one_code_is_answered_for_certain(shared: LoadedModel) -> None:
    ((answer,),) = decode(shared, [QUESTION], make_grammar(shared, CodeVocabulary(("业务简介_111",), 1)))
    assert answer == DecodedAnswer(("业务简介_111",), (1.0,), 1.0, tokens=17)


def test_a_free_text_ends_where_the_model_ends_it(shared: LoadedModel, published: dict[str, Published]) -> None:
    adapter = published["lora"]
    prompts = [row.prompt for row in token_rows(shared, adapter.examples)]
    texts = decode_free(adapter.network, prompts, shared.tokenizer, device=CPU, max_new_tokens=40)
    assert [text for text, _ in texts] == [join_codes(example.codes) for example in adapter.examples]
    assert all(0.5 < probability <= 1.0 for _, probability in texts)


def free_reference(base: LoadedModel, prompt: Sequence[int], most: int) -> tuple[list[int], float]:
    ids: list[int] = []
    total = 0.0
    while len(ids) < most:
        best, token = next_log_probabilities(base.network, [*prompt, *ids], range(260)).max(-1)
        total += float(best)
        if int(token) == EOS:
            break
        ids.append(int(token))
    return ids, math.exp(total)


@settings(max_examples=10)
@given(prompts=PROMPTS)
def test_free_texts_are_those_of_a_stepwise_reference(shared: LoadedModel, prompts: list[list[int]]) -> None:
    texts = decode_free(shared.network, prompts, shared.tokenizer, device=CPU, max_new_tokens=8)
    for (text, probability), prompt in zip(texts, prompts, strict=True):
        ids, expected = free_reference(shared, prompt, 8)
        whole = shared.tokenizer.decode(ids)
        assert text == whole.strip().split("\n")[0].strip()
        if "\n" not in whole:
            assert probability == pytest.approx(expected, rel=1e-3)
