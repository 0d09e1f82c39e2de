"""Compiles the loops of drafting and planning before the first question waits for them."""

from functools import cache

from app.ml.codes import AnswerGrammar, CodeVocabulary
from app.ml.engine.drafted import host_norms
from app.ml.engine.drafted.adapters import Vocabulary
from app.ml.engine.drafted.drafting import DraftLimits
from app.ml.engine.drafted.passes import FedAdapter, build_pass, exact_shape
from app.ml.engine.drafted.questions import AnswerPlan, Question
from app.ml.engine.drafted.recall import Recall
from app.ml.engine.drafted.rows import Row
from app.ml.engine.question_index import QuestionIndex


@cache
def compile_ahead() -> None:
    """Plans one pass of a made-up question, which leaves every loop compiled (or read from the cache) for this process."""
    vocabulary = CodeVocabulary(("a1", "a2", "b"), 2)
    answers = (("a1", "a2"), ("b",))
    grammar = AnswerGrammar(vocabulary, lambda text: [ord(char) for char in text], end_id=0)
    index = QuestionIndex.build(("a", "b"), answers, vocabulary=vocabulary)
    made = Vocabulary.make(grammar, index)
    likely = Recall(index, grammar).likely("a")
    question = Question([1, 2], AnswerPlan(grammar, made.arrays, str, likely, made.training, 1.0, 0.0, 1, answers[0]))
    question.sit(Row(0, 256))
    feeding = question.feed(DraftLimits(8, 0.001), most_linear=64)
    assert feeding is not None
    adapters = [FedAdapter(0, 0)]
    for is_eager in (True, False):
        build_pass([feeding], adapters, exact_shape([feeding], adapters, 16), idle_place=256, is_eager=is_eager)
    tree = question.tree
    tree.judge(feeding.scored, made.arrays.nodes[0, :1], tree.best_log_p[:1] * 0.0)
    question.walk()
    question.release()
    host_norms.compile_ahead()
