"""The only file that speaks to a device: which one, its arithmetic, its memory, its random state.

ROCm builds of torch answer to the name `cuda`; the differences that matter are told apart here.
"""

import importlib.util
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from app.ml.engine.host_memory import available_bytes, resident_bytes
from app.ml.engine.torch_version import check_torch_version, runs_legacy_torch
from app.ml.spec import Precision

_PROBE_S = 1.0
_GIB = 2**30
# Eager passes come in any number of sizes.
_MOST_BUFFERS = 128
# Vega: no bf16 units, and no Triton worth the name. Its server cards go under the name of DCU, too.
_OLD_HIP_GENERATIONS = ("gfx900", "gfx906")
# What `limit_memory` allowed, by kind of device; torch's own limit holds for the whole process too.
_limits: dict[str, int] = {}


@dataclass(frozen=True)
class DeviceFacts:
    """What a health page shows of a device."""

    kind: str
    """`cpu`, `cuda` or `rocm`."""
    name: str
    memory_total_bytes: int | None
    torch_version: str


def pick_device() -> torch.device:
    """Returns the first visible GPU (of several ranks: the own one), else the CPU.

    Which GPUs are visible is the environment's choice.

    Raises:
        TorchTooOld: nobody waived the floor of torch's version.
    """
    check_torch_version()
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def cpu_device() -> torch.device:
    """Returns the CPU, whatever else there is."""
    return torch.device("cpu")


def device_facts(device: torch.device) -> DeviceFacts:
    """Describes a device without allocating on it."""
    if device.type != "cuda":
        return DeviceFacts("cpu", f"{torch.get_num_threads()} threads", None, torch.__version__)
    properties = torch.cuda.get_device_properties(device)
    kind = "rocm" if torch.version.hip else "cuda"
    return DeviceFacts(kind, properties.name, properties.total_memory, torch.__version__)


def use_threads(count: int | None) -> None:
    """Limits the CPU threads of this process; None leaves torch's choice, which respects OMP_NUM_THREADS."""
    if count is not None:
        torch.set_num_threads(count)
    elif "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def choose_dtype(device: torch.device, precision: Precision) -> torch.dtype:
    """Returns the arithmetic for the frozen weights.

    `auto` takes bf16 on a GPU that has it. On a CPU it times both once, for at most 2 s, because bf16 is up to three times
    faster with AVX-512 BF16 or AMX and up to three times slower without. fp16 is never taken: Gemma overflows in it.
    """
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if has_bf16(device) else torch.float32
    return _faster_on_cpu()


def has_bf16(device: torch.device) -> bool:
    """Says whether a device computes in bf16 itself; a CPU always can, if slowly."""
    if device.type != "cuda":
        return True
    # On ROCm torch says yes for every card.
    if torch.version.hip is not None:
        return _hip_generation(device) not in _OLD_HIP_GENERATIONS
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def limit_memory(device: torch.device, gib: float | None, *, card_share: float | None = None) -> None:
    """Lets this process take at most `gib` GiB of a GPU's memory, or without that a share of its card; None lifts the limit.

    torch raises OutOfMemoryError beyond it. On a CPU nothing enforces it; `free_memory_bytes` obeys `gib` on both.
    """
    _limits.pop(device.type, None)
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    limit = None if gib is None else int(gib * _GIB)
    if limit is None and card_share is not None and total is not None:
        limit = int(card_share * total)
    if limit is not None:
        _limits[device.type] = limit
    if total is not None:
        torch.cuda.set_per_process_memory_fraction(1.0 if limit is None else min(1.0, limit / total), device)


def memory_limit_bytes(device: torch.device) -> int | None:
    """Returns what `limit_memory` allowed, or None."""
    return _limits.get(device.type)


def free_memory_bytes(device: torch.device) -> int:
    """Returns how many bytes more this process may take on a device: what is free, within the limit of `limit_memory`.

    On a GPU what torch holds in its cache counts as free. On a CPU it is what the kernel calls available, within the
    limits of the process's control groups.
    """
    limit = _limits.get(device.type)
    if device.type == "cuda":
        used = torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - used
    else:
        used, free = resident_bytes(), available_bytes()
    return free if limit is None else max(0, min(free, limit - used))


def dtype_name(dtype: torch.dtype) -> str:
    """Returns `bf16` or `fp32`."""
    return "bf16" if dtype == torch.bfloat16 else "fp32"


def arithmetic(network: Any) -> AbstractContextManager[Any]:
    """Returns the context of a training forward pass: bf16 products with fp32 adapters, or plain fp32."""
    if network.dtype != torch.bfloat16:
        return nullcontext()
    return torch.autocast(network.device.type, dtype=torch.bfloat16)


def masked_attention() -> AbstractContextManager[Any]:
    """Returns the context of a forward pass whose attention has a mask and whose gradients are wanted."""
    # cuDNN's, torch's first choice on an H100, gives NaN for q's gradient where rows are 64, 192, 320, … long and scores are low
    # (https://github.com/pytorch/pytorch/issues/196678). Trainings with padded rows ended so on torch 2.11.
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def is_eager() -> bool:
    """Returns whether there shall be neither Triton nor captured graphs: the operator's wish, or a legacy torch."""
    return os.environ.get("DIANDA_EAGER", "") == "1" or runs_legacy_torch()


def triton_runs(device: torch.device) -> bool:
    """Returns whether Triton's kernels run on this device: installed, a GPU that it knows, and not switched off."""
    if device.type != "cuda" or is_eager() or importlib.util.find_spec("triton") is None:
        return False
    # gfx906 and older have no Triton worth the name; CDNA starts at gfx908, RDNA 3 at gfx1100.
    return torch.version.hip is None or _hip_generation(device) not in _OLD_HIP_GENERATIONS


def graphs_run(device: torch.device) -> bool:
    """Returns whether steps may be captured as graphs: NVIDIA cards; on ROCm only when the operator says so."""
    if device.type != "cuda" or is_eager():
        return False
    return torch.version.hip is None or os.environ.get("DIANDA_HIP_GRAPHS", "") == "1"


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a CPU tensor in memory from which a GPU copies without the CPU's help; unchanged where there is no GPU."""
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies a pinned CPU tensor to a device without waiting for what the device is still doing."""
    return tensor.to(device, non_blocking=device.type == "cuda")


class HostBuffers:
    """Host memory that is used again and again; pinned where a GPU copies to and from it, which is dear to make anew."""

    def __init__(self, device: torch.device) -> None:
        """Holds nothing yet."""
        self._is_pinned = device.type == "cuda"
        self._free: dict[tuple[torch.Size, torch.dtype], list[torch.Tensor]] = {}
        self._held = 0

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Returns a tensor of any content."""
        free = self._free.get((torch.Size(shape), dtype))
        if not free:
            return torch.empty(*shape, dtype=dtype, pin_memory=self._is_pinned)
        self._held -= 1
        return free.pop()

    def give_back(self, tensor: torch.Tensor) -> None:
        """Frees a tensor that `take` gave."""
        if self._is_pinned and self._held < _MOST_BUFFERS:
            self._held += 1
            self._free.setdefault((tensor.shape, tensor.dtype), []).append(tensor)


class HostCopies:
    """Tensors on their way from a device to the host; the device goes on meanwhile."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], buffers: HostBuffers) -> None:
        """Starts the copies behind what the device is doing."""
        self._buffers = buffers
        self._event: torch.cuda.Event | None = None
        self._host = {name: buffers.take(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            self._host[name].copy_(tensor, non_blocking=True)
            if tensor.device.type == "cuda" and self._event is None:
                self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        if self._event is not None:
            self._event.record()

    def wait(self) -> dict[str, torch.Tensor]:
        """Returns the tensors on the host; they are lent until `give_back`."""
        if self._event is not None:
            self._event.synchronize()
        return self._host

    def give_back(self) -> None:
        """Frees the memory of the tensors that `wait` returned."""
        for tensor in self._host.values():
            self._buffers.give_back(tensor)
        self._host = {}


class GraphPool:
    """Device memory that graphs which never run side by side share."""

    def __init__(self) -> None:
        """Reserves nothing yet."""
        self.handle = torch.cuda.graph_pool_handle()


class Capture:
    """What runs inside `with capture:` is recorded, not run; `replay` runs it, any number of times."""

    def __init__(self, pool: GraphPool) -> None:
        """Prepares a graph in a pool."""
        self._graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are watched: another may allocate meanwhile.
        self._context = torch.cuda.graph(self._graph, pool=pool.handle, capture_error_mode="thread_local")

    def __enter__(self) -> None:
        """Starts recording."""
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        """Ends recording."""
        self._context.__exit__(*error)

    def replay(self) -> None:
        """Runs the graph on the current stream."""
        self._graph.replay()


class Beside:
    """What runs inside `with beside:` runs beside the current stream, behind what that one was told before; `join` waits for it.

    Inside a capture it becomes a branch of the graph. Without a GPU everything runs in order.
    """

    def __init__(self, device: torch.device) -> None:
        """Makes a stream of its own."""
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._context: AbstractContextManager[Any] = nullcontext()

    def __enter__(self) -> None:
        """Leaves the current stream."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())
            self._context = torch.cuda.stream(self._stream)
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        """Comes back to it."""
        self._context.__exit__(*error)

    def join(self) -> None:
        """Lets the current stream wait for what ran beside it."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)


def shared_memory_bytes(device: torch.device) -> int:
    """Returns how much memory the threads of one block may share; as much as they like where Triton is only interpreted."""
    if device.type != "cuda":
        return _GIB
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", 0) or properties.shared_memory_per_block)


def synchronize(device: torch.device) -> None:
    """Waits for all that a device has been told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seed_all(seed: int) -> None:
    """Seeds the CPU's and every GPU's generator."""
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Returns the generators' states: `[n] uint8` under `cpu`, and under `cuda` on a GPU."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(device: torch.device, state: dict[str, torch.Tensor]) -> None:
    """Puts back what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def empty_cache(device: torch.device) -> None:
    """Gives the memory that torch keeps for later back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def forget_peak_memory(device: torch.device) -> None:
    """Lets `peak_memory_bytes` start anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int | None:
    """Returns the most memory that torch reserved on a GPU so far; None on a CPU."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


@cache
def _faster_on_cpu() -> torch.dtype:
    return torch.bfloat16 if _matmul_rate(torch.bfloat16) > _matmul_rate(torch.float32) else torch.float32


def _matmul_rate(dtype: torch.dtype) -> float:
    # Shapes of one Gemma 3 270M MLP at a batch of 16 short rows: forward and down again.
    rows = torch.randn(640, 640).to(dtype)
    weight = torch.randn(2048, 640).to(dtype)
    multiply = torch.nn.functional.linear
    multiply(multiply(rows, weight), weight.t())  # the first call builds kernels
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _PROBE_S or not done:
        multiply(multiply(rows, weight), weight.t())
        done += 1
    return done / elapsed


def _hip_generation(device: torch.device) -> str:
    name: str = torch.cuda.get_device_properties(device).gcnArchName
    return name.partition(":")[0]
