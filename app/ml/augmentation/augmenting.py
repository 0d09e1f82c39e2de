"""All that a job spec may ask for, in one place: a pure function of the question and the chooser's seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from app.ml.augmentation.inferences import InferenceBook, mine_inferences
from app.ml.augmentation.joins import Codes, JoinBook, mine_joins
from app.ml.augmentation.noise import with_slips
from app.ml.augmentation.phrases import PhraseBook, mine_phrases
from app.ml.augmentation.synonyms import SynonymBook, read_word_list, uncontradicted
from app.ml.spec import FinetuneSpec

_NOISY_SHARE = 0.5


@dataclass(frozen=True)
class Augmentation:
    """How bare questions are said otherwise."""

    spec: FinetuneSpec
    phrases: PhraseBook
    joins: JoinBook = JoinBook()
    inferences: InferenceBook = InferenceBook()
    synonyms: SynonymBook = SynonymBook()

    @classmethod
    def make(cls, spec: FinetuneSpec, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> "Augmentation":
        """Mines what the spec wants of training rows; `questions` are bare."""
        phrases, joins, inferences = PhraseBook(), JoinBook(), InferenceBook()
        # Questions that prompts show are looked up without the starts and ends that say nothing.
        if spec.augment_phrases or spec.augment_joins or spec.augment_inferences or spec.prompt_neighbours:
            phrases = mine_phrases(questions, answers)
        if spec.augment_joins or spec.augment_inferences:
            joins = mine_joins(questions, answers, phrases)
        if spec.augment_inferences:
            inferences = mine_inferences(questions, answers, phrases, joins)
            joins = joins.with_asks(inferences.by_head)
        synonyms = SynonymBook()
        if spec.augment_synonyms:
            lists = [group for name in spec.synonym_lists for group in read_word_list(name)]
            synonyms = SynonymBook.of([*spec.synonyms, *uncontradicted(lists, questions, answers)])
        return cls(spec, phrases, joins, inferences, synonyms)

    def inferred(self, question: str, chooser: random.Random) -> tuple[str, Codes] | None:
        """Returns a question that no row asks about a bare question's thing, and its codes, as the chance falls; else None."""
        if not self.inferences or chooser.random() >= self.spec.augment_inferences:
            return None
        core = self.phrases.core(question)
        cut = self.joins.cut_joint(core) or self.joins.cut(core)
        asks = () if cut is None else self.inferences.by_head.get(cut[0], ())
        if cut is None or not asks:
            return None
        ask, codes = chooser.choice(asks)
        return cut[0] + ask, codes

    def joined(self, question: str, codes: Sequence[str], chooser: random.Random) -> tuple[str, Codes] | None:
        """Returns a bare question and its codes joined with another's, as the chance falls; None where they stay alone."""
        if not self.joins or chooser.random() >= self.spec.augment_joins:
            return None
        return self.joins.joined(self.phrases.core(question), codes, chooser)

    def said_otherwise(self, question: str, chooser: random.Random) -> str:
        """Returns a bare question with its phrases and words exchanged and slips made, as the chances fall."""
        spec = self.spec
        # Again and again, so that a chance of 1 leaves little as it was: 2 exchanges a row on average.
        while chooser.random() < spec.augment_phrases * (2 / 3):
            question = self.phrases.exchanged(question, chooser)
        if self.synonyms and chooser.random() < spec.augment_synonyms:
            question = self.synonyms.exchanged(question, chooser)
        if spec.augment_noise and chooser.random() < _NOISY_SHARE:
            question = with_slips(question, spec.augment_noise, chooser)
        return question
