"""Batch-invariant inference: the result for an image does not depend on the rest of its batch.

Matrix products and convolutions choose their kernels, and with them the order of their sums, by the
shape of the whole batch and by the number of threads. The last bits of image i's logits would then
depend on the batch size, and now and then a sampled token with them. Measured with random networks on a
CPU: with one thread the transformer's rows are bit for bit the same whatever the batch, with two threads
they are not, and the VQGAN's decoder differs by 2e-5 between a batch of one and a larger one even with one
thread. Hence:

- On a CPU, every image is computed alone, on one thread, and as many threads as PyTorch may use work on
  different images. The result is a function of the image alone, whatever the batch size, the number of
  threads or of processes. Many images take about as long as in one batch (0.8 to 1.5 times, measured at
  the tiny and the base width and for the VQGAN, on two cores); a single image uses one thread.
- On a GPU, where single images would waste the device, every call has the same number of rows: a part of
  the batch, padded by repeating a row. The kernels are then always the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from maskgit_cli.networks.loading import Tokenizer
from maskgit_cli.networks.pixels import to_pixels

DECODER_ROWS = 8


def apply_to_rows(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], device: torch.device, rows: int
) -> Tensor:
    """``function(*inputs)``, batch-invariant: each row as in a batch of its own.

    Args:
        function: a network; it is called without gradients with parts of the batch on ``device``, on a
            CPU from several threads at once.
        inputs: tensors (B, ...) of the same B, at least 1.
        device: device of the network.
        rows: rows per call on a GPU.

    Returns:
        The function's results (B, ...), on the device of the inputs.
    """
    if device.type == "cpu":
        return torch.cat(
            _one_by_one(function, [tuple(x[None] for x in row) for row in zip(*inputs, strict=True)])
        )
    results = []
    for part in zip(*(x.split(rows) for x in inputs), strict=True):
        full = (_fill(x, rows).to(device, non_blocking=x.is_pinned()) for x in part)
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            results.append(function(*full)[: len(part[0])])
    return torch.cat(results).to(inputs[0].device)  # once: each copy back waits for the GPU


def _fill(x: Tensor, rows: int) -> Tensor:
    """Pad (B, ...) to ``rows`` rows by repeating the first one."""
    if len(x) == rows:
        return x  # pinned memory stays pinned
    return torch.cat([x, x[:1].expand(rows - len(x), *x.shape[1:])])


def _one_by_one(function: Callable[..., Tensor], calls: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """The results of the calls, from a pool of threads each of which uses one thread inside PyTorch."""

    def call(arguments: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad():  # like autocast, it applies to one thread only
            return function(*arguments)

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(min(threads, len(calls)), initializer=torch.set_num_threads, initargs=(1,))
    try:
        return list(pool.map(call, calls))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C then waits for one image, not for all
        torch.set_num_threads(threads)  # new threads would otherwise inherit the 1


def decode_tokens(tokenizer: Tokenizer, tokens: Tensor, device: torch.device) -> Tensor:
    """Images uint8 (B, 3, H, W) on the CPU of tokens (B, h, w), decoded in float32.

    Args:
        tokenizer: its network is on ``device``.
        tokens: codebook indices in [0, K).
        device: device of the tokenizer.
    """
    return to_pixels(apply_to_rows(tokenizer.network.decode, (tokens.cpu(),), device, DECODER_ROWS))
