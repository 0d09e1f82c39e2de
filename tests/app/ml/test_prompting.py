from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ml.formats.example import Example
from app.ml.prompting import PromptRenderer, Wrapper, find_wrapper
from app.ml.spec import Template
from app.ml.tokens import FileTokenizer, load_tokenizer
from tests.app.ml.strategies import PLAIN_TEXT
from tests.fixtures.tiny import BOS, EOS, PAD

TEMPLATES: tuple[Template, ...] = ("plain", "default")
WRAPPER = Wrapper("回答中国电信手机用户的问题,", ",应该怎么做？")


@pytest.fixture(scope="module")
def tokenizer(tiny_folder_path: Path) -> FileTokenizer:
    return load_tokenizer(tiny_folder_path)


def test_the_plain_template_is_the_question_and_a_newline() -> None:
    assert PromptRenderer("plain").render("怎么退订？") == "怎么退订？\n"


def test_the_default_template_is_llama_factorys() -> None:
    assert PromptRenderer("default").render("怎么退订？") == "Human: 怎么退订？\nAssistant:"


def test_a_renderer_wraps_a_bare_question() -> None:
    assert PromptRenderer("plain", Wrapper("<<", ">>")).render("x") == "<<x>>\n"


def test_a_question_may_stand_twice_as_training_had_it_and_as_it_was_typed() -> None:
    renderer = PromptRenderer("plain", WRAPPER, repeats=True)
    twice = "回答中国电信手机用户的问题,怎么退订？,应该怎么做？\n怎么退订？\n"
    assert renderer.render("怎么退订？") == renderer.render(WRAPPER.apply("怎么退订？")) == twice
    assert PromptRenderer("default", repeats=True).render("x") == "Human: x\nx\nAssistant:"


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("question", ["怎么退订？", "<bos>怎么<eos>退订<pad>", "<bos>", "a<eos>"])
def test_a_prompt_has_one_bos_and_no_control_token_that_a_user_typed(
    template: Template, question: str, tokenizer: FileTokenizer
) -> None:
    ids = PromptRenderer(template).encode(question, tokenizer)
    assert ids[0] == BOS
    assert not {BOS, EOS, PAD} & set(ids[1:])
    assert question in tokenizer.decode(ids)


def test_a_base_model_without_bos_gets_none(tokenizer: FileTokenizer) -> None:
    without = FileTokenizer(tokenizer.backend, None, EOS, PAD)
    assert PromptRenderer("plain").encode("ab", without) == tokenizer.encode("ab\n")


@settings(deadline=None)
@given(text=PLAIN_TEXT)
def test_text_comes_back_from_its_tokens(tokenizer: FileTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("template", TEMPLATES)
def test_training_and_answering_render_the_same_ids(template: Template, tokenizer: FileTokenizer) -> None:
    from app.ml.engine.batching import tokenize_examples

    words = [f"第{number}种业务怎么退订" for number in range(30)]
    questions = [WRAPPER.apply(word) for word in words]
    renderer = PromptRenderer(template, find_wrapper(questions))
    rows, _ = tokenize_examples([Example(1, q, ("a",)) for q in questions], renderer, tokenizer, cutoff_len=512)
    assert [list(row.prompt) for row in rows] == [renderer.encode(q, tokenizer) for q in questions]
    # An app may post what the customer typed, without what the finder saw around it.
    bare = [q.removeprefix(renderer.wrapper.before).removesuffix(renderer.wrapper.after) for q in questions]
    assert [list(row.prompt) for row in rows] == [renderer.encode(word, tokenizer) for word in bare]


def test_what_all_questions_share_is_the_wrapper() -> None:
    assert find_wrapper([WRAPPER.apply(f"{number}元套餐{number}") for number in range(10, 40)]) == WRAPPER


def test_a_wrapper_may_stand_on_one_side_only() -> None:
    assert find_wrapper([f"请回答问题：{number}" for number in range(10, 40)]) == Wrapper("请回答问题：", "")


def test_few_questions_have_no_wrapper() -> None:
    assert find_wrapper([WRAPPER.apply(f"{number}元{number}") for number in range(10, 29)]) == Wrapper()


def test_few_shared_characters_are_no_wrapper() -> None:
    assert find_wrapper([f"请问{number}元{number}多少？" for number in range(10, 40)]) == Wrapper()


@given(st.lists(PLAIN_TEXT, min_size=20, max_size=24))
def test_a_found_wrapper_fits_around_every_question_without_overlap(words: list[str]) -> None:
    questions = [WRAPPER.apply(word) for word in words]
    wrapper = find_wrapper(questions)
    for question in questions:
        middle = question[len(wrapper.before) : len(question) - len(wrapper.after)]
        assert wrapper.before + middle + wrapper.after == question
        assert wrapper.apply(question) == question


@given(before=st.text("ab", max_size=3), after=st.text("ab", max_size=3), question=st.text("ab", max_size=6))
def test_wrapping_twice_is_wrapping_once(before: str, after: str, question: str) -> None:
    wrapper = Wrapper(before, after)
    once = wrapper.apply(question)
    assert wrapper.apply(once) == once
    assert len(once) >= len(before) + len(after)


def test_questions_that_are_all_alike_have_no_wrapper() -> None:
    assert find_wrapper(["百度流量月包怎么取消"] * 30) == Wrapper()


@given(before=st.text(max_size=5), after=st.text(max_size=5), question=st.text(max_size=20))
def test_a_wrapper_strips_what_it_applied(before: str, after: str, question: str) -> None:
    wrapper = Wrapper(before, after)
    wrapped = wrapper.apply(question)
    assert wrapper.apply(wrapper.strip(wrapped)) == wrapped


def test_a_bare_question_is_stripped_of_nothing() -> None:
    assert Wrapper("请回答", "怎么办？").strip("请回答我") == "请回答我"
    assert Wrapper("请回答", "怎么办？").strip("请回答流量包怎么办？") == "流量包"
