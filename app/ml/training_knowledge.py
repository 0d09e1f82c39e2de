"""What an adapter's training rows showed: whether a question, an answer or its codes are new to it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from app.ml.codes import CodeVocabulary
from app.ml.formats.example import Example
from app.ml.prompting import Wrapper

SEEN, UNSEEN = "seen", "unseen"


@dataclass(frozen=True)
class TrainingKnowledge:
    """Everything that training showed; what is None is not known any more and makes no slice."""

    answers: frozenset[frozenset[str]]
    """Distinct answers as sets of codes."""
    questions: frozenset[str] | None
    """Bare questions."""
    source: str
    """`training_file`, or `question_index` where the file is gone: that holds answers, but no text of questions."""

    @classmethod
    def of_rows(cls, rows: Iterable[Example], wrapper: Wrapper) -> "TrainingKnowledge":
        """Reads the training rows themselves."""
        answers, questions = set(), set()
        for row in rows:
            answers.add(frozenset(row.codes))
            questions.add(wrapper.strip(row.question))
        return cls(frozenset(answers), frozenset(questions), "training_file")

    @classmethod
    def of_index(cls, answers: Iterable[tuple[int, ...]], vocabulary: CodeVocabulary) -> "TrainingKnowledge":
        """Reads the distinct answers of an adapter's index of training questions, which must hold all of them."""
        codes = vocabulary.codes
        return cls(frozenset(frozenset(codes[place] for place in answer) for answer in answers), None, "question_index")

    def slices_of(self, example: Example, wrapper: Wrapper) -> Mapping[str, str]:
        """Returns `seen` or `unseen` for the row's question, its true answer (as a set), and its true codes (all of them)."""
        codes = frozenset(example.codes)
        is_known = {"answer_in_training": codes in self.answers, "codes_in_training": codes <= self._codes}
        if self.questions is not None:
            is_known["question_in_training"] = wrapper.strip(example.question) in self.questions
        return {name: SEEN if known else UNSEEN for name, known in is_known.items()}

    @cached_property
    def _codes(self) -> frozenset[str]:
        return frozenset().union(*self.answers)
