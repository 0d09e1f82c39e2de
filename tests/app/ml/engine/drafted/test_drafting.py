"""Drafts: they follow the grammar, and they know what training answers say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ml.codes import AnswerGrammar, AnswerMode, AnswerState, CodeVocabulary, join_codes
from app.ml.engine.drafted.drafting import DraftLimits, draft_below
from app.ml.engine.drafted.grammar_arrays import grammar_arrays
from app.ml.engine.drafted.recall import Likely, Recall, nothing_likely
from app.ml.engine.drafted.successions import count_successions
from app.ml.engine.drafted.tree import CHOICE, DEPTH, EDGE, FORCED, NO_EDGE, NODE, PARENT, TOKEN, Tree
from app.ml.engine.question_index import QuestionIndex

END = 1
CODES = st.lists(st.text("ab1", min_size=1, max_size=4), min_size=1, max_size=8, unique=True)
MANY = CodeVocabulary((*tuple(f"plan_{number}" for number in range(40)), "9.9", "11.9"), 4)


def encode(text: str) -> list[int]:
    return [ord(char) for char in text]


def grammar_of(vocabulary: CodeVocabulary, mode: AnswerMode = "closed", *, separator: int = 1) -> AnswerGrammar:
    # A separator of several tokens, as a tokenizer may have it.
    return AnswerGrammar(vocabulary, lambda text: encode(text) * (separator if text == "|" else 1), end_id=END, mode=mode)


def drafted(
    grammar: AnswerGrammar,
    answers: list[tuple[str, ...]],
    likely: Likely | None = None,
    *,
    tokens: int = 192,
    least: float = 0.001,
    said: tuple[str, ...] = (),
) -> Tree:
    codes = grammar.vocabulary
    counted = [(tuple(codes.index_of(code) for code in answer), 1) for answer in answers]
    state = grammar.initial
    for token in encode(join_codes((*said, ""))) if said else []:
        state = grammar.advance(state, token)
    tree = Tree(state, grammar.ranks_of(state), most_codes=codes.max_codes_per_answer)
    training = count_successions(grammar, counted)
    draft_below(tree, 0, grammar_arrays(grammar), training, likely or nothing_likely(), DraftLimits(tokens, least))
    return tree


def texts_of(tree: Tree) -> list[str]:
    """The text that leads to each entry, in the order of drafting."""
    texts = [""]
    for place in range(1, tree.count):
        texts.append(texts[tree.ints[PARENT, place]] + chr(tree.ints[TOKEN, place]))
    return texts[1:]


@given(
    codes=CODES,
    most=st.integers(1, 4),
    mode=st.sampled_from(["closed", "open_values"]),
    separator=st.integers(1, 3),
    tokens=st.integers(0, 40),
)
@settings(max_examples=60)
def test_every_drafted_token_is_where_the_grammar_says(
    codes: list[str], most: int, mode: AnswerMode, separator: int, tokens: int
) -> None:
    grammar = grammar_of(CodeVocabulary(tuple(codes), min(most, len(codes))), mode, separator=separator)
    tree = drafted(grammar, [tuple(codes[: min(most, len(codes))])], tokens=tokens)
    assert tree.count <= tokens + 1
    states: list[AnswerState] = [grammar.initial]
    for place in range(1, tree.count):
        parent, token = int(tree.ints[PARENT, place]), int(tree.ints[TOKEN, place])
        assert token in grammar.allowed(states[parent])
        state = grammar.advance(states[parent], token)
        states.append(state)
        only = grammar.find_only_edge(state)
        assert tree.ints[NODE, place] == state.node
        assert tree.ints[FORCED, place] == (NO_EDGE if only is None else only)
        assert tree.ints[CHOICE, place] == (only is None and not state.separator_left)
        assert tree.ints[DEPTH, place] == tree.ints[DEPTH, parent] + 1
        assert tree.said[place, : len(state.codes)].tolist() == grammar.ranks_of(state)
        assert tree.find(parent, int(tree.ints[EDGE, place])) == place
        seen = {column for column in range(192) if int(tree.bits[place, column >> 6]) >> (column & 63) & 1}
        assert seen == ({place - 1} | _columns(tree, parent))


def _columns(tree: Tree, place: int) -> set[int]:
    columns = set()
    while place:
        columns.add(place - 1)
        place = int(tree.ints[PARENT, place])
    return columns


def test_the_nearest_questions_answer_is_drafted_whole_and_first() -> None:
    grammar = grammar_of(MANY)
    index = QuestionIndex.build(["how to stop plan five", "what costs it"], [("plan_5", "9.9"), ("11.9",)], vocabulary=MANY)
    likely = Recall(index, grammar).likely("please, how to stop plan five")
    tree = drafted(grammar, [("plan_5", "9.9"), ("11.9",)], likely, tokens=len("plan_5|9.9"))
    assert "plan_5|9.9" in texts_of(tree)


def test_numbers_run_on_even_where_training_never_showed_them() -> None:
    grammar = grammar_of(MANY)
    answers = [("plan_1", "9.9", "plan_2"), ("plan_7", "11.9", "plan_8"), ("plan_30", "plan_31")]
    assert "plan_21" in texts_of(drafted(grammar, answers, said=("plan_20", "9.9"), tokens=24))


def test_what_is_said_is_not_drafted_again() -> None:
    grammar = grammar_of(MANY)
    tree = drafted(grammar, [("9.9", "11.9"), ("11.9", "9.9")] * 5, said=("9.9",))
    assert "11.9" in texts_of(tree)
    assert "9.9" not in texts_of(tree)


@pytest.mark.parametrize(("tokens", "least"), [(0, 0.001), (24, 1.1)])
def test_nothing_is_drafted_where_nothing_may_be(tokens: int, least: float) -> None:
    assert drafted(grammar_of(MANY), [("9.9",)], tokens=tokens, least=least).count == 1
