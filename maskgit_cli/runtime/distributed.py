"""Processes, devices and precision through Accelerate: one process, or those of a launcher."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from maskgit_cli.config.stages import DTYPES
from maskgit_cli.errors import ConfigError, MaskGITError, OutputError
from maskgit_cli.formats.atomic import disk_errors
from maskgit_cli.formats.claim import Claim, OutputKind, claim
from maskgit_cli.formats.records import Record
from maskgit_cli.runtime.progress import Reporter

T = TypeVar("T")
# Types of devices without float64: Apple's GPUs.
WITHOUT_FLOAT64 = {"mps"}

# Seconds for which a rank looks for a file of rank 0: by default NFS caches a directory for at most 60
# seconds (nfs(5), acdirmax).
VISIBLE_WITHIN = 60.0

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class World(NamedTuple):
    """Rank and number of processes.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
    """

    rank: int
    size: int

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which alone writes files and reports."""
        return self.rank == 0


def world() -> World:
    """Rank and number of processes; initializes the process group first if a launcher started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return World(0, 1)
    from accelerate import PartialState

    # Without GPUs, Accelerate initializes a process group only with cpu=True.
    state = PartialState(cpu=_forced_cpu() or not torch.cuda.is_available())
    return World(state.process_index, state.num_processes)


def join(timeout_minutes: float) -> World:
    """:func:`world`, whose process group waits so long for a rank; for the first call of a process.

    Args:
        timeout_minutes: after which a rank that waits for another fails, of NCCL and gloo alike.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        cpu = _forced_cpu() or not torch.cuda.is_available()
        PartialState(cpu=cpu, timeout=timedelta(minutes=timeout_minutes))
    return world()


def several_nodes() -> bool:
    """Whether the launcher started ranks on other machines, too."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return int(os.environ.get("LOCAL_WORLD_SIZE", size)) < size


def _forced_cpu() -> bool:
    """Whether the launcher keeps this process off the GPUs."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def barrier() -> None:
    """Barrier of all ranks."""
    if world().size > 1:
        from accelerate.utils import wait_for_everyone

        wait_for_everyone()


def gather_objects(value: Any) -> list[Any]:
    """The values of all ranks, in order, on all ranks."""
    if world().size == 1:
        return [value]
    from accelerate.utils import gather_object

    return list(gather_object([value]))


def broadcast_object(value: Any) -> Any:
    """The value of rank 0 on all ranks."""
    if world().size == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def on_main(work: Callable[[], T]) -> T:
    """Call a function on rank 0 alone; all ranks return its result, or raise its error.

    Raises:
        MaskGITError: from the function.
    """
    outcome: tuple[T | None, MaskGITError | None] = None, None
    if world().main:
        try:
            outcome = work(), None
        except MaskGITError as error:
            outcome = None, error
    result, failure = broadcast_object(outcome)
    if failure is not None:
        raise failure
    return result


def check_shared_disk(output: Path) -> None:
    """Check that all ranks of a job on several nodes see what rank 0 writes next to an output.

    Raises:
        OutputError: some do not, or rank 0 cannot write there; on every rank.
    """
    if not several_nodes():
        return
    probe = output.parent / on_main(lambda: f".{output.name}.{secrets.token_hex(8)}.shared")

    def write() -> None:
        with disk_errors(probe):
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.touch()

    on_main(write)
    seen = gather_objects(_appears(probe))
    on_main(lambda: probe.unlink(missing_ok=True))
    blind = [str(rank) for rank, found in enumerate(seen) if not found]
    if blind:
        raise OutputError(
            f"{output}: ranks {', '.join(blind)} of {len(seen)} do not see the files of rank 0; "
            "give a path on a disk that all nodes share, the same one on each"
        )


def _appears(path: Path) -> bool:
    """Whether a file is there, now or within :data:`VISIBLE_WITHIN` seconds; all ranks wait for this one."""
    until = time.monotonic() + VISIBLE_WITHIN
    while not path.exists():
        if time.monotonic() >= until:
            return False
        time.sleep(0.5)
    return True


@contextmanager
def claim_on_main(
    output: Path, kind: OutputKind, record: Record | Callable[[], Record], overwrite: bool, reporter: Reporter
) -> Iterator[Claim]:
    """:func:`~maskgit_cli.formats.claim.claim` on rank 0, which holds the lock; every rank gets the claim.

    Raises:
        As ``claim``, on every rank; OutputError where the nodes share no disk.
    """
    check_shared_disk(output)
    with ExitStack() as stack:
        opened = claim(output, kind, record, overwrite=overwrite, warn=reporter.warn)
        yield on_main(lambda: stack.enter_context(opened))


def resolve_device(name: str = "auto") -> torch.device:
    """The device of a name; ``auto`` is this rank's GPU if there is one.

    Raises:
        ConfigError: the name is unknown, or the device is not on this machine.
    """
    if name == "auto":
        if _forced_cpu():
            return torch.device("cpu")
        if torch.cuda.is_available():
            local = int(os.environ.get("LOCAL_RANK", "0"))
            return torch.device("cuda", local % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: not a device; use auto, cpu, cuda, cuda:N or mps") from None
    absent = {
        "cuda": not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count(),
        "mps": not torch.backends.mps.is_available(),
    }
    if device.type not in ("cpu", "cuda", "mps") or absent.get(device.type, False):
        raise ConfigError(f"--device {name}: not available on this machine; use auto or cpu")
    return device


def float64_device(device: torch.device) -> torch.device:
    """Where to compute in float64 for tensors on ``device``: the CPU if the device has no float64."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision of matrix products of a name; ``auto`` is bf16 on GPUs that support it in hardware.

    Raises:
        ConfigError: the name is unknown, or fp16 on a CPU.
    """
    if name not in DTYPES:
        raise ConfigError(f"--dtype {name}: must be one of {', '.join(DTYPES)}")
    if name == "auto":
        return torch.bfloat16 if _has_bf16(device) else torch.float32
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("--dtype fp16: not supported on a CPU; use bf16 or fp32")
    return _DTYPES[name]


def _has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 matrices in hardware; GPUs before Ampere emulate it slowly."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):  # the question is about the current device
        return torch.cuda.is_bf16_supported(including_emulation=False)


def dtype_name(name: str, device: torch.device) -> str:
    """The name of the precision of a name, ``auto`` included; see :func:`resolve_dtype`."""
    found = resolve_dtype(name, device)
    return next(known for known, dtype in _DTYPES.items() if dtype == found)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """A context in which matrix products and convolutions run at ``dtype``."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


@contextmanager
def plain_attention(device: torch.device, bf16: bool, tokens: int) -> Iterator[None]:
    """A context in which ``scaled_dot_product_attention`` uses plain matrix products where they train faster.

    On a CPU in bf16 they took a quarter to a half of the fused kernel's time at 65 tokens, and half of it
    at 257 (docs/speed.md), where the attention matrices are small. With more tokens, on GPUs and in fp32 the
    fused kernel stays.

    Args:
        device: device of the forward pass.
        bf16: whether it runs in bf16.
        tokens: image tokens per sequence.
    """
    if not (bf16 and device.type == "cpu" and tokens <= 256):
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # Despite its name the switch applies to CPUs too; without it the products run in fp32.
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def accelerator_for(device: str, dtype: str) -> Any:
    """An accelerator for ``--device`` and ``--dtype``; errors are those of resolving them."""
    target = resolve_device(device)
    return make_accelerator(target, resolve_dtype(dtype, target))


def make_accelerator(device: torch.device, dtype: torch.dtype) -> Any:
    """An ``accelerate.Accelerator`` for one training on this device at this precision.

    Accelerate keeps its state for the whole process and refuses another precision; its state is reset, so
    that a script can train twice.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    names = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
    AcceleratorState._reset_state(reset_partial_state=False)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Gradients are views of the buckets that are reduced, which saves a copy of them all.
    views = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    return Accelerator(cpu=device.type == "cpu", mixed_precision=names[dtype], kwargs_handlers=[views])
