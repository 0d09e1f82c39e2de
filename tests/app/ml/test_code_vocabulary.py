from app.ml.codes import CodeVocabulary


def test_a_vocabulary_takes_further_codes_once_and_at_its_end() -> None:
    trained = CodeVocabulary.from_answers([("a_1", "b_1"), ("9.9",)])
    extended = trained.extended(["b_1", "c_1", "c_1"])
    assert extended == CodeVocabulary(("a_1", "b_1", "9.9", "c_1"), 2)
    assert trained.extended([]) == trained
