from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from app.ml.code_tokens import CodeTokenizer, without_codes

CODES = {"stop_1": 500_000, "9.9": 500_001, "开通方式_98": 500_002}


@dataclass(frozen=True)
class CharTokenizer:
    bos_id: int | None = 200_001
    eos_id: int = 200_002
    pad_id: int = 200_003

    def encode(self, text: str) -> list[int]:
        return [ord(char) % 65_536 for char in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


TOKENIZER = CodeTokenizer(CharTokenizer(), CODES)


@given(st.lists(st.sampled_from(sorted(CODES)) | st.text(st.characters(max_codepoint=0xD7FF)), max_size=8))
def test_what_was_written_part_by_part_is_read_again(parts: list[str]) -> None:
    tokens = [token for part in parts for token in TOKENIZER.encode(part)]

    assert TOKENIZER.decode(tokens) == "".join(parts)


def test_a_code_is_one_token_and_all_else_is_the_bases() -> None:
    assert [TOKENIZER.encode(code) for code in CODES] == [[500_000], [500_001], [500_002]]
    assert TOKENIZER.encode("stop_1 ") == CharTokenizer().encode("stop_1 ")
    assert (TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.pad_id) == (200_001, 200_002, 200_003)


def test_the_bases_own_tokenizer_is_found_below_and_is_its_own() -> None:
    assert without_codes(TOKENIZER) == without_codes(CharTokenizer()) == CharTokenizer()
