"""A pass's steps in Triton against plain torch, in Triton's interpreter: no GPU is needed."""

from typing import Any

import pytest
import torch

from app.ml.codes import AnswerGrammar, CodeVocabulary
from app.ml.engine.drafted import gate_kernels
from app.ml.engine.drafted.drafting import DraftLimits
from app.ml.engine.drafted.engine import DraftedEngine
from app.ml.engine.drafted.feeding import Feeding
from app.ml.engine.drafted.grammar_arrays import grammar_arrays
from app.ml.engine.drafted.kernels import KernelSteps
from app.ml.engine.drafted.passes import FedAdapter, PassShape, build_pass, exact_shape
from app.ml.engine.drafted.questions import AnswerPlan, Question
from app.ml.engine.drafted.recall import nothing_likely
from app.ml.engine.drafted.slots import SlotShape, random_adapter
from app.ml.engine.drafted.successions import count_successions
from app.ml.engine.loading import LoadedModel
from app.ml.engine.packed.anatomy import find_anatomy
from tests.app.ml.engine.packed.families import FAMILIES, make_network
from tests.app.ml.engine.training_help import CPU

CODES = CodeVocabulary(("ab", "a", "abb", "b"), 3)
PROMPTS = (list(range(3, 40)), [5, 9, 11], list(range(60, 3, -1)))


def encode(text: str) -> list[int]:
    return [ord(char) % 50 + 4 for char in text]


def engine_of(family: str) -> DraftedEngine:
    network = make_network(family)
    assert find_anatomy(network) is not None
    tokenizer: Any = None
    engine = DraftedEngine(LoadedModel(family, "", network, tokenizer, CPU, torch.float32), adapter_gib=0.05, most_adapters=3)
    shape = SlotShape(4, frozenset({"q_proj", "v_proj", "gate_proj", "up_proj", "down_proj", "o_proj"}), True)
    engine.shelf.grow(shape)
    for slot in range(2):
        engine.shelf._slots.write(slot, random_adapter(engine.network, shape, seed=slot))
    return engine


def feedings_of(engine: DraftedEngine, grammar: AnswerGrammar) -> list[Feeding]:
    training = count_successions(grammar, [((code,), 1) for code in range(len(CODES.codes))])
    plan = AnswerPlan(grammar, grammar_arrays(grammar), lambda _: "", nothing_likely(), training, 1.0, 0.0, 1, None)
    found = []
    for prompt in PROMPTS:
        question = Question(prompt, plan)
        row = engine.rows.take(prompt, -1, room=30)
        assert row is not None
        question.sit(row)
        feeding = question.feed(DraftLimits(12, 0.0001), most_linear=1000)
        assert feeding is not None
        found.append(feeding)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_of_kernels_is_the_eager_pass(family: str) -> None:
    engine = engine_of(family)
    grammar = AnswerGrammar(CODES, encode, end_id=1)
    columns, _ = engine.shelf.columns.columns_of(grammar.edge_token)
    offset, _ = engine.shelf.edges.add(grammar, columns)
    feedings = feedings_of(engine, grammar)
    adapters = [FedAdapter(-1, offset), FedAdapter(0, offset), FedAdapter(1, offset)]
    exact = exact_shape(feedings, adapters, 16)
    eager = build_pass(feedings, adapters, exact, idle_place=engine.rows.idle_place, is_eager=True)
    expected = engine.runner.run_eagerly(eager)
    keys = engine.rows.keys.clone()
    engine.rows.keys.zero_()
    engine.rows.values.zero_()
    # Larger than needed: idle tokens and blocks must change nothing.
    shape = PassShape(exact.tokens + 7, exact.scored + 3, 8, exact.token_blocks + 2, exact.adapter_blocks + 2, 16)
    host = build_pass(feedings, adapters, shape, idle_place=engine.rows.idle_place, is_eager=False)
    tokens = host.on(CPU)
    found = engine.network.run(
        tokens,
        KernelSteps(engine.network, engine.rows, tokens),
        engine.rows,
        engine.shelf.edges.numbers,
        engine.shelf.columns.weight,
        width=32,
    )
    count = exact.scored
    assert found.choice[0, :count].tolist() == expected.choice[0].tolist()
    torch.testing.assert_close(found.hidden[:count], expected.hidden, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(engine.rows.keys[:, :-1], keys[:, :-1], rtol=1e-3, atol=1e-4)
    width = expected.log_p.shape[1]
    torch.testing.assert_close(found.log_p[:count, :width], expected.log_p, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize(("tokens", "inputs", "width"), [(1, 48, 40), (33, 130, 70)])
def test_a_product_gated_in_one_go_is_the_product_and_then_its_gate(
    activation: str, tokens: int, inputs: int, width: int
) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(tokens, inputs), torch.randn(2 * width, inputs) / inputs**0.5
    expected = gate_kernels.gate(torch.nn.functional.linear(x, weight), activation)
    torch.testing.assert_close(gate_kernels.gated_product(x, weight, activation), expected, rtol=1e-4, atol=1e-5)
