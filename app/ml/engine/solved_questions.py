"""The training questions that prompts show, and the renderers that show them."""

from dataclasses import replace

from app.ml.codes import CodeVocabulary
from app.ml.engine.answer_shapes import AnswerShapes
from app.ml.engine.question_index import QuestionIndex
from app.ml.errors import AdapterMismatch
from app.ml.prompting import PromptRenderer, SolvedQuestion
from app.ml.spec import NeighboursBy


class SolvedQuestions:
    """An index that keeps texts, as prompts show its questions."""

    def __init__(self, index: QuestionIndex, vocabulary: CodeVocabulary, by: NeighboursBy = "text") -> None:
        """`vocabulary`: the one that the index was built with."""
        assert index.texts is not None
        self._index, self._vocabulary = index, vocabulary
        self._ranking = AnswerShapes.of(index, vocabulary.codes) if by == "answers" else None

    def nearest_solved(self, question: str, count: int, *, own: SolvedQuestion | None = None) -> list[SolvedQuestion]:
        """Returns the nearest training question of up to `count` distinct answers, the nearest first; without the row `own`."""
        index, codes = self._index, self._vocabulary.codes
        assert index.texts is not None
        known = None
        if own is not None and all(code in self._vocabulary for code in own.codes):
            known = own.question, tuple(self._vocabulary.index_of(code) for code in own.codes)
        return [
            SolvedQuestion(index.texts[place], tuple(codes[number] for number in index.answers[index.answer_of_document[place]]))
            for place in index.nearest_documents(question, count, own=known, ranking=self._ranking)
        ]


def bound_renderer(renderer: PromptRenderer, index: QuestionIndex | None, vocabulary: CodeVocabulary) -> PromptRenderer:
    """Binds the training questions to a renderer whose prompts show some; any other stays as it is.

    Raises:
        AdapterMismatch: the index has no texts.
    """
    if not renderer.neighbours:
        return renderer
    if index is None or index.texts is None:
        raise AdapterMismatch("The adapter's training questions, which its prompts show, are missing. Train it again.")
    return replace(renderer, nearest=SolvedQuestions(index, vocabulary, renderer.neighbours_by))
