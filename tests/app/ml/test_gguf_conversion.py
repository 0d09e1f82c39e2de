"""llama.cpp's converter as a script of ours: what it is told, and what becomes of its failures."""

import json
import sys
import time
from pathlib import Path

import pytest

from app.ml import gguf_conversion
from app.ml.errors import GgufConversionFailed, GgufConverterMissing
from app.ml.gguf_conversion import CONVERTER, convert_to_gguf, get_converter

WRITES = """
import json, os, sys
from pathlib import Path
Path(__file__).with_name("told.json").write_text(json.dumps(sys.argv[1:]))
Path(sys.argv[sys.argv.index("--outfile") + 1]).write_bytes(b"GGUF")
"""


def script(tmp_path: Path, body: str, name: str = "converter.py") -> Path:
    path = tmp_path / name
    path.write_text(body)
    return path


def convert(tmp_path: Path, converter: Path) -> Path:
    model, output = tmp_path / "model", tmp_path / "work" / "model.gguf"
    model.mkdir()
    output.parent.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    assert convert_to_gguf(converter, model, output, go_on=lambda: True)
    return output


def test_the_converter_is_told_the_folder_the_file_and_sixteen_bits(tmp_path: Path) -> None:
    output = convert(tmp_path, script(tmp_path, WRITES))

    assert output.read_bytes() == b"GGUF"
    told = json.loads((tmp_path / "told.json").read_text())
    assert told == [str(tmp_path / "model"), "--outfile", str(output), "--outtype", "auto"]


def test_a_converter_that_is_no_python_file_is_run_as_it_is(tmp_path: Path) -> None:
    wrapper = script(tmp_path, f"#!{sys.executable}\n{WRITES}", name="wrapper")
    wrapper.chmod(0o755)

    assert convert(tmp_path, wrapper).read_bytes() == b"GGUF"


def test_a_file_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(GgufConversionFailed, match="Make it executable"):
        convert(tmp_path, script(tmp_path, "echo", name="wrapper"))


def test_a_failing_converter_is_told_by_its_last_line_without_our_paths(tmp_path: Path) -> None:
    failing = script(tmp_path, "import sys; sys.exit(f'Model {sys.argv[3]} is not supported')")

    with pytest.raises(GgufConversionFailed, match=r"exit code 1: Model model\.gguf is not supported") as caught:
        convert(tmp_path, failing)

    assert str(tmp_path) not in caught.value.message


def test_a_converter_that_floods_its_output_costs_neither_memory_nor_a_long_message(tmp_path: Path) -> None:
    flood = script(tmp_path, "import sys\nfor _ in range(500): print('x' * 10_000)\nsys.exit(3)")

    with pytest.raises(GgufConversionFailed, match="exit code 3") as caught:
        convert(tmp_path, flood)

    assert len(caught.value.message) < 600


def test_a_file_beyond_the_limit_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_conversion, "_SPARE_BYTES", 1_000_000)
    greedy = script(tmp_path, "import sys; open(sys.argv[3], 'wb').write(bytes(2_000_000))")

    with pytest.raises(GgufConversionFailed, match="File too large"):
        convert(tmp_path, greedy)


def test_success_without_a_file_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(GgufConversionFailed, match="wrote no file"):
        convert(tmp_path, script(tmp_path, "pass"))


def test_a_conversion_that_is_not_wanted_any_more_is_ended(tmp_path: Path) -> None:
    sleeping = script(tmp_path, "import time; time.sleep(60)")
    (tmp_path / "model").mkdir()
    started = time.monotonic()

    assert not convert_to_gguf(sleeping, tmp_path / "model", tmp_path / "model.gguf", go_on=lambda: False)

    assert time.monotonic() - started < 10


def test_the_operators_setting_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = script(tmp_path, "", name=CONVERTER)
    on_path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    configured = script(tmp_path, "")

    assert get_converter(configured) == configured
    assert get_converter(None) == on_path


def test_a_missing_converter_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(GgufConverterMissing, match="set DIANDA_GGUF_CONVERTER"):
        get_converter(None)


def test_a_setting_that_names_no_file_is_told_without_the_path(tmp_path: Path) -> None:
    with pytest.raises(GgufConverterMissing, match="names no file") as caught:
        get_converter(tmp_path / "gone.py")

    assert str(tmp_path) not in caught.value.message
