import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.answers.backends.completion import read_completion
from app.errors import Internal
from app.ml.codes import SEPARATOR, CodeVocabulary, join_codes
from tests.app.ml.strategies import ANSWER

VOCABULARY = CodeVocabulary(("开通方式_1", "开通方式_12", "9.9"), 3)


def completion(text: str, logprobs: Any = None, *, finish_reason: str = "stop") -> dict[str, Any]:
    choice = {"text": text, "finish_reason": finish_reason, "logprobs": logprobs}
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


def side_by_side(*tokens: tuple[str, float | None]) -> dict[str, Any]:
    return {"tokens": [text for text, _ in tokens], "token_logprobs": [value for _, value in tokens]}


def test_a_code_has_the_probability_of_its_tokens_and_of_the_separator_or_end_after_it() -> None:
    logprobs = side_by_side(("开通方式_", -0.5), ("1", -0.25), ("|", -0.125), ("9.", -1.0), ("9", 0.0), ("<eos>", -2.0))

    best = read_completion(completion("开通方式_1|9.9", logprobs), VOCABULARY).best

    assert [code.confidence for code in best.codes] == pytest.approx([math.exp(-0.875), math.exp(-3.0)])
    assert best.confidence == pytest.approx(math.exp(-3.875))


def test_the_shape_of_llama_cpp_says_the_same() -> None:
    pairs = (("开通方式_1", -0.5), ("|", -0.125), ("9.9", -1.0), ("", -2.0))
    content = {"content": [{"token": text, "logprob": value, "bytes": []} for text, value in pairs]}

    assert read_completion(completion("开通方式_1|9.9", content), VOCABULARY) == read_completion(
        completion("开通方式_1|9.9", side_by_side(*pairs)), VOCABULARY
    )


def test_a_token_across_the_separator_belongs_to_the_code_that_it_ends() -> None:
    best = read_completion(
        completion("9.9|开通方式_1", side_by_side(("9.9", -0.5), ("|开通", -1.0), ("方式_1", -2.0))), VOCABULARY
    ).best

    assert [code.confidence for code in best.codes] == pytest.approx([math.exp(-1.5), math.exp(-2.0)])


def test_where_tokens_are_parts_of_characters_each_code_has_the_answers_confidence() -> None:
    best = read_completion(
        completion("9.9|开通方式_1", side_by_side(("9.9|", -0.5), ("\ufffd", -1.0), ("\ufffd", -2.0))), VOCABULARY
    ).best

    assert [code.confidence for code in best.codes] == pytest.approx([math.exp(-3.5)] * 2)


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"tokens": None, "token_logprobs": None},
        side_by_side(("9.9", None)),
        side_by_side(("9.9", math.nan)),
        {"content": None},
    ],
)
def test_an_engine_that_tells_no_probabilities_gives_no_confidence(logprobs: Any) -> None:
    best = read_completion(completion("9.9", logprobs), VOCABULARY).best

    assert (best.confidence, best.codes[0].confidence, best.codes[0].in_vocabulary) == (0.0, 0.0, True)


@given(ANSWER, st.data())
def test_the_answers_confidence_is_the_product_of_the_codes(answer: tuple[str, ...], data: st.DataObject) -> None:
    text = join_codes(answer)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text) - 1)))))
    parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    values = data.draw(st.lists(st.floats(-5, 0.001), min_size=len(parts), max_size=len(parts)))

    best = read_completion(completion(text, side_by_side(*zip(parts, values, strict=True))), CodeVocabulary(answer, 4)).best

    assert [code.code for code in best.codes] == list(answer)
    assert best.confidence == pytest.approx(math.prod(code.confidence for code in best.codes))
    assert all(0 <= code.confidence <= 1 and code.in_vocabulary for code in best.codes)


def test_a_code_that_was_said_before_is_dropped() -> None:
    best = read_completion(completion("9.9|开通方式_1|9.9"), VOCABULARY).best

    assert [code.code for code in best.codes] == ["9.9", "开通方式_1"]


def test_a_code_that_the_vocabulary_has_not_is_marked() -> None:
    best = read_completion(completion("9.9|开通方式_3"), VOCABULARY).best

    assert [code.in_vocabulary for code in best.codes] == [True, False]


@pytest.mark.parametrize("text", ["", SEPARATOR, "9.9|", "9.9||开通方式_1"])
def test_a_missing_code_is_marked(text: str) -> None:
    assert not all(code.in_vocabulary for code in read_completion(completion(text), VOCABULARY).best.codes)


@pytest.mark.parametrize("text", ["9.9|开通方式_1", "开通方式_1|开通方式_1"])
def test_the_last_code_of_an_answer_that_was_cut_off_is_not_believed(text: str) -> None:
    best = read_completion(completion(text, finish_reason="length"), VOCABULARY).best

    assert not best.codes[-1].in_vocabulary


def test_a_base_model_is_heard_to_the_end_of_its_first_line() -> None:
    logprobs = side_by_side(("\n", -0.5), ("你好", -0.25), ("\n", -0.125), ("吗", -4.0))

    best = read_completion(completion("\n你好\n吗", logprobs), None).best

    assert [(code.code, code.in_vocabulary) for code in best.codes] == [("你好", False)]
    assert best.confidence == pytest.approx(math.exp(-0.875))


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "text",
        {},
        {"choices": []},
        completion("9.9") | {"usage": None},
        completion("9.9") | {"usage": {"prompt_tokens": 1}},
        completion("9.9") | {"usage": {"prompt_tokens": math.inf, "completion_tokens": 1}},
        completion("9.9") | {"choices": [None]},
        completion("9.9") | {"choices": [{"text": None}]},
        completion("9.9", "text"),
        completion("9.9", 5),
        completion("9.9", ["text"]),
        completion("9.9", {"tokens": ["9.9"], "token_logprobs": []}),
        completion("9.9", {"tokens": [9], "token_logprobs": [-1.0]}),
        completion("9.9", {"tokens": ["9"], "token_logprobs": ["x"]}),
        completion("9.9", {"content": [{}]}),
        completion("9.9", {"content": [5]}),
    ],
)
def test_a_body_that_is_no_completion_is_refused_without_its_text(body: Any) -> None:
    with pytest.raises(Internal) as caught:
        read_completion(body, VOCABULARY)

    assert "9.9" not in caught.value.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["choices", "text", "usage", "logprobs", "tokens", "content"]), children, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values, json_values)
def test_whatever_an_engine_sends_is_an_answer_or_our_error(body: Any, logprobs: Any) -> None:
    for sent in (body, completion("9.9", logprobs)):
        try:
            best = read_completion(json.loads(json.dumps(sent)), VOCABULARY).best
        except Internal:
            continue
        assert 0 <= best.confidence <= 1
