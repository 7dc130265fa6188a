"""Counter-based random numbers: every one is a function of (seed, index, step, stream, position).

There is no hidden state, so sample i gets the same numbers whatever its batch, its process, or the point
at which a run was resumed. The numbers are raw words of NumPy's Philox4x64-10 (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", SC 2011), which are the same in every NumPy release and on every
machine. They are drawn on the host; not every device has 64-bit floats.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from maskgit_cli.errors import ConfigError

# One stream per purpose, so that no two purposes share a random number. The values are part of what a
# seed means: they never change, new ones are added at the end.
TOKEN = 0  # which token a position gets
CONFIDENCE = 1  # the noise on a token's confidence
RATIO = 2  # the mask ratio of a training image
MASK = 3  # which tokens of a training image are masked
LABEL_DROPOUT = 4  # which training images lose their label
LABEL = 5  # classes drawn at random
VIEW = 6  # which view of a training image is taken
FLIP = 7  # which training images are flipped
REVIVAL = 8  # which encoder outputs replace dead codebook vectors
ROLL = 9  # where the Halton sampler begins its order in an image
DROPOUT = 10  # the seed of a training image, which decides dropout
CROP = 11  # where the random views of an image are cropped, and which of them are flipped
SPLIT = 12  # which images are held out for validation
BOOTSTRAP = 13  # which images a resample of a bootstrap takes
SUBSET = 14  # which samples a point of the curve of FID takes

# One seed for all images, or one per image (B,).
Seed = int | np.ndarray | Tensor


def check_seed(seed: int) -> None:
    """Hold a seed to 64 bits.

    Raises:
        ConfigError: it is negative, or 2^64 or more.
    """
    if not 0 <= seed < 2**64:
        raise ConfigError(f"--seed {seed}: must be between 0 and 2^64 - 1")


def seeds_of_images(seeds: Iterable[int]) -> np.ndarray:
    """Seeds as samplers take one per image: uint64 (B,).

    Raises:
        ConfigError: a seed does not fit in 64 bits.
    """
    values = list(seeds)
    for seed in values:
        check_seed(seed)
    return np.array(values, np.uint64)


def _words(key: tuple[int, int], counter: tuple[int, int], n: int) -> np.ndarray:
    """n raw words uint64 (n,). The low half of the 256-bit counter counts them, the high half is given."""
    words = np.random.Philox(
        key=np.array(key, np.uint64), counter=np.array((0, 0, *counter), np.uint64)
    ).random_raw(n)
    return np.asarray(words, np.uint64)


def _unit_interval(words: np.ndarray) -> Tensor:
    """Uniform float64 numbers from raw words: odd multiples of 2^-53, so neither 0 nor 1 occurs."""
    return torch.from_numpy(((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)


def uniform(seed: Seed, indices: ArrayLike | Tensor, step: int, n: int, stream: int = TOKEN) -> Tensor:
    """Uniform numbers in the open interval (0, 1), n per image: ``Philox(key=[seed, index])``.

    Args:
        seed: 64 bits; or one per image (B,).
        indices: number of each image in the whole set, int64 (B,).
        step: of the sampler.
        n: numbers per image.
        stream: the purpose, one of this module's constants.

    Returns:
        float64 (B, n) on the CPU.

    Raises:
        ConfigError: the seed does not fit in 64 bits.
    """
    rows = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices).reshape(-1)
    if isinstance(seed, int):
        check_seed(seed)
    seeds = [seed] * len(rows) if isinstance(seed, int) else seed.tolist()
    words = [_words((s, i), (step, stream), n) for s, i in zip(seeds, rows.tolist(), strict=True)]
    return _unit_interval(np.stack(words) if words else np.empty((0, n), np.uint64))


def gumbel(seed: Seed, indices: ArrayLike | Tensor, step: int, n: int, stream: int = CONFIDENCE) -> Tensor:
    """Standard Gumbel noise −log(−log u), float64 (B, n); arguments as :func:`uniform`."""
    return -torch.log(-torch.log(uniform(seed, indices, step, n, stream)))


def batch_uniform(seed: int, step: int, rows: int, n: int, stream: int) -> Tensor:
    """Uniform numbers for a whole training batch: ``Philox(key=[seed, stream])``, the step in the counter.

    Every process draws all rows and takes its own, so the numbers do not depend on the process count.

    Args:
        seed: 64 bits.
        step: of the training.
        rows: images in the batch, over all processes.
        n: numbers per image.
        stream: the purpose, one of this module's constants.

    Returns:
        float64 (rows, n) on the CPU, in (0, 1).

    Raises:
        ConfigError: the seed does not fit in 64 bits.
    """
    check_seed(seed)
    return _unit_interval(_words((seed, stream), (0, step), rows * n).reshape(rows, n))


def row_seeds(seed: int, step: int, rows: int) -> Tensor:
    """A seed of 64 bits for each image of a training batch: ``Philox(key=[seed, DROPOUT])``.

    As with :func:`batch_uniform` every process draws all rows and takes its own.

    Args:
        seed: 64 bits.
        step: of the training.
        rows: images in the batch, over all processes.

    Returns:
        int64 (rows,) on the CPU.

    Raises:
        ConfigError: the seed does not fit in 64 bits.
    """
    check_seed(seed)
    return torch.from_numpy(_words((seed, DROPOUT), (0, step), rows).view(np.int64))


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of n items in an epoch: int64 (n,), a pure function of its arguments.

    It ranks raw words of Philox, which are the same in every NumPy release; ``Generator.permutation`` makes
    no such promise.

    Raises:
        ConfigError: the seed does not fit in 64 bits.
    """
    check_seed(seed)
    return np.argsort(_words((seed, epoch), (0, 0), n), kind="stable")


@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    return permutation(seed, epoch, n)


def batch_rows(seed: int, n: int, first: int, count: int) -> np.ndarray:
    """Rows at positions first, first+1, ... of endless shuffled epochs over n rows: int64 (count,).

    Every epoch is a :func:`permutation` of its own; a batch may span two.
    """
    positions = np.arange(first, first + count)
    rows = np.empty(count, dtype=np.int64)
    for epoch in np.unique(positions // n):
        here = positions // n == epoch
        rows[here] = _epoch_order(seed, int(epoch), n)[positions[here] % n]
    return rows
