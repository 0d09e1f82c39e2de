import json
from pathlib import Path
from typing import Any

import pytest

from app.ml.errors import BrokenModelImport
from app.ml.weight_headers import read_modules
from tests.fixtures.zeros import CONFIG, decoder_shapes, write_safetensors


def header_file(path: Path, header: Any, *, length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text)


def test_a_decoders_modules_are_found_with_their_sides(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", decoder_shapes(CONFIG))

    modules = read_modules(tmp_path)

    assert modules["k_proj"] == (128, 128)
    assert modules["down_proj"] == (128, 256)
    assert modules["embed_tokens"] == (260, 128)
    assert "norm" not in modules


def test_weights_in_several_files_are_read_together(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model-1.safetensors", {"a.q_proj.weight": [8, 4]})
    write_safetensors(tmp_path / "model-2.safetensors", {"a.k_proj.weight": [2, 4], "a.k_proj.bias": [2]})

    assert read_modules(tmp_path) == {"q_proj": (8, 4), "k_proj": (2, 4)}


def test_where_layers_differ_the_narrowest_counts(tmp_path: Path) -> None:
    write_safetensors(
        tmp_path / "m.safetensors", {"0.q_proj.weight": [8, 9], "1.q_proj.weight": [4, 9], "2.q_proj.weight": [7, 9]}
    )

    assert read_modules(tmp_path) == {"q_proj": (4, 9)}


def test_what_transformers_wrote_is_read(tiny_folder_path: Path) -> None:
    modules = read_modules(tiny_folder_path)

    assert (modules["q_proj"], modules["k_proj"], modules["gate_proj"]) == ((32, 32), (16, 32), (64, 32))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x02\x00",
        (2**63).to_bytes(8, "little") + b"{}",
        (33 * 2**20).to_bytes(8, "little") + b"{}",
        (0).to_bytes(8, "little"),
        (100).to_bytes(8, "little") + b"{}",
    ],
)
def test_a_header_of_an_impossible_length_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(BrokenModelImport, match=r"model\.safetensors"):
        read_modules(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        b"\xff\xff",
        b"[]",
        b"{",
        b"[" * 100_000,
        {"a.weight": []},
        {"a.weight": {}},
        {"a.weight": {"shape": 4}},
        {"a.weight": {"shape": ["4", "4"]}},
        {"a.weight": None},
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path: Path, header: Any) -> None:
    header_file(tmp_path / "model.safetensors", header)

    with pytest.raises(BrokenModelImport):
        read_modules(tmp_path)


def test_a_folder_without_weights_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BrokenModelImport, match="dianda models import"):
        read_modules(tmp_path)
