"""What a training will take before it is started: memory, time, and the micro-batch that fits."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maskgit_cli.config.training import TrainConfig, VQGANTrainConfig
from maskgit_cli.errors import ConfigError, MaskGITError
from maskgit_cli.networks.base import MaskedTransformer
from maskgit_cli.runtime.distributed import autocast, broadcast_object, gather_objects, world
from maskgit_cli.training.batches import Batch
from maskgit_cli.training.objective import masked_loss

# Bytes per parameter, all in float32: weight, gradient, two moments of AdamW and EMA; without the gradient in
# a checkpoint. Previews and validation use another network with the EMA weights.
STATE_BYTES, CHECKPOINT_BYTES, PREVIEW_BYTES = 20, 16, 4
# Fraction of the free memory that a training may fill: allocators fragment, and libraries have workspaces.
USABLE = 0.85
# Steps that are timed, and about how many seconds they may take: a batch that takes longer is timed in part.
TIMED_STEPS, TIMED_SECONDS = 10, 60.0
# What PyTorch's errors of the allocators say; CUDA has a class of its own.
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_CGROUP = Path("/sys/fs/cgroup")


class Plan(NamedTuple):
    """What a training will take. Memory is in bytes per process.

    Attributes:
        network: its name.
        size: its size; None is one without a name.
        parameters: their number.
        steps: optimizer steps.
        batch_size: images per step, over all processes.
        accumulate: micro-batches per step of each process.
        processes: their number.
        rows: images per micro-batch.
        state: memory of weights, gradients, AdamW and EMA.
        activations: memory of one micro-batch's forward and backward pass, in addition to the state.
        available: memory before the training.
        seconds: per step, the median of ten.
        timed_images: images per step as timed; fewer than in the batch where ten steps take over a minute.
        checkpoint: bytes of a checkpoint.
        kept: checkpoints on the disk at a time, with the one that is being written.
    """

    network: str
    size: str | None
    parameters: int
    steps: int
    batch_size: int
    accumulate: int
    processes: int
    rows: int
    state: int
    activations: int
    available: int
    seconds: float
    timed_images: int
    checkpoint: int
    kept: int

    @property
    def hours(self) -> float:
        """Expected length of the training."""
        return self.steps * self.seconds / 3600

    def record(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {**self._asdict(), "hours": round(self.hours, 3)}


# --- memory -----------------------------------------------------------------------------------------


def state_bytes(parameters: int, config: TrainConfig) -> int:
    """Memory of weights, gradients, AdamW and EMA per process."""
    return parameters * STATE_BYTES // (world().size if config.fsdp else 1)


def available_memory(device: torch.device) -> int:
    """Bytes that this process may still allocate on its device; local processes share the machine's."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    limits = [_machine_memory(), *_cgroup_memory()]
    return min(limits) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _machine_memory() -> int:
    """Memory that is not in use; where the system does not report it, all of it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, value, *_ = line.split()
            if name == "MemAvailable:":
                return int(value) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_memory() -> Iterator[int]:
    """Memory that a container's limit leaves (cgroup v2, memory.max); nothing without a limit."""
    with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
        limit = int((_CGROUP / "memory.max").read_text())
        yield max(0, limit - int((_CGROUP / "memory.current").read_text()))


class Activations(NamedTuple):
    """Memory of a forward and backward pass: ``fixed`` bytes, and ``row`` bytes per image."""

    fixed: int
    row: int

    def of(self, rows: int) -> int:
        """Bytes of a micro-batch."""
        return self.fixed + rows * self.row


def measure_activations(network: MaskedTransformer, config: TrainConfig, accelerator: Any) -> Activations:
    """The memory of forward and backward passes of a network, which is on its device.

    On GPUs it is the allocator's peak, on CPUs the tensors that autograd saves, and the gradients of the
    logits and of one block. With gradient checkpointing the saved tensors are the inputs of the blocks, and
    those of one block.
    """
    measured = _peak if accelerator.device.type == "cuda" else _saved
    few, more = (measured(network, rows, config, accelerator) for rows in (1, 3))
    row = max(1, (more - few) // 2)
    return Activations(max(0, few - row), row)


def _forward(network: MaskedTransformer, rows: int, config: TrainConfig, accelerator: Any) -> Tensor:
    """The loss of so many images, all of whose tokens are masked."""
    device, grid, k = accelerator.device, network.config.grid, network.mask_token
    tokens = torch.zeros(rows, grid, grid, dtype=torch.int64, device=device)
    masked = torch.ones_like(tokens, dtype=torch.bool)
    # Networks without classes take the label -1 as the null class.
    labels = torch.full((rows,), 0 if network.config.classes else -1, device=device)
    drop = torch.zeros(rows, dtype=torch.bool, device=device)
    batch = Batch(tokens + k, tokens, masked, labels, drop, torch.zeros_like(labels))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)
    with autocast(device, dtype):
        logits = network(batch.inputs, batch.labels, batch.drop, batch.seeds)
    return masked_loss(logits, batch, config)


def _peak(network: MaskedTransformer, rows: int, config: TrainConfig, accelerator: Any) -> int:
    """Bytes that a GPU's allocator reaches above the weights and their gradients."""
    device = accelerator.device
    network.train()
    _forward(network, rows, config, accelerator).backward()  # the gradients, and the libraries' workspaces
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _forward(network, rows, config, accelerator).backward()
    torch.cuda.synchronize(device)
    network.zero_grad()
    return torch.cuda.max_memory_allocated(device) - before


def _saved(network: MaskedTransformer, rows: int, config: TrainConfig, accelerator: Any) -> int:
    """Bytes of the tensors that autograd saves, and of the gradients that are there at the same time."""
    network.train()
    recomputes, depth = network.grad_checkpointing, len(network.blocks)

    def saved(recompute: bool) -> int:
        network.grad_checkpointing = recompute
        with count_saved(network.parameters()) as total:
            _forward(network, rows, config, accelerator)
        return sum(total.values())

    try:
        everything = saved(False)
        inputs = saved(True) if recomputes else everything
    finally:
        network.grad_checkpointing = recomputes
    # The gradients of a block's activations take about as much as these; two of the logits are there first,
    # of the log-softmax and of its input.
    block = (everything - inputs if recomputes else everything) // depth
    logits = 4 * rows * network.config.grid**2 * (network.config.codebook_size + 1)
    return inputs + (2 * block if recomputes else block) + 2 * logits


@contextlib.contextmanager
def count_saved(parameters: Iterable[Tensor]) -> Iterator[dict[int, int]]:
    """Yield the sizes in bytes, by address, of what autograd saves in the ``with`` block.

    Args:
        parameters: tensors that are there anyway.
    """
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


# --- the micro-batch that fits ----------------------------------------------------------------------


def fitting_accumulate(build: Callable[[], MaskedTransformer], config: TrainConfig, accelerator: Any) -> int:
    """The smallest ``--accumulate`` whose micro-batches fit in every process's memory.

    Args:
        build: makes the network.
        config: resolved settings, with the global batch.
        accelerator: an ``accelerate.Accelerator``.

    Raises:
        ConfigError: not even one image per micro-batch fits.
    """
    device = accelerator.device
    available = available_memory(device)
    network = build().to(device)
    network.grad_checkpointing = config.grad_checkpointing
    parameters = sum(parameter.numel() for parameter in network.parameters())
    with memory_errors(config):
        activations = measure_activations(network, config, accelerator)
    del network
    if device.type == "cuda":
        torch.cuda.empty_cache()
    state = state_bytes(parameters, config) + parameters * PREVIEW_BYTES
    left = int(available * USABLE) - state - activations.fixed
    most = min(gather_objects(left // activations.row))
    if most < 1:
        raise ConfigError(
            f"--batch-size auto: not even one image fits in {available / 1e9:.3g} GB, of which the state "
            f"takes {state / 1e9:.3g} GB; use --grad-checkpointing, a smaller --size, or --fsdp"
        )
    share = (config.batch_size or 1) // world().size
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= most)


@contextlib.contextmanager
def memory_errors(config: TrainConfig | VQGANTrainConfig) -> Iterator[None]:
    """A context in which out of memory is one line that names the options that need less.

    Raises:
        MaskGITError: the device's or the machine's memory is full.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        rows = (config.batch_size or 0) // (world().size * config.accumulate)
        further = ""
        if isinstance(config, TrainConfig):
            further = "" if config.grad_checkpointing else " or --grad-checkpointing"
            further += ", or let --batch-size auto choose"
        raise MaskGITError(
            f"out of memory with {rows} images per process and micro-batch; use a higher --accumulate (now "
            f"{config.accumulate}){further}"
        ) from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of PyTorch says that memory is full."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY)


# --- time -------------------------------------------------------------------------------------------


def time_steps(step: Callable[[int, TrainConfig], None], config: TrainConfig) -> tuple[float, int]:
    """Seconds of an optimizer step, the median of ten, and the number of images per step as timed.

    A batch of which ten steps take more than about a minute is timed in part: the time of the others
    follows from that of two smaller batches.

    Args:
        step: does one step, of this number from 1, with these settings, and waits for its end.
        config: resolved settings.
    """
    batch, size, done = config.batch_size or 1, world().size, 0

    def timed(images: int, count: int) -> float:
        nonlocal done
        whole = images == batch
        part = config if whole else dataclasses.replace(config, batch_size=images, accumulate=1)
        seconds = []
        for _ in range(count):
            done += 1
            began = time.perf_counter()
            step(done, part)
            seconds.append(time.perf_counter() - began)
        return float(broadcast_object(statistics.median(seconds)))

    timed(size, 1)  # the first step allocates, and chooses kernels
    least = timed(size, 2)
    # As if a row took as long as the smallest step, which is an upper bound.
    affordable = max(2, int(TIMED_SECONDS / TIMED_STEPS / least)) * size
    micro = batch // config.accumulate
    if affordable >= batch:
        timed(batch, 1)
        return timed(batch, TIMED_STEPS), batch
    images = min(affordable, micro) if micro > size else size
    seconds = timed(images, TIMED_STEPS)
    per_image = (seconds - least) / (images - size) if images > size else seconds / images
    return seconds + max(0.0, per_image) * (batch - images), images
