from app.ml.codes import CodeVocabulary
from app.ml.formats.example import Example
from app.ml.prompting import Wrapper
from app.ml.training_knowledge import TrainingKnowledge

WRAPPER = Wrapper("回答：", "？")
TRAINED = [Example(1, "回答：怎么开通？", ("开通方式_1", "9.9")), Example(2, "回答：取消？", ("取消方式_2",))]


def slices(knowledge: TrainingKnowledge, question: str, *codes: str) -> dict[str, str]:
    return dict(knowledge.slices_of(Example(1, question, codes), WRAPPER))


def test_an_answer_is_seen_in_any_order_and_a_question_with_or_without_its_wrapper() -> None:
    known = TrainingKnowledge.of_rows(TRAINED, WRAPPER)
    assert set(slices(known, "怎么开通", "9.9", "开通方式_1").values()) == {"seen"}


def test_codes_may_be_seen_where_their_combination_was_not() -> None:
    found = slices(TrainingKnowledge.of_rows(TRAINED, WRAPPER), "新问题", "取消方式_2", "9.9")
    assert found == {"answer_in_training": "unseen", "codes_in_training": "seen", "question_in_training": "unseen"}


def test_a_code_of_the_vocabulary_that_no_training_row_has_is_unseen() -> None:
    vocabulary = CodeVocabulary(("开通方式_1", "只在码表_5"), 2)
    known = TrainingKnowledge.of_index([(0,)], vocabulary)
    assert slices(known, "怎么开通", "只在码表_5") == {"answer_in_training": "unseen", "codes_in_training": "unseen"}
