"""Nearest training questions in the prompt: the same for a row under training, a held-out row, and a question asked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from app.durable import seal_folder
from app.ml.adapter_card import AdapterCard, write_card
from app.ml.augmentation.augmenting import Augmentation
from app.ml.augmentation.phrases import PhraseBook
from app.ml.codes import CodeVocabulary
from app.ml.engine.answering import AnswerEngine
from app.ml.engine.batching import tokenize_examples
from app.ml.engine.evaluating import prepare_held_out
from app.ml.engine.fresh_rows import FreshRows, fresh_rows
from app.ml.engine.loading import LoadedModel
from app.ml.engine.lora import attach_adapter, save_adapter
from app.ml.engine.question_index import QuestionIndex, find_question_index
from app.ml.engine.solved_questions import SolvedQuestions, bound_renderer
from app.ml.engine.training import TrainPlan, TrainResult, Wish, train
from app.ml.errors import AdapterMismatch
from app.ml.formats.example import Example
from app.ml.model_store import BaseModelFolder
from app.ml.prompting import MAX_NEIGHBOUR_TOKENS, MAX_PROMPT_TOKENS, PromptRenderer, SolvedQuestion, Wrapper
from app.ml.spec import FinetuneSpec, NeighboursBy
from tests.app.ml.engine.training_help import EXAMPLES, FAST, RecordingHooks, card_of, grammar_for, load

SPEC = replace(FAST, prompt_neighbours=2, num_train_epochs=2, per_device_train_batch_size=2)
VOCABULARY = CodeVocabulary.from_answers(example.codes for example in EXAMPLES)


def index_of(examples: Sequence[Example] = EXAMPLES) -> QuestionIndex:
    questions, answers = [one.question for one in examples], [one.codes for one in examples]
    vocabulary = CodeVocabulary.from_answers(answers)
    return QuestionIndex.build(questions, answers, vocabulary=vocabulary, keeps_texts=True)


def renderer_for(spec: FinetuneSpec = SPEC) -> PromptRenderer:
    renderer = PromptRenderer(spec.template, Wrapper(), spec.prompt_neighbours, spec.prompt_neighbours_by)
    return bound_renderer(renderer, index_of(), VOCABULARY)


def nearest(question: str, count: int = 9, own: SolvedQuestion | None = None) -> list[str]:
    return [one.question for one in SolvedQuestions(index_of(), VOCABULARY).nearest_solved(question, count, own=own)]


def made_anew(
    examples: Sequence[Example], renderer: PromptRenderer, base: LoadedModel, spec: FinetuneSpec, *, seed: int
) -> FreshRows | None:
    augmentation = Augmentation.make(spec, [one.question for one in examples], [one.codes for one in examples])
    return fresh_rows(examples, renderer, base.tokenizer, augmentation, seed=seed)


def published(base: BaseModelFolder, folder: Path, spec: FinetuneSpec = SPEC) -> str:
    """An untrained adapter with everything that answering needs."""
    folder.mkdir(parents=True)
    save_adapter(attach_adapter(load(base).network, spec), folder)
    write_card(folder, card_of(base, spec, EXAMPLES))
    index_of().save(folder)
    return seal_folder(folder)


def test_the_nearest_question_comes_first_and_its_own_row_never() -> None:
    asked = EXAMPLES[0]
    assert nearest(asked.question)[0] == asked.question
    others = nearest(asked.question, own=SolvedQuestion(asked.question, asked.codes))
    assert asked.question not in others
    assert others


def test_a_row_that_stands_twice_is_shown_to_itself_as_a_test_row_would_see_it() -> None:
    twice = [*EXAMPLES, EXAMPLES[0]]
    found = SolvedQuestions(index_of(twice), VOCABULARY).nearest_solved(
        EXAMPLES[0].question, 1, own=SolvedQuestion(EXAMPLES[0].question, EXAMPLES[0].codes)
    )
    assert found == [SolvedQuestion(EXAMPLES[0].question, EXAMPLES[0].codes)]


def test_a_prompt_shows_questions_with_their_answers_the_nearest_last(base: LoadedModel) -> None:
    ids = renderer_for().encode("how to stop plan", base.tokenizer)
    farther, nearer = reversed(nearest("how to stop plan", 2))
    codes = {one.question: "|".join(one.codes) for one in EXAMPLES}
    assert base.tokenizer.decode(ids) == f"{farther}\n{codes[farther]}\n{nearer}\n{codes[nearer]}\nhow to stop plan\n"
    assert ids[0] == base.tokenizer.bos_id


def test_a_shown_answer_has_the_tokens_of_an_answer(base: LoadedModel) -> None:
    answer = grammar_for(base).encode_answer(EXAMPLES[0].codes)[:-1]
    ids = renderer_for().encode(EXAMPLES[0].question, base.tokenizer)
    assert any(ids[place : place + len(answer)] == list(answer) for place in range(len(ids)))


@pytest.mark.parametrize("by", ["text", "answers"])
def test_training_held_out_and_answering_prompts_are_the_same(
    base: LoadedModel, sharp_folder: BaseModelFolder, tmp_path: Path, by: NeighboursBy
) -> None:
    spec = replace(SPEC, prompt_neighbours_by=by)
    renderer = renderer_for(spec)
    asked = Example(1, "how to stop the roaming pack", ("stop_1",))
    (trained,), _ = tokenize_examples([asked], renderer, base.tokenizer, cutoff_len=512, are_trained=True)
    held_out, _ = prepare_held_out([asked], renderer, base, grammar_for(base), cutoff_len=512)
    checksum = published(sharp_folder, tmp_path / "adapter", spec)
    engine = AnswerEngine(base)
    engine.load(checksum, tmp_path / "adapter")
    assert engine.drafted is not None
    answered = engine.drafted.shelf.loaded[checksum].renderer.encode(asked.question, base.tokenizer)
    assert list(trained.prompt) == list(held_out.prompts[0]) == list(held_out.rows[0].prompt) == answered
    (answer,) = engine.answer([asked.question], checksum=checksum)
    assert answer.prompt_tokens == len(answered) > len(asked.question) + 2


def test_a_training_row_does_not_see_itself(base: LoadedModel) -> None:
    rows, _ = tokenize_examples(EXAMPLES, renderer_for(), base.tokenizer, cutoff_len=512, are_trained=True)
    for row, example in zip(rows, EXAMPLES, strict=True):
        assert base.tokenizer.decode(row.prompt).count(example.question) == 1


def test_both_engines_answer_alike(sharp_folder: BaseModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checksum = published(sharp_folder, tmp_path / "adapter")
    questions = [*(one.question for one in EXAMPLES), "price of the roaming pack"]
    drafted = AnswerEngine(load(sharp_folder))
    drafted.load(checksum, tmp_path / "adapter")
    monkeypatch.setattr("app.ml.engine.answering.find_anatomy", lambda network: None)
    padded = AnswerEngine(load(sharp_folder))
    padded.load(checksum, tmp_path / "adapter")
    assert padded.drafted is None
    one, other = (engine.answer(questions, checksum=checksum) for engine in (drafted, padded))
    assert [(a.best.codes, a.prompt_tokens) for a in one] == [(a.best.codes, a.prompt_tokens) for a in other]


def test_greetings_are_taken_off_what_is_shown_and_what_is_looked_for(tmp_path: Path) -> None:
    asked, codes = ["hello! price of A", "stop B, thanks", "open C"], [["9.9"], ["stop_1"], ["open_1"]]
    vocabulary, affixes = CodeVocabulary.from_answers(codes), PhraseBook(("hello! ",), (", thanks",))
    QuestionIndex.build(asked, codes, vocabulary=vocabulary, keeps_texts=True, affixes=affixes).save(tmp_path)
    index = find_question_index(tmp_path)
    assert index is not None
    solved = SolvedQuestions(index, vocabulary)
    assert solved.nearest_solved("hello! stop B", 1) == [SolvedQuestion("stop B", ("stop_1",))]
    left = solved.nearest_solved("stop B", 3, own=SolvedQuestion("stop B, thanks", ("stop_1",)))
    assert "stop B" not in [one.question for one in left]


def test_an_index_keeps_its_texts_on_disk_only_where_prompts_show_them(tmp_path: Path) -> None:
    index_of().save(tmp_path)
    loaded = find_question_index(tmp_path)
    assert loaded is not None
    assert loaded.texts == index_of().texts
    QuestionIndex.build(["a"], [["x"]], vocabulary=CodeVocabulary(("x",), 1)).save(tmp_path)
    assert b"texts" not in (tmp_path / "questions.safetensors").read_bytes()


def test_an_adapter_whose_texts_are_missing_is_refused(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_adapter(attach_adapter(load(sharp_folder).network, SPEC), folder)
    write_card(folder, card_of(sharp_folder, SPEC, EXAMPLES))
    checksum = seal_folder(folder)
    with pytest.raises(AdapterMismatch, match="missing"):
        AnswerEngine(load(sharp_folder)).load(checksum, folder)


def test_a_renderer_that_lacks_the_questions_says_who_knows_them(base: LoadedModel) -> None:
    with pytest.raises(AdapterMismatch, match="answerer"):
        card: AdapterCard = card_of(BaseModelFolder(base.name, Path(), base.checksum), SPEC, EXAMPLES)
        card.renderer.encode("how to stop", base.tokenizer)


@pytest.mark.parametrize("length", [10, 1700, 2040])
def test_shown_questions_never_push_a_prompt_over_its_limits(base: LoadedModel, length: int) -> None:
    many = [Example(number, f"how to stop plan {number} " + "x" * 100, (f"c_{number}",)) for number in range(40)]
    vocabulary = CodeVocabulary.from_answers(one.codes for one in many)
    renderer = bound_renderer(PromptRenderer("plain", Wrapper(), 16), index_of(many), vocabulary)
    question = "how to stop".ljust(length, "x")
    ids = renderer.encode(question, base.tokenizer)
    alone = len(PromptRenderer("plain").encode(question, base.tokenizer))
    assert len(ids) <= min(MAX_PROMPT_TOKENS, alone + MAX_NEIGHBOUR_TOKENS)
    assert (len(ids) > alone) == (length < 2000)


@dataclass(frozen=True)
class Fresh:
    """A run whose rows change from epoch to epoch."""

    base: BaseModelFolder
    spec: FinetuneSpec

    def run(self, checkpoints: Path, **wishes: Any) -> tuple[TrainResult, RecordingHooks]:
        base, hooks = load(self.base), RecordingHooks(wish_at=wishes.get("wish_at"))
        renderer = renderer_for(self.spec)
        rows, _ = tokenize_examples(EXAMPLES, renderer, base.tokenizer, cutoff_len=self.spec.cutoff_len, are_trained=True)
        plan = TrainPlan(
            self.spec,
            rows,
            1,
            checkpoints,
            wishes.get("resume_from"),
            fresh_rows=made_anew(EXAMPLES, renderer, base, self.spec, seed=1),
        )
        return train(base, plan, hooks), hooks


def test_a_run_with_fresh_rows_goes_on_with_the_same_rows_after_a_pause(sharp_folder: BaseModelFolder, tmp_path: Path) -> None:
    spec = replace(SPEC, augment_noise=0.3, code_order="shuffled", augment_synonyms=0.5, synonyms=(("stop", "end"),))
    fresh = Fresh(sharp_folder, spec)
    whole, _ = fresh.run(tmp_path / "whole")
    _, hooks = fresh.run(tmp_path / "cut", wish_at=(4, Wish.SAVE_AND_STOP))
    resumed, _ = fresh.run(tmp_path / "on", resume_from=hooks.checkpoints[-1][0])
    assert resumed.state.losses == whole.state.losses
    plain, _ = Fresh(sharp_folder, SPEC).run(tmp_path / "plain")
    assert plain.state.losses != whole.state.losses


def test_fresh_rows_differ_from_epoch_to_epoch_and_repeat_with_the_seed(base: LoadedModel) -> None:
    spec = replace(SPEC, augment_noise=0.5, code_order="shuffled")
    one, same, other = (made_anew(EXAMPLES, renderer_for(), base, spec, seed=seed) for seed in (1, 1, 2))
    assert one is not None and same is not None and other is not None
    epochs = [[one.row(place, epoch) for place in range(len(one))] for epoch in range(4)]
    assert epochs == [[same.row(place, epoch) for place in range(len(same))] for epoch in range(4)]
    assert epochs[0] != epochs[1]
    assert epochs[0] != [other.row(place, 0) for place in range(len(other))]
    ends = base.tokenizer.eos_id
    for rows in epochs:
        for row, example in zip(rows, EXAMPLES, strict=True):
            assert row.answer[-1] == ends
            assert sorted(base.tokenizer.decode(row.answer[:-1]).split("|")) == sorted(example.codes)


def test_a_spec_without_them_has_no_fresh_rows(base: LoadedModel) -> None:
    assert made_anew(EXAMPLES, PromptRenderer("plain"), base, FAST, seed=1) is None


def test_a_training_prompt_leaves_shown_questions_out_at_their_chance_and_a_held_out_one_never(base: LoadedModel) -> None:
    whole = tokenize_examples(EXAMPLES, renderer_for(), base.tokenizer, cutoff_len=512, are_trained=True)[0]
    lengths = {}
    for chance in (0.5, 1.0):
        spec = replace(SPEC, prompt_neighbours_hidden=chance)
        fresh = made_anew(EXAMPLES, renderer_for(spec), base, spec, seed=1)
        assert fresh is not None
        lengths[chance] = [len(fresh.row(place, epoch).prompt) for epoch in range(4) for place in range(len(fresh))]
        held_out = tokenize_examples(EXAMPLES, renderer_for(spec), base.tokenizer, cutoff_len=512)[0]
        assert held_out == tokenize_examples(EXAMPLES, renderer_for(), base.tokenizer, cutoff_len=512)[0]
    bare = tokenize_examples(EXAMPLES, PromptRenderer(SPEC.template), base.tokenizer, cutoff_len=512)[0]
    assert lengths[1.0] == [len(row.prompt) for row in bare] * 4
    assert sum(lengths[1.0]) < sum(lengths[0.5]) < sum(len(row.prompt) for row in whole) * 4


def test_a_training_prompt_stands_alone_at_its_chance(base: LoadedModel) -> None:
    bare = tokenize_examples(EXAMPLES, PromptRenderer(SPEC.template), base.tokenizer, cutoff_len=512)[0]
    shares = {}
    for chance in (0.5, 1.0):
        spec = replace(SPEC, prompt_alone=chance)
        fresh = made_anew(EXAMPLES, renderer_for(spec), base, spec, seed=1)
        assert fresh is not None
        shares[chance] = fmean(
            fresh.row(place, epoch).prompt == bare[place].prompt for epoch in range(9) for place in range(len(bare))
        )
    assert shares[1.0] == 1
    assert 0.3 < shares[0.5] < 0.7


def test_codes_of_a_training_prompt_are_exchanged_at_their_chance_where_it_shows_its_answer(base: LoadedModel) -> None:
    examples = [
        Example(number, f"{ask} {number % 4}", (f"stop_{number % 4}",)) for number, ask in enumerate(["end plan", "quit"] * 8)
    ]
    plain = {
        row.example: row
        for row in tokenize_examples(examples, self_showing(examples), base.tokenizer, cutoff_len=512, are_trained=True)[0]
    }
    shares = {}
    for chance in (0.0, 0.5, 1.0):
        spec = replace(SPEC, prompt_codes_exchanged=chance)
        rows = made_anew(examples, self_showing(examples), base, replace(spec, prompt_alone=0.01), seed=1)
        assert rows is not None
        made = [rows.row(place, epoch) for epoch in range(8) for place in range(len(examples))]
        shares[chance] = fmean(row.answer != plain[row.example].answer for row in made)
        for row in made:
            answer = base.tokenizer.decode(row.answer[:-1])
            prompt = base.tokenizer.decode(row.prompt)
            assert answer in {"stop_0", "stop_1", "stop_2", "stop_3"}
            assert answer == f"stop_{row.example % 4}" or f"{row.example % 4}\n{answer}\n" in prompt
    # One of four codes becomes itself.
    assert shares[0.0] == 0
    assert 0.2 < shares[0.5] < 0.55
    assert 0.6 < shares[1.0] < 0.9


def self_showing(examples: Sequence[Example]) -> PromptRenderer:
    vocabulary = CodeVocabulary.from_answers(example.codes for example in examples)
    return bound_renderer(PromptRenderer("plain", Wrapper(), 2, "text"), index_of(examples), vocabulary)


def test_rows_are_joined_at_their_chance_with_the_codes_of_both(base: LoadedModel) -> None:
    things, asks = ("alpha", "beta", "gamma", "delta"), {" price": "p", " ending": "e"}
    examples = [
        Example(number, f"{thing}{ask}", (f"{code}_{thing}",))
        for number, (thing, (ask, code)) in enumerate(((thing, ask) for thing in things for ask in asks.items()), start=1)
    ]
    examples += [Example(20 + n, f"{thing} price and ending", (f"p_{thing}", f"e_{thing}")) for n, thing in enumerate(things[:3])]
    spec = replace(FAST, augment_joins=1.0)
    fresh = made_anew(examples, PromptRenderer(spec.template), base, spec, seed=1)
    assert fresh is not None
    answers = [base.tokenizer.decode(fresh.row(place, 0).answer[:-1]) for place in range(len(fresh))]
    assert set(answers[6:8]) == {"p_delta|e_delta", "e_delta|p_delta"}
    assert set(answers) >= {"p_alpha|e_alpha", "e_alpha|p_alpha"}
