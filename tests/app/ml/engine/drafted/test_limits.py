"""How large passes may be, by the memory that a device has left."""

from hypothesis import given
from hypothesis import strategies as st

from app.ml.engine.drafted.captured import captured_sizes
from app.ml.engine.drafted.limits import largest_pass, pass_tokens_within

_GIB = 2**30
# gemma-2b: 2 x 16,384 wide in the MLP, 2,048 in the stream, 2,560 queries, keys and values, bf16.
_GEMMA_2B_BYTES_A_TOKEN = 2 * (3 * 16_384 + 2 * 2_560 + 4 * 2_048)


def test_gemma_2b_keeps_full_passes_in_what_a_shared_card_of_16_gib_leaves_it() -> None:
    # 6.5 GiB less 4.7 of weights, a quarter of the rest for adapters, and the rows of keys and values.
    spare = int((6.5 - 4.7) * 0.75 * _GIB) - (128 * 224 + 2 * 2560) * 18 * 2 * 256 * 2
    assert pass_tokens_within(spare, _GEMMA_2B_BYTES_A_TOKEN) == 1024


def test_passes_shrink_where_little_memory_is_left() -> None:
    assert pass_tokens_within(3 * _GIB // 8, _GEMMA_2B_BYTES_A_TOKEN) == 512
    assert pass_tokens_within(0, _GEMMA_2B_BYTES_A_TOKEN) == 256


@given(st.integers(0, 8 * _GIB), st.integers(1_000, 400_000))
def test_the_largest_pass_fits_unless_it_is_the_least(spare: int, bytes_a_token: int) -> None:
    tokens = pass_tokens_within(spare, bytes_a_token)
    assert tokens == 256 or largest_pass(tokens, tokens // 2, 100) * bytes_a_token < spare


@given(st.integers(33, 1635))
def test_every_pass_has_a_captured_size_and_none_is_captured_in_vain(most: int) -> None:
    sizes = captured_sizes(most)
    assert sizes[-1] >= most
    assert len(sizes) == 1 or sizes[-2] < most
