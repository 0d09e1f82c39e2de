"""Environment that a process with torch needs before it starts: how its memory is kept and cut."""

ALLOCATOR_ENVIRONMENT = {
    # glibc otherwise gives each large activation back to the kernel and page-faults it in again: a third of a training step
    # (measured with Gemma 3 270M on 2 cores: 4.4 s a step of 16 rows without, 2.9 s with).
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
    # Packs differ in size. Blocks that grow fit the next one; fixed ones were a third of a card's memory lying idle
    # (measured with gemma-2b's shapes on an H200: 15.5 GiB reserved without, 10.8 with).
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}

# An answerer lives for months, and each pass has its own number of tokens. One arena, because the engine's thread is the only one
# that takes much; few compiled products, because oneDNN would keep 1,024. Measured on 2 cores, a Gemma of two layers, 18,000
# questions: 900 MiB resident and flat instead of 1,004 and still growing; with Gemma 3 270M an answer takes 2 % longer.
ANSWERER_ENVIRONMENT = ALLOCATOR_ENVIRONMENT | {"MALLOC_ARENA_MAX": "1", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
