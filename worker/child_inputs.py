"""What several kinds of work in the training process begin with: a base model on its device, rows, an adapter's codes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from app.ml.adapter_card import AdapterCard
from app.ml.augmentation.augmenting import Augmentation
from app.ml.codes import CodeVocabulary, sorted_codes
from app.ml.engine.borrowing import borrow_tokens
from app.ml.engine.code_classifier import CodeClassifier
from app.ml.engine.companions import Companions
from app.ml.engine.device import choose_dtype, limit_memory, pick_device, use_threads
from app.ml.engine.loading import LoadedModel, load_base_model
from app.ml.engine.question_index import QuestionIndex
from app.ml.engine.self_test import check_device
from app.ml.errors import NoRows
from app.ml.formats.example import Example
from app.ml.model_store import BaseModelFolder
from app.ml.prompting import find_wrapper
from app.ml.spec import FinetuneSpec, Precision
from worker.assignment import Assignment


def load_base(assignment: Assignment, *, precision: Precision) -> LoadedModel:
    """Loads the base model on the best device, once that has shown that it computes rightly."""
    use_threads(assignment.threads)
    device = pick_device()
    limit_memory(device, assignment.memory_limit_gib, card_share=assignment.card_share)
    if device.type != "cpu":
        check_device(device)
    folder = BaseModelFolder(assignment.base_model, Path(assignment.base_model_folder), assignment.base_model_checksum)
    return load_base_model(folder, device=device, dtype=choose_dtype(device, precision))


def read_stored(path: str) -> list[Example]:
    """Reads rows that were validated at upload.

    Raises:
        DatasetFormatError: the stored file is damaged.
    """
    # The readers of every format and their parsers: not where rows are brought along, as benchmarks do.
    from app.ml.formats.reading import read_examples  # noqa: PLC0415

    return read_examples(Path(path))


def some_rows(examples: list[Example], param: str) -> list[Example]:
    """Returns the rows of a file.

    Raises:
        NoRows: there are none.
    """
    if not examples:
        raise NoRows("The file has no rows. Give one that has.", param=param)
    return examples


def vocabulary_of(examples: Sequence[Example], extra_codes: Sequence[str]) -> CodeVocabulary:
    """Returns the codes of training rows, and behind them those of the code book that were asked for."""
    return CodeVocabulary.from_answers(example.codes for example in examples).extended(extra_codes)


def in_code_order(examples: Sequence[Example], spec: FinetuneSpec) -> list[Example]:
    """Returns rows with the codes of their answers in the order that the spec asks for; a new one each epoch is none yet."""
    if spec.code_order != "canonical":
        return list(examples)
    return [replace(example, codes=sorted_codes(example.codes)) for example in examples]


def begin_card(assignment: Assignment, spec: FinetuneSpec, examples: Sequence[Example], base: LoadedModel) -> AdapterCard:
    """Returns what is known of an adapter before it is trained.

    Raises:
        InvalidSpec: codes are to be single tokens, and the base model has too few.
    """
    questions, vocabulary = [example.question for example in examples], vocabulary_of(examples, assignment.extra_codes)
    return AdapterCard(
        base_model=assignment.base_model,
        base_model_checksum=assignment.base_model_checksum,
        dataset_checksum=assignment.dataset_checksum,
        spec=spec,
        precision=base.precision,
        seed=assignment.seed,
        wrapper=find_wrapper(questions),
        vocabulary=vocabulary,
        metrics={},
        versions={},
        code_token_ids=borrow_tokens(base, vocabulary.codes, questions) if spec.answer_format == "single_tokens" else None,
    )


def learn_companions(examples: Sequence[Example], card: AdapterCard) -> tuple[Companions, Augmentation]:
    """Learns of training rows what stands beside an adapter's weights, and how its rows may be made anew.

    Both are of questions without their wrapper. Where prompts show questions, the index holds them with texts, without
    greetings; with `augment_inferences` also what follows from several rows. A spec may want a classifier that its rows do
    not allow.
    """
    bare, codes = [card.wrapper.strip(example.question) for example in examples], [example.codes for example in examples]
    augmentation = Augmentation.make(card.spec, bare, codes)
    classifier = CodeClassifier.train(bare, codes, card.vocabulary) if card.spec.classifier_weight else None
    card = replace(card, has_classifier=classifier is not None)
    if not card.spec.prompt_neighbours:
        return Companions(card, QuestionIndex.build(bare, codes, vocabulary=card.vocabulary), classifier), augmentation
    index = QuestionIndex.build(
        bare,
        codes,
        vocabulary=card.vocabulary,
        keeps_texts=True,
        affixes=augmentation.phrases.affixes,
        inferred=augmentation.inferences.questions(),
    )
    return Companions(card, index, classifier), augmentation
