"""Codes as single tokens: which tokens are taken, and that training, both engines and teachers write and read them alike."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.durable import seal_folder
from app.ml.adapter_card import AdapterCard, read_card, write_card
from app.ml.engine.answering import AnswerEngine
from app.ml.engine.answering_in_training import AdapterInTraining
from app.ml.engine.asks import Ask
from app.ml.engine.batching import tokenize_examples
from app.ml.engine.borrowing import borrow_tokens
from app.ml.engine.choices import ChoiceTable
from app.ml.engine.companions import Companions
from app.ml.engine.decoding import decode_constrained
from app.ml.engine.evaluating import prepare_held_out
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import load_adapter, save_adapter
from app.ml.engine.question_index import QuestionIndex
from app.ml.engine.teaching import ask_teachers
from app.ml.engine.training import TrainPlan, train
from app.ml.errors import AdapterMismatch, InvalidSpec
from app.ml.model_store import BaseModelFolder
from app.ml.prompting import PromptRenderer
from app.ml.spec import FinetuneSpec
from tests.app.ml.engine.training_help import CPU, EXAMPLES, FAST, Published, RecordingHooks, card_of, load

SPEC = replace(FAST, answer_format="single_tokens")
QUESTIONS = [example.question for example in EXAMPLES]
CODES = tuple(dict.fromkeys(code for example in EXAMPLES for code in example.codes))


def single_token_card(base: LoadedModel, folder: BaseModelFolder, spec: FinetuneSpec = SPEC) -> AdapterCard:
    card = card_of(folder, spec, EXAMPLES)
    return replace(card, code_token_ids=borrow_tokens(base, card.vocabulary.codes, QUESTIONS))


def index_of(card: AdapterCard) -> QuestionIndex:
    answers = [example.codes for example in EXAMPLES]
    return QuestionIndex.build(QUESTIONS, answers, vocabulary=card.vocabulary, keeps_texts=bool(card.spec.prompt_neighbours))


@pytest.fixture(scope="module")
def single(sharp_folder: BaseModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A trained adapter whose codes are single tokens."""
    return trained(sharp_folder, tmp_path_factory.mktemp("single"), SPEC, RecordingHooks())


def trained(sharp_folder: BaseModelFolder, place: Path, spec: FinetuneSpec, hooks: RecordingHooks) -> Published:
    base = load(sharp_folder)
    card = single_token_card(base, sharp_folder, spec)
    base = replace(base, tokenizer=card.tokenizer_on(base.tokenizer))
    rows, _ = tokenize_examples(EXAMPLES, card.renderer, base.tokenizer, cutoff_len=512)
    grammar, adapter = card.grammar_on(base.tokenizer), AdapterInTraining(Companions(card, index_of(card)), place)
    held_out, _ = prepare_held_out(EXAMPLES, card.renderer, base, grammar, cutoff_len=512, adapter=adapter)
    plan = TrainPlan(spec, rows, 1, place / "checkpoints", held_out=held_out, grammar=grammar)
    result = train(base, plan, hooks)
    folder = place / "adapter"
    folder.mkdir()
    save_adapter(result.network, folder)
    write_card(folder, card)
    index_of(card).save(folder)
    return Published(folder, seal_folder(folder), result.network, EXAMPLES)


def answers_of(engine: AnswerEngine, checksum: str, questions: Sequence[str] = QUESTIONS) -> list[tuple[str, ...]]:
    return [answer.best.codes for answer in engine.answer(questions, checksum=checksum)]


def test_every_code_has_a_token_of_its_own_that_no_row_is_written_in(base: LoadedModel) -> None:
    tokens = borrow_tokens(base, CODES, QUESTIONS)

    written = {token for text in (*QUESTIONS, *CODES, "|", "\n") for token in base.tokenizer.encode(text)}
    assert len(set(tokens)) == len(CODES)
    assert not set(tokens) & (written | {base.tokenizer.bos_id, base.tokenizer.eos_id, base.tokenizer.pad_id})


def test_the_tokens_lie_farther_apart_than_tokens_taken_at_random(base: LoadedModel) -> None:
    def closest(tokens: Sequence[int]) -> float:
        rows = base.network.get_input_embeddings().weight[list(tokens)]
        rows = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
        return float((rows @ rows.T - 2 * torch.eye(len(rows))).max())

    tokens = borrow_tokens(base, CODES, QUESTIONS)
    generator = torch.Generator().manual_seed(0)
    others = [closest(torch.randperm(250, generator=generator)[: len(CODES)].tolist()) for _ in range(200)]
    assert closest(tokens) < sorted(others)[20]


def test_the_same_weights_give_the_same_tokens_in_any_arithmetic(base: LoadedModel) -> None:
    expected = borrow_tokens(base, CODES, QUESTIONS)

    # bf16 weights are what every device loads; fp32 holds the same numbers.
    rounded = base.network.get_input_embeddings().weight.data.bfloat16()
    base.network.get_input_embeddings().weight.data = rounded.float()
    in_fp32 = borrow_tokens(base, CODES, QUESTIONS)
    base.network.get_input_embeddings().weight.data = rounded
    assert borrow_tokens(base, CODES, QUESTIONS) == in_fp32
    assert len(expected) == len(in_fp32)


def test_a_base_with_too_few_tokens_is_refused(base: LoadedModel) -> None:
    with pytest.raises(InvalidSpec, match="answer_format") as refused:
        borrow_tokens(base, tuple(f"code_{number}" for number in range(250)), QUESTIONS)

    assert refused.value.param == "answer_format"


def test_training_answers_its_rows_and_both_engines_and_stepwise_decoding_agree(
    single: Published, sharp_folder: BaseModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [*QUESTIONS, "stop B", "price of the roaming pack"]
    drafted = AnswerEngine(load(sharp_folder))
    drafted.load(single.checksum, single.folder)
    monkeypatch.setattr("app.ml.engine.answering.find_anatomy", lambda network: None)
    padded = AnswerEngine(load(sharp_folder))
    padded.load(single.checksum, single.folder)
    base, card = load(sharp_folder), read_card(single.folder)
    tokenizer = card.tokenizer_on(base.tokenizer)
    network = load_adapter(base.network, single.folder, "plain")
    prompts = [card.renderer.encode(question, tokenizer) for question in questions]
    stepwise = decode_constrained(network, prompts, card.grammar_on(tokenizer), pad_id=tokenizer.pad_id, device=CPU)

    given = answers_of(drafted, single.checksum, questions)

    assert given[: len(EXAMPLES)] == [example.codes for example in EXAMPLES]
    assert given == answers_of(padded, single.checksum, questions) == [best.codes for (best,) in stepwise]


def test_a_loss_over_what_is_allowed_learns_them_too_and_each_epoch_is_scored(
    sharp_folder: BaseModelFolder, tmp_path: Path
) -> None:
    hooks = RecordingHooks()
    adapter = trained(sharp_folder, tmp_path, replace(SPEC, loss_over="allowed"), hooks)
    engine = AnswerEngine(load(sharp_folder))
    engine.load(adapter.checksum, adapter.folder)

    assert answers_of(engine, adapter.checksum) == [example.codes for example in EXAMPLES]
    assert hooks.evaluations[0]["exact_match"] < 1.0 == hooks.evaluations[-1]["exact_match"]


def test_an_answer_has_as_many_tokens_as_codes_bars_and_an_end(single: Published, sharp_folder: BaseModelFolder) -> None:
    engine = AnswerEngine(load(sharp_folder))
    engine.load(single.checksum, single.folder)

    answers = engine.answer(QUESTIONS, checksum=single.checksum, alternatives=2)

    bar = len(load(sharp_folder).tokenizer.encode("|"))
    assert [a.completion_tokens for a in answers] == [len(e.codes) + bar * (len(e.codes) - 1) + 1 for e in EXAMPLES]
    assert all(code in CODES for answer in answers for other in answer.alternatives for code in other.codes)


def test_adapters_that_spell_and_adapters_that_do_not_answer_side_by_side(
    single: Published, published: dict[str, Published], sharp_folder: BaseModelFolder
) -> None:
    engine, adapters = AnswerEngine(load(sharp_folder)), [single, published["lora"], published["dora"]]
    for adapter in adapters:
        engine.load(adapter.checksum, adapter.folder)
    asks = [Ask(question, adapter.checksum) for question in QUESTIONS for adapter in adapters]

    together = [answer.best.codes for answer in engine.answer_mixed(asks)]

    assert together == [answers_of(engine, ask.checksum or "", [ask.question])[0] for ask in asks]
    assert together[0::3] == [example.codes for example in EXAMPLES]


@pytest.mark.parametrize("mode", ["free", "open_values"])
@pytest.mark.parametrize("is_padded", [False, True])
def test_what_is_not_closed_is_read_as_codes_too(
    single: Published, sharp_folder: BaseModelFolder, monkeypatch: pytest.MonkeyPatch, mode: str, is_padded: bool
) -> None:
    if is_padded:
        monkeypatch.setattr("app.ml.engine.answering.find_anatomy", lambda network: None)
    engine = AnswerEngine(load(sharp_folder))
    engine.load(single.checksum, single.folder)

    answers = engine.answer(QUESTIONS, checksum=single.checksum, mode=mode)  # type: ignore[arg-type]

    assert [answer.best.codes for answer in answers] == [example.codes for example in EXAMPLES]
    assert all(all(answer.in_vocabulary) for answer in answers)


def test_neighbours_in_a_prompt_are_answered_in_the_same_tokens(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    base, spec = load(sharp_folder), replace(SPEC, prompt_neighbours=1)
    card = single_token_card(base, sharp_folder, spec)
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_adapter(load_untrained(sharp_folder, spec), folder)
    write_card(folder, card)
    index_of(card).save(folder)
    engine = AnswerEngine(base)
    engine.load_unsealed("adapter", folder)
    assert engine.drafted is not None
    adapter = engine.drafted.shelf.loaded["adapter"]

    prompt = adapter.renderer.encode("how to stop plan A?", adapter.tokenizer)

    assert adapter.tokenizer.decode(prompt[1:]) == "how to stop plan A\nstop_1|9.9\nhow to stop plan A?\n"
    assert set(adapter.tokenizer.encode("stop_1") + adapter.tokenizer.encode("9.9")) <= set(prompt)
    (answer,) = engine.answer(["how to stop plan A?"], checksum="adapter")
    assert answer.prompt_tokens == len(prompt)


def load_untrained(folder: BaseModelFolder, spec: FinetuneSpec) -> torch.nn.Module:
    from app.ml.engine.lora import attach_adapter

    network: torch.nn.Module = attach_adapter(load(folder).network, spec)
    return network


def test_a_teacher_must_write_codes_in_the_learners_tokens(
    single: Published, published: dict[str, Published], sharp_folder: BaseModelFolder
) -> None:
    card, spelled = read_card(single.folder), load(sharp_folder)
    learner = replace(spelled, tokenizer=card.tokenizer_on(spelled.tokenizer))
    choices = ChoiceTable(card.grammar_on(learner.tokenizer))

    soft = ask_teachers(learner, [single.folder], EXAMPLES, choices, cutoff_len=512, temperature=1.0)

    assert soft is not None and len(soft.known) == len(EXAMPLES)
    for base, teacher in ((load(sharp_folder), single), (learner, published["lora"])):
        grammar = read_card(published["lora"].folder).grammar_on(base.tokenizer) if teacher is single else choices
        table = grammar if isinstance(grammar, ChoiceTable) else ChoiceTable(grammar)
        with pytest.raises(AdapterMismatch, match="answer_format"):
            ask_teachers(base, [teacher.folder], EXAMPLES, table, cutoff_len=512, temperature=1.0)


def test_the_renderer_of_before_is_not_touched(single: Published) -> None:
    assert read_card(single.folder).renderer == PromptRenderer("plain")
