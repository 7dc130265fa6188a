"""Networks applied to images so that no image's result depends on the images beside it.

Matrix products and convolutions choose their kernels, and with them the order of their sums, by the
shape of the whole batch and by the number of threads. The last bits of image i's logits would then
depend on the size of the batch it happens to be in, and now and then a drawn code with them.
Measured with random networks on a CPU: one thread gives the transformer's rows bit for bit the same
whatever the batch, two threads do not, and the VQGAN's decoder differs by 2e-5 between a batch of one
and a larger one even on one thread. Hence:

- On a CPU, every image goes through alone, on one thread, and as many threads as PyTorch may use
  work on different images. The result is a function of the image alone, whatever the batch size, the
  number of threads or of processes. Many images take about as long as in one batch (0.8 to 1.5 times,
  measured at the tiny and the base width and for the VQGAN, on two cores); one image alone has one thread.
- On a GPU, where one image alone would waste the device, every call has the same number of rows: a
  part of the batch, filled up by repeating a row. The kernels are then always the same ones.
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
    """``function(*inputs)`` with inputs (B, ...) of one B, each row as if it were there alone.

    Args:
        function: a network without gradients; it is called with parts of the batch on ``device``, on a
            CPU from several threads at once.
        inputs: tensors (B, ...) with B at least 1.
        device: of the network.
        rows: of each call on a GPU.

    Returns:
        The function's results (B, ...), on the device of the inputs.
    """
    if device.type == "cpu":
        return torch.cat(
            _one_by_one(function, [tuple(x[None] for x in row) for row in zip(*inputs, strict=True)])
        )
    results = []
    for part in zip(*(x.split(rows) for x in inputs), strict=True):
        full = (_fill(x, rows).to(device) for x in part)
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            results.append(function(*full)[: len(part[0])].to(inputs[0].device))
    return torch.cat(results)


def _fill(x: Tensor, rows: int) -> Tensor:
    """Repeat the first row of (B, ...) after the last one until there are ``rows``."""
    return torch.cat([x, x[:1].expand(rows - len(x), *x.shape[1:])])


def _one_by_one(function: Callable[..., Tensor], calls: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """The results of the calls, made by a pool of threads that use one thread each inside PyTorch."""

    def call(arguments: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad():  # like autocast, this holds for one thread only
            return function(*arguments)

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(min(threads, len(calls)), initializer=torch.set_num_threads, initargs=(1,))
    try:
        return list(pool.map(call, calls))
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C waits for one image, not for all
        torch.set_num_threads(threads)  # a new thread would otherwise inherit the 1


def decode_codes(tokenizer: Tokenizer, codes: Tensor, device: torch.device) -> Tensor:
    """Pictures uint8 (B, 3, H, W) on the CPU of codes (B, h, w), decoded in float32.

    Args:
        tokenizer: its network is on ``device``.
        codes: integers in [0, K).
        device: of the tokenizer.
    """
    return to_pixels(apply_to_rows(tokenizer.network.decode, (codes.cpu(),), device, DECODER_ROWS))
