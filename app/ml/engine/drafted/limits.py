"""How much the engine does at once."""

from dataclasses import dataclass

from app.ml.engine.device import free_memory_bytes
from app.ml.engine.drafted.drafting import DraftLimits
from app.ml.engine.drafted.network import CachedNetwork

# What a question's own tokens take of a pass, about.
_PROMPT_TOKENS = 24


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
    def for_device(cls, network: CachedNetwork, *, adapter_gib: float | None, most_adapters: int) -> "EngineLimits":
        """Returns limits for a network's device."""
        is_gpu = network.device.type == "cuda"
        spare = free_memory_bytes(network.device)
        adapter_bytes = int(adapter_gib * 2**30) if adapter_gib is not None else min(spare // 4, 4 * 2**30)
        if is_gpu:
            return cls(1024, 512, 128, 224, 2, 256, 100, 0.004, 12, 0.06, 2, adapter_bytes, most_adapters)
        return cls(256, 64, 24, 224, 2, 40, 8, 0.08, 8, 0.1, 1, adapter_bytes, most_adapters)

    def draft_limits(self, questions: int) -> DraftLimits:
        """Few questions draft freely; many share what a pass takes for free, and more must be likely to pay."""
        share = self.free_tokens // max(1, questions) - _PROMPT_TOKENS
        if share >= self.busy_draft_tokens:
            return DraftLimits(min(self.draft_tokens, share), self.least_probability)
        return DraftLimits(self.busy_draft_tokens, self.busy_probability)
