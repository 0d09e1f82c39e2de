"""How much the engine does at once."""

from dataclasses import dataclass

from app.ml.engine.device import free_memory_bytes
from app.ml.engine.drafted.drafting import DraftLimits
from app.ml.engine.drafted.network import CachedNetwork

# What a question's own tokens take of a pass, about.
_PROMPT_TOKENS = 24
_DRAFT_TOKENS = 100
_NARROW, _WIDE_ROWS = (128, 224), 2
# A pass's tensors stand twice, in plain torch's cache and in the graphs' pool; half as much again for what is cut in two.
_WORKSPACES = 2.5


@dataclass(frozen=True)
class EngineLimits:
    """How much the engine does at once; what suits a device."""

    pass_tokens: int
    """Most tokens of a pass."""
    prompt_piece: int
    """Most tokens of one prompt in a pass; a longer one is read in pieces."""
    narrow_rows: int
    narrow_tokens: int
    wide_rows: int
    free_tokens: int
    """Tokens that a pass takes at no more cost than one: what there is to draft with."""
    draft_tokens: int
    """Most drafted tokens of a question."""
    least_probability: float
    """Least probability of a drafted token while there are tokens to spare."""
    busy_draft_tokens: int
    """Most drafted tokens of a question while many share a pass."""
    busy_probability: float
    """Least probability of a drafted token then."""
    lanes: int
    """Passes under way: while the device works on one, the host prepares the other."""
    adapter_bytes: int
    most_adapters: int

    @classmethod
    def for_device(
        cls, network: CachedNetwork, *, adapter_gib: float | None, most_adapters: int, wide_tokens: int
    ) -> "EngineLimits":
        """Returns limits for a network's device and what memory it has left; `wide_tokens`: tokens of a wide row."""
        is_gpu = network.device.type == "cuda"
        spare = free_memory_bytes(network.device)
        adapter_bytes = int(adapter_gib * 2**30) if adapter_gib is not None else min(spare // 4, 4 * 2**30)
        if is_gpu:
            rows = (_NARROW[0] * _NARROW[1] + _WIDE_ROWS * wide_tokens) * network.bytes_a_place
            tokens = pass_tokens_within(spare - adapter_bytes - rows, network.pass_bytes_a_token)
            return cls(
                tokens, tokens // 2, *_NARROW, _WIDE_ROWS, 256, _DRAFT_TOKENS, 0.004, 12, 0.06, 2, adapter_bytes, most_adapters
            )
        return cls(256, 64, 24, 224, _WIDE_ROWS, 40, 8, 0.08, 8, 0.1, 1, adapter_bytes, most_adapters)

    @property
    def most_pass_tokens(self) -> int:
        """Most tokens that a pass can come to: a question is fed whole while there is room for one more token."""
        return largest_pass(self.pass_tokens, self.prompt_piece, self.draft_tokens)

    def draft_limits(self, questions: int) -> DraftLimits:
        """Few questions draft freely; many share what a pass takes for free, and more must be likely to pay."""
        share = self.free_tokens // max(1, questions) - _PROMPT_TOKENS
        if share >= self.busy_draft_tokens:
            return DraftLimits(min(self.draft_tokens, share), self.least_probability)
        return DraftLimits(self.busy_draft_tokens, self.busy_probability)


def largest_pass(pass_tokens: int, prompt_piece: int, draft_tokens: int) -> int:
    """Returns the most tokens of a pass that is fed while it has fewer than `pass_tokens`."""
    return pass_tokens - 1 + prompt_piece + draft_tokens


def pass_tokens_within(spare_bytes: int, bytes_a_token: int) -> int:
    """Returns 1,024, or half or a quarter of it where the largest pass's tensors would not fit into `spare_bytes`."""
    for tokens in (1024, 512):
        if _WORKSPACES * bytes_a_token * largest_pass(tokens, tokens // 2, _DRAFT_TOKENS) <= spare_bytes:
            return tokens
    return 256
