"""Processes, devices and precision, through Accelerate: one process, or what a launcher started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from maskgit_cli.config.stages import DTYPES
from maskgit_cli.errors import ConfigError, MaskGITError
from maskgit_cli.formats.claim import Claim, OutputKind, claim
from maskgit_cli.formats.records import Record
from maskgit_cli.runtime.progress import Reporter

T = TypeVar("T")
# Types of devices without float64: Apple's GPUs.
WITHOUT_FLOAT64 = {"mps"}

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class World(NamedTuple):
    """This process among those that work together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int
    size: int

    @property
    def main(self) -> bool:
        """Whether this process is the one that speaks and writes for all."""
        return self.rank == 0


def world() -> World:
    """This process's place; joins the others first if a launcher started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return World(0, 1)
    from accelerate import PartialState

    # Accelerate joins processes without GPUs only if told that they have none.
    state = PartialState(cpu=_forced_cpu() or not torch.cuda.is_available())
    return World(state.process_index, state.num_processes)


def _forced_cpu() -> bool:
    """Whether the launcher keeps this process off the GPUs."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def barrier() -> None:
    """Wait until every process is here."""
    if world().size > 1:
        from accelerate.utils import wait_for_everyone

        wait_for_everyone()


def gather_objects(value: Any) -> list[Any]:
    """Every process's value, in order of rank, on every process."""
    if world().size == 1:
        return [value]
    from accelerate.utils import gather_object

    return list(gather_object([value]))


def from_main(tensor: torch.Tensor) -> torch.Tensor:
    """The main process's tensor, on every process; it is overwritten in place."""
    if world().size > 1:
        torch.distributed.broadcast(tensor, 0)
    return tensor


def broadcast_object(value: Any) -> Any:
    """The main process's value, on every process."""
    if world().size == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def on_main(work: Callable[[], T]) -> T:
    """Do something on the main process alone; every process gets its result, or its error.

    Raises:
        MaskGITError: the work raised it.
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


@contextmanager
def claim_on_main(
    output: Path, kind: OutputKind, record: Record | Callable[[], Record], overwrite: bool, reporter: Reporter
) -> Iterator[Claim]:
    """:func:`~maskgit_cli.formats.claim.claim` on rank 0, which holds the lock; every rank gets the claim.

    Raises:
        As ``claim``, on every rank.
    """
    with ExitStack() as stack:
        opened = claim(output, kind, record, overwrite=overwrite, warn=reporter.warn)
        yield on_main(lambda: stack.enter_context(opened))


def resolve_device(name: str = "auto") -> torch.device:
    """The device a name stands for; ``auto`` is this process's GPU where there is one.

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
        raise ConfigError(f"--device {name}: not on this machine; use auto, or cpu, which every machine has")
    return device


def float64_device(device: torch.device) -> torch.device:
    """Where to compute in float64 for tensors on ``device``: the CPU if the device has no float64."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision of matrix products a name stands for; ``auto`` is bf16 on GPUs that have it.

    Raises:
        ConfigError: the name is unknown, or fp16 is asked of a CPU.
    """
    if name not in DTYPES:
        raise ConfigError(f"--dtype {name}: must be one of {', '.join(DTYPES)}")
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("--dtype fp16: too slow on a CPU to be of use; use bf16 or fp32")
    return _DTYPES[name]


def dtype_name(name: str, device: torch.device) -> str:
    """The name of the precision that a name, ``auto`` too, stands for; see :func:`resolve_dtype`."""
    found = resolve_dtype(name, device)
    return next(known for known, dtype in _DTYPES.items() if dtype == found)


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """A context in which matrix products and convolutions run at ``dtype``."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


@contextmanager
def plain_attention(device: torch.device, bf16: bool, tokens: int) -> Iterator[None]:
    """Attention by plain matrix products inside ``scaled_dot_product_attention``, where that trains faster.

    On a CPU in bf16 plain products took a quarter to a half of the fused kernel's time at 65 tokens, and
    half of it at 257 (docs/speed.md). Their weights are of no size there;
    above, the fused kernel stays. So it does on GPUs and in fp32.

    Args:
        device: where the forward pass inside runs.
        bf16: whether it runs in bf16.
        tokens: image tokens of a sequence.
    """
    if not (bf16 and device.type == "cpu" and tokens <= 256):
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # Despite its name the switch holds for CPUs too; without it the products run in fp32.
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def accelerator_for(device: str, dtype: str) -> Any:
    """An accelerator from the words of ``--device`` and ``--dtype``; raises as what resolves them does."""
    target = resolve_device(device)
    return make_accelerator(target, resolve_dtype(dtype, target))


def make_accelerator(device: torch.device, dtype: torch.dtype) -> Any:
    """An ``accelerate.Accelerator`` for one training on this device at this precision.

    Accelerate keeps its state for the whole process and refuses another precision; a script that
    trains twice is given a fresh one each time.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    names = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
    AcceleratorState._reset_state(reset_partial_state=False)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Accelerator(cpu=device.type == "cpu", mixed_precision=names[dtype])
