"""The drafted engine against stepwise decoding, alone and under load; on the CPU in fp32 both must say the same."""

import gc
import random
import shutil
import threading
import time
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.durable import seal_folder
from app.ml.adapter_card import AdapterCard, read_card, write_card
from app.ml.codes import AnswerGrammar, CodeVocabulary
from app.ml.engine import question_index
from app.ml.engine.answering import AnswerEngine
from app.ml.engine.asks import Ask
from app.ml.engine.code_shares import CodeShares
from app.ml.engine.decoding import DecodedAnswer, decode_constrained
from app.ml.engine.drafted import drafting, passes, recall, tree
from app.ml.engine.drafted.drafting import DraftLimits
from app.ml.engine.drafted.engine import DraftedEngine
from app.ml.engine.drafted.grammar_arrays import grammar_arrays
from app.ml.engine.drafted.lookout import Lookout
from app.ml.engine.drafted.nodes import Node
from app.ml.engine.drafted.passes import FedAdapter
from app.ml.engine.drafted.questions import AnswerPlan, Question
from app.ml.engine.drafted.recall import nothing_likely
from app.ml.engine.drafted.running import judge
from app.ml.engine.drafted.successions import count_successions
from app.ml.engine.loading import LoadedModel
from app.ml.errors import DeadlinePassed
from app.ml.model_store import BaseModelFolder
from app.ml.prompting import PromptRenderer
from tests.app.ml.engine.test_decoding import PROMPTS, VOCABULARIES, greedy_reference, make_grammar
from tests.app.ml.engine.training_help import CPU, EXAMPLES, Published, load
from tests.fixtures.tiny import PAD

QUESTIONS = [*(example.question for example in EXAMPLES), "what is this", "x" * 150, "price of plan A, and then " * 9]


@pytest.fixture(scope="module")
def drafted(sharp_folder: BaseModelFolder) -> DraftedEngine:
    return DraftedEngine(load(sharp_folder), adapter_gib=0.01, most_adapters=4)


def answered(
    engine: DraftedEngine,
    prompts: list[list[int]],
    grammar: AnswerGrammar,
    *,
    drafts: int,
    width: int,
    shares: CodeShares | None = None,
) -> list[Question]:
    """Answers prompts together on the bare base model, drafting by frequency alone."""
    columns, _ = engine.shelf.columns.columns_of(grammar.edge_token)
    offset, _ = engine.shelf.edges.add(grammar, columns)
    training = count_successions(grammar, [((code,), 1 + code) for code in range(len(grammar.vocabulary.codes))])
    arrays, decode = grammar_arrays(grammar), engine.base.tokenizer.decode
    plan = AnswerPlan(grammar, arrays, decode, nothing_likely(), training, 1.0, 0.0, width, None, shares)
    questions = [Question(prompt, plan) for prompt in prompts]
    for question in questions:
        row = engine.rows.take(question.prompt, 0, room=question.room_wanted)
        assert row is not None
        question.sit(row)
    live = list(questions)
    while live:
        feedings = []
        for question in live:
            feeding = question.feed(DraftLimits(drafts, 0.001), most_linear=16)
            if feeding is None:
                assert question.settle()
                feeding = question.feed(DraftLimits(drafts, 0.001), most_linear=16)
            assert feeding is not None
            feedings.append(feeding)
        flight = engine.runner.launch(feedings, [FedAdapter(-1, offset)] * len(feedings))
        judge(flight.feedings, flight.collect())
        live = [question for question in live if not question.walk()]
    for question in questions:
        question.finish()
        assert question.row is not None
        question.row.tokens = question.linear[: len(question.prompt)]
        engine.rows.give_back(question.row)
    engine.shelf.edges.remove(grammar, offset)
    return questions


@settings(max_examples=30)
@given(prompts=PROMPTS, vocabulary=VOCABULARIES, drafts=st.integers(0, 24))
def test_answers_of_random_tries_are_those_of_stepwise_decoding(
    drafted: DraftedEngine, prompts: list[list[int]], vocabulary: CodeVocabulary, drafts: int
) -> None:
    grammar = make_grammar(drafted.base, vocabulary)
    for question, prompt in zip(answered(drafted, prompts, grammar, drafts=drafts, width=1), prompts, strict=True):
        codes, probability = greedy_reference(drafted.base.network, prompt, grammar)
        assert question.best is not None
        assert question.best.codes == codes
        assert question.best.confidence == pytest.approx(probability, rel=1e-3)
        assert question.best.tokens == len(grammar.encode_answer(codes))


@settings(max_examples=15)
@given(prompts=PROMPTS, vocabulary=VOCABULARIES, width=st.integers(2, 6))
def test_a_beam_over_the_tree_is_the_stepwise_beam(
    drafted: DraftedEngine, prompts: list[list[int]], vocabulary: CodeVocabulary, width: int
) -> None:
    grammar = make_grammar(drafted.base, vocabulary)
    beams = decode_constrained(drafted.base.network, prompts, grammar, pad_id=PAD, device=CPU, width=width)
    for question, beam in zip(answered(drafted, prompts, grammar, drafts=8, width=width), beams, strict=True):
        assert _facts(question.beam) == [(one.codes, pytest.approx(one.confidence, rel=1e-3)) for one in beam]


def test_forced_tokens_and_right_drafts_cost_no_pass(drafted: DraftedEngine) -> None:
    grammar = make_grammar(drafted.base, CodeVocabulary(("a_certain_code",), 1))
    (question,) = answered(drafted, [[256, 65, 66]], grammar, drafts=0, width=1)
    assert question.best_passes == 1


def test_no_question_waits_for_a_loop_to_be_compiled(sharp_folder: BaseModelFolder, published: dict[str, Published]) -> None:
    loops = [passes._clear, passes._lay_tokens, passes._lay_scored, passes._lay_blocks, drafting._draft, tree._find]
    loops += [question_index._nearest, recall._gather]
    engine = loaded(sharp_folder, published["lora"])
    known: list[Any] = [list(loop.signatures) for loop in loops]  # type: ignore[attr-defined]
    for alternatives, mode in ((0, "closed"), (2, "closed"), (0, "open_values")):
        engine.answer(QUESTIONS, checksum=published["lora"].checksum, alternatives=alternatives, mode=mode)  # type: ignore[arg-type]
    assert known == [list(loop.signatures) for loop in loops]  # type: ignore[attr-defined]
    assert all(known)


def test_a_prompts_known_start_is_not_read_again(sharp_folder: BaseModelFolder, published: dict[str, Published]) -> None:
    engine = loaded(sharp_folder, published["lora"])
    assert engine.drafted is not None
    reads: list[int] = []
    launch = engine.drafted.runner.launch
    engine.drafted.runner.launch = lambda feedings, adapters: (  # type: ignore[method-assign]
        reads.append(sum(feeding.last - feeding.first for feeding in feedings)),
        launch(feedings, adapters),
    )[1]
    for question in ("how to stop plan A", "how to stop plan B"):
        engine.answer([question], checksum=published["lora"].checksum)
    whole = len("how to stop plan A") + 2
    assert sum(reads) == whole + len("B") + 1


def test_a_long_answer_outgrows_its_row_and_goes_on_in_a_wider_one(
    sharp_folder: BaseModelFolder, published: dict[str, Published], tmp_path: Path
) -> None:
    adapter = published["lora"]
    folder = Path(shutil.copytree(adapter.folder, tmp_path / "long"))
    vocabulary = CodeVocabulary(tuple(f"{letter * 60}_{number}" for number, letter in enumerate("abcdef")), 6)
    write_card(folder, replace(read_card(folder), vocabulary=vocabulary))
    checksum = seal_folder(folder)
    engine = AnswerEngine(load(sharp_folder))
    engine.load(checksum, folder)
    grammar = make_grammar(engine.base, vocabulary)
    # A narrow row has room for the second prompt, but not for one of these codes behind it.
    questions = ["how to stop plan A", "price of B" * 17]
    for answer, question in zip(engine.answer(questions, checksum=checksum, alternatives=2), questions, strict=True):
        prompt = PromptRenderer("plain").encode(question, engine.base.tokenizer)
        assert answer.best.codes == greedy_reference(adapter.network, prompt, grammar)[0]
        assert answer.completion_tokens > 60
        assert all(code in vocabulary for other in answer.alternatives for code in other.codes)


def loaded(folder: BaseModelFolder, *adapters: Published, most: int = 8) -> AnswerEngine:
    engine = AnswerEngine(load(folder), most_adapters=most)
    for adapter in adapters:
        engine.load(adapter.checksum, adapter.folder)
    return engine


def test_a_thousand_swaps_under_load_never_mix_two_adapters(
    sharp_folder: BaseModelFolder, published: dict[str, Published]
) -> None:
    names = ("lora", "dora", "rslora")
    alone = {}
    for name in names:
        engine = loaded(sharp_folder, published[name])
        alone[name] = [one.best.codes for one in engine.answer(QUESTIONS[:6], checksum=published[name].checksum)]
    # Two slots for three adapters: with every swap a slot changes hands.
    engine = loaded(sharp_folder, most=2)
    assert engine.drafted is not None
    drafted = engine.drafted
    reads = {name: drafted.read(name, published[name].folder, read_card(published[name].folder)) for name in names}
    chance, swaps = random.Random(0), 0
    under_way: list[tuple[str, int, Future[Any]]] = []
    while swaps < 1000:
        name = chance.choice(names)
        if name not in drafted.shelf.loaded:
            read = reads[name]
            assert read is not None
            installed = drafted.install(read)
            while not installed.done():
                engine.step()
            swaps += 1
        place = chance.randrange(6)
        under_way.append((name, place, engine.submit(Ask(QUESTIONS[place], name))))
        if chance.random() < 0.5:
            engine.step()
        under_way = [item for item in under_way if not _checked(item, alone)]
    while engine.has_work:
        engine.step()
    assert all(_checked(item, alone) for item in under_way)


def _checked(item: tuple[str, int, "Future[Any]"], alone: dict[str, list[tuple[str, ...]]]) -> bool:
    name, place, future = item
    if not future.done():
        return False
    # A question whose adapter was swapped out while it waited is refused, never answered by another.
    if not isinstance(future.exception(), KeyError):
        assert future.result().best.codes == alone[name][place]
    return True


def test_adapters_of_another_rank_and_other_targets_share_the_slots(
    sharp_folder: BaseModelFolder, published: dict[str, Published]
) -> None:
    engine = loaded(sharp_folder, published["rslora"], published["dora"])
    for name in ("rslora", "dora"):
        answers = engine.answer([example.question for example in EXAMPLES], checksum=published[name].checksum)
        assert [one.best.codes for one in answers] == [example.codes for example in published[name].examples]


def test_a_cancelled_question_leaves_and_the_others_stay(sharp_folder: BaseModelFolder, published: dict[str, Published]) -> None:
    adapter = published["lora"]
    engine = loaded(sharp_folder, adapter)
    gone, kept = (engine.submit(Ask(question, adapter.checksum)) for question in QUESTIONS[:2])
    engine.step()
    assert gone.cancel()
    while engine.has_work:
        engine.step()
    assert kept.result().best.codes == EXAMPLES[1].codes
    with pytest.raises(CancelledError):
        gone.result()


def test_a_question_past_its_deadline_is_told_so(sharp_folder: BaseModelFolder, published: dict[str, Published]) -> None:
    engine = loaded(sharp_folder, published["lora"])
    late = engine.submit(Ask(QUESTIONS[0], published["lora"].checksum), deadline=time.monotonic() - 1)
    engine.step()
    with pytest.raises(DeadlinePassed):
        late.result()


def test_a_long_prompt_does_not_hold_up_a_short_one(sharp_folder: BaseModelFolder, published: dict[str, Published]) -> None:
    adapter = published["lora"]
    engine = loaded(sharp_folder, adapter)
    long = engine.submit(Ask("x" * 2000, adapter.checksum))
    short = engine.submit(Ask(QUESTIONS[1], adapter.checksum))
    while not short.done():
        engine.step()
    assert not long.done()
    while engine.has_work:
        engine.step()
    assert long.result().best.codes


def test_questions_may_come_from_many_threads(sharp_folder: BaseModelFolder, published: dict[str, Published]) -> None:
    adapter = published["dora"]
    engine = loaded(sharp_folder, adapter)
    expected = [one.best.codes for one in engine.answer(QUESTIONS[:5], checksum=adapter.checksum)]
    wake, is_over = threading.Event(), threading.Event()
    engine.on_work = wake.set

    def own() -> None:
        while not is_over.is_set():
            if engine.has_work:
                engine.step()
            else:
                wake.wait(0.05)
                wake.clear()

    owner = threading.Thread(target=own)
    owner.start()
    given: list[list[tuple[str, ...]]] = []

    def ask() -> None:
        futures = [engine.submit(Ask(question, adapter.checksum)) for question in QUESTIONS[:5]]
        given.append([future.result(30).best.codes for future in futures])

    askers = [threading.Thread(target=ask) for _ in range(6)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    is_over.set()
    owner.join()
    assert given == [expected] * 6


def test_recorded_answers_are_followed_token_by_token(sharp_folder: BaseModelFolder, published: dict[str, Published]) -> None:
    adapter = published["lora"]
    engine = loaded(sharp_folder, adapter)
    (answer,) = engine.answer_mixed([Ask(QUESTIONS[0], adapter.checksum, follow=("open_12", "11.9"))])
    assert answer.best.codes == ("open_12", "11.9")


def test_open_values_are_marked_and_everything_else_is_of_the_vocabulary(
    sharp_folder: BaseModelFolder, published: dict[str, Published]
) -> None:
    adapter = published["lora"]
    engine = loaded(sharp_folder, adapter)
    card: AdapterCard = read_card(adapter.folder)
    for answer in engine.answer(QUESTIONS, checksum=adapter.checksum, mode="open_values"):
        assert answer.best.codes
        for code, is_known in zip(answer.best.codes, answer.in_vocabulary, strict=True):
            assert is_known == (code in card.vocabulary)
            assert is_known or set(code) <= set("9.1")


def test_the_codes_of_alternatives_are_marked_as_those_of_the_answer_are(
    sharp_folder: BaseModelFolder, published: dict[str, Published]
) -> None:
    adapter = published["lora"]
    card = read_card(adapter.folder)
    answers = loaded(sharp_folder, adapter).answer(QUESTIONS, checksum=adapter.checksum, alternatives=3, mode="open_values")
    marks = {
        (code in card.vocabulary, is_known)
        for answer in answers
        for other, known in zip(answer.alternatives, answer.alternatives_in_vocabulary, strict=True)
        for code, is_known in zip(other.codes, known, strict=True)
    }
    assert marks == {(True, True), (False, False)}


def test_an_answered_question_leaves_nothing_to_the_garbage_collector(
    sharp_folder: BaseModelFolder, published: dict[str, Published]
) -> None:
    engine = loaded(sharp_folder, published["lora"])
    gc.collect()
    gc.disable()
    try:
        engine.answer(QUESTIONS, checksum=published["lora"].checksum, alternatives=2)
        assert not [one for one in gc.get_objects() if type(one) is Node]
    finally:
        gc.enable()


def test_mode_free_writes_what_it_likes(sharp_folder: BaseModelFolder, published: dict[str, Published]) -> None:
    adapter = published["lora"]
    answers = loaded(sharp_folder, adapter).answer([one.question for one in EXAMPLES], checksum=adapter.checksum, mode="free")
    assert [one.best.codes for one in answers] == [example.codes for example in EXAMPLES]
    assert all(all(one.in_vocabulary) for one in answers)


def test_an_engine_that_gives_up_leaves_nobody_waiting(
    sharp_folder: BaseModelFolder, published: dict[str, Published], tmp_path: Path
) -> None:
    engine = loaded(sharp_folder, published["lora"])
    futures = [engine.submit(Ask(question, published["lora"].checksum)) for question in QUESTIONS]
    engine.step()
    engine.give_up(DeadlinePassed("over"))
    assert all(isinstance(future.exception(0), DeadlinePassed) for future in futures)
    assert not engine.has_work


def test_weights_that_were_fused_before_are_not_copied_again(base: LoadedModel) -> None:
    first, second = DraftedEngine(base, adapter_gib=0.01, most_adapters=1), DraftedEngine(base, adapter_gib=0.01, most_adapters=1)
    for name in ("qkv", "gate_up"):
        assert first.network.weight_of(name, 0).data_ptr() == second.network.weight_of(name, 0).data_ptr()
    assert torch.isfinite(first.network.weight_of("qkv", 0)).all()


def _facts(answers: list[DecodedAnswer]) -> list[tuple[tuple[str, ...], float]]:
    return [(one.codes, one.confidence) for one in answers]


def test_what_the_lookout_finds_is_what_the_engine_would_find(
    sharp_folder: BaseModelFolder, published: dict[str, Published]
) -> None:
    engine = loaded(sharp_folder, published["lora"])
    assert engine.drafted is not None
    checksum = published["lora"].checksum
    alone = [one.best.codes for one in engine.answer(QUESTIONS, checksum=checksum)]
    lookout = Lookout(engine.drafted.shelf)
    engine.drafted._lookout = lookout
    asks = [Ask(question, checksum) for question in QUESTIONS * 8]
    assert [one.best.codes for one in engine.answer_mixed(asks)] == alone * 8
    assert lookout._looking is not None
    assert lookout._looking.exception(5) is None
