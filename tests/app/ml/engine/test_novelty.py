from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.ml.engine.novelty import MAX_REFERENCES, REFERENCES, References, find_references


def directions(*numbers: int, width: int = 8) -> list[torch.Tensor]:
    return [torch.eye(width)[number] for number in numbers]


def test_a_question_like_its_references_is_not_new() -> None:
    references = References.of(directions(*range(8)) * 5)
    assert references.novelty(torch.eye(8)).tolist() == pytest.approx([0.0] * 8, abs=1e-3)


def test_a_question_unlike_all_references_is_new() -> None:
    references = References.of(directions(0, 1, 2) * 5)
    assert float(references.novelty(torch.eye(8)[7:])) == pytest.approx(1.0, abs=1e-3)
    assert float(references.novelty(-torch.eye(8)[:1] - torch.eye(8)[1:2] - torch.eye(8)[2:3])) > 1.5


def test_one_reference_alone_does_not_make_a_question_familiar() -> None:
    references = References.of(directions(0, 1, 1, 1, 1, 1))
    assert float(references.novelty(torch.eye(8)[:1])) == pytest.approx(2 / 3, abs=1e-3)


def test_length_does_not_matter() -> None:
    references = References.of([torch.eye(8)[0] * 1e4] * 5)
    assert float(references.novelty(torch.eye(8)[:1] * 1e-3)) == pytest.approx(0.0, abs=1e-3)


def test_fewer_than_three_references_are_all_the_nearest() -> None:
    assert float(References.of(directions(0, 1)).novelty(torch.eye(8)[:1])) == pytest.approx(0.5, abs=1e-3)


def test_saved_references_judge_as_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    references = References.of(list(torch.randn(50, 8)))
    references.save(tmp_path)
    loaded = find_references(tmp_path)
    assert loaded is not None
    asked = torch.randn(9, 8)
    assert torch.equal(loaded.novelty(asked), references.novelty(asked))


def test_references_in_another_arithmetic_judge_alike() -> None:
    torch.manual_seed(0)
    references, asked = References.of(list(torch.randn(50, 8))), torch.randn(9, 8)
    other = references.to(torch.device("cpu"), torch.bfloat16)
    torch.testing.assert_close(other.novelty(asked), references.novelty(asked), atol=0.02, rtol=0)


def test_an_adapter_without_references_has_none(tmp_path: Path) -> None:
    assert find_references(tmp_path) is None


def test_references_of_another_version_are_left_alone(tmp_path: Path) -> None:
    References.of(directions(0)).save(tmp_path)
    save_file(load_file(tmp_path / REFERENCES), tmp_path / REFERENCES, metadata={"version": "2"})
    assert find_references(tmp_path) is None


@pytest.mark.parametrize("count", [0, MAX_REFERENCES + 1])
def test_no_and_too_many_references_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 2048"):
        References.of(directions(0) * count)
