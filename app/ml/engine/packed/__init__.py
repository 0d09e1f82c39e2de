"""The fast path: decoder layers over packed tokens, with hand-written backward passes.

Tokens of all rows of a micro-batch stand in one `[N, hidden]` tensor without padding; only attention pads. The weights
and the adapter's parameters stay those of transformers' and peft's modules, so that saving, loading and answering know
nothing of this folder.

    packs      rows -> PackedRows: ids, positions, where each token stands in the padded attention
    anatomy    which transformers networks this folder can run, and their few differences
    projection linear layers that read the same input, with their LoRA / DoRA factors
    norms, gating, rotary, attention, head: one layer's parts
    network    the whole forward pass, ending in the summed loss
"""
