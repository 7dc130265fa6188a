"""Counter-based random numbers: every one is a function of (seed, index, step, stream, position).

There is no hidden state, so sample i gets the same numbers whatever its batch, its process, or the point
at which a run was resumed. The numbers are raw words of NumPy's Philox4x64-10 (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", SC 2011), which are the same in every NumPy release and on every
machine. They are drawn on the host; not every device has 64-bit floats.
"""

from __future__ import annotations

import functools
import math
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
ORDER = 15  # the order of the training images in an epoch

# Words drawn at a time: 256 KB stay in the cache of a core, and the memory is reused instead of mapped anew.
_CACHED_WORDS = 2**15

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


def _words(key: tuple[int, int], counter: tuple[int, int], n: int, skip: int = 0) -> np.ndarray:
    """n raw words uint64 (n,), after ``skip`` others.

    The low half of the 256-bit counter counts blocks of 4 words, the high half is given.
    """
    block, unused = divmod(skip, 4)
    words = np.random.Philox(
        key=np.array(key, np.uint64), counter=np.array((block, 0, *counter), np.uint64)
    ).random_raw(n + unused)
    return np.asarray(words[unused:], np.uint64)


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


def batch_uniform(seed: int, step: int, rows: int, n: int, stream: int, first: int = 0) -> Tensor:
    """Uniform numbers for a whole training batch: ``Philox(key=[seed, stream])``, the step in the counter.

    A row's numbers do not depend on the other rows, so each process draws those of its own images.

    Args:
        seed: 64 bits.
        step: of the training.
        rows: images in the batch, over all processes, or those from ``first`` on.
        n: numbers per image.
        stream: the purpose, one of this module's constants.
        first: the first of the rows.

    Returns:
        float64 (rows, n) on the CPU, in (0, 1).

    Raises:
        ConfigError: the seed does not fit in 64 bits.
    """
    check_seed(seed)
    return _unit_interval(_words((seed, stream), (0, step), rows * n, skip=first * n).reshape(rows, n))


def batch_below(
    seed: int, step: int, probabilities: np.ndarray, n: int, stream: int, first: int = 0
) -> np.ndarray:
    """Whether each number of :func:`batch_uniform` is below its row's probability, in a third of the time.

    A word's number is (k + 1/2)·2^-52 with k its upper 52 bits. It is below p if and only if k is below
    p·2^52 - 1/2, rounded up; float64 holds this without an error wherever it is positive.

    Args:
        seed: 64 bits.
        step: of the training.
        probabilities: in [0, 1], float64 (rows,).
        n: numbers per image.
        stream: the purpose, one of this module's constants.
        first: the first of the rows.

    Returns:
        bool (rows, n).

    Raises:
        ConfigError: the seed does not fit in 64 bits.
    """
    check_seed(seed)
    limits = np.maximum(np.ceil(probabilities * 2.0**52 - 0.5), 0).astype(np.uint64)[:, None]
    result = np.empty((len(limits), n), np.bool_)
    part = max(1, _CACHED_WORDS // n)
    for start in range(0, len(limits), part):
        some = limits[start : start + part]
        words = _words((seed, stream), (0, step), len(some) * n, skip=(first + start) * n)
        words >>= np.uint64(12)
        np.less(words.reshape(-1, n), some, out=result[start : start + part])
    return result


def row_seeds(seed: int, step: int, rows: int, first: int = 0) -> Tensor:
    """A seed of 64 bits for each image of a training batch: ``Philox(key=[seed, DROPOUT])``.

    As with :func:`batch_uniform` a row's seed does not depend on the other rows.

    Args:
        seed: 64 bits.
        step: of the training.
        rows: images in the batch, over all processes, or those from ``first`` on.
        first: the first of the rows.

    Returns:
        int64 (rows,) on the CPU.

    Raises:
        ConfigError: the seed does not fit in 64 bits.
    """
    check_seed(seed)
    return torch.from_numpy(_words((seed, DROPOUT), (0, step), rows, skip=first).view(np.int64))


# --- epochs -----------------------------------------------------------------------------------------

# Luby and Rackoff ("How to construct pseudorandom permutations from pseudorandom functions", SIAM J. Comput.
# 1988) prove 4 rounds enough for random functions of many bits; our halves may have few values,
# and 12 are what makes all orders of 5 or 6 items about equally frequent.
_ROUNDS = 12
# An odd number near 2^64 / the golden ratio, as in SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), and
# one of the multipliers of its finalizer.
_GOLDEN, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


def _mixed(values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """A keyed hash of uint64 values, elementwise; its upper bits are the best ones."""
    hashed = (values + keys) * _GOLDEN
    hashed ^= hashed >> np.uint64(32)
    hashed *= _MIX
    hashed ^= hashed >> np.uint64(29)
    hashed *= _GOLDEN
    return hashed


@functools.lru_cache(maxsize=64)
def _epoch_keys(seed: int, epoch: int, stream: int) -> np.ndarray:
    """Keys of an epoch, uint64 (rounds,)."""
    check_seed(seed)
    return _words((seed, stream), (0, epoch), _ROUNDS)


def _keys(seed: int, epochs: np.ndarray, stream: int) -> np.ndarray:
    """The keys of the epoch of each item (B,), uint64 (rounds, B) or, if all have the same, (rounds, 1)."""
    found, which = np.unique(epochs, return_inverse=True)
    keys = np.stack([_epoch_keys(seed, epoch, stream) for epoch in found.tolist()], 1)
    return keys if len(found) == 1 else keys[:, which]


def shuffled(seed: int, epochs: np.ndarray, positions: np.ndarray, n: int) -> np.ndarray:
    """The item at each position of an epoch's order of n items: a permutation of 0..n-1 for each epoch.

    It takes time and memory for the positions that are asked for, not for n. A Feistel network permutes the
    cells of a nearly square table with n cells or a few more, and is applied again while its result is no
    item (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, methods 2 and 3).

    Args:
        seed: 64 bits.
        epochs: of each position (B,).
        positions: in [0, n), (B,).
        n: number of items, in [1, 2^62].

    Returns:
        int64 (B,).

    Raises:
        ConfigError: the seed does not fit in 64 bits.
    """
    keys = _keys(seed, epochs, ORDER)
    height = np.uint64(math.isqrt(n - 1) + 1)  # the root, rounded up
    width = np.uint64(-(-n // int(height)))
    values = positions.astype(np.uint64)
    todo = np.arange(len(values))
    while len(todo):
        row, column = np.divmod(values[todo], width)
        for i, key in enumerate(keys if keys.shape[1] == 1 else keys[:, todo]):
            if i % 2 == 0:
                row = (row + _scaled(_mixed(column, key), height)) % height
            else:
                column = (column + _scaled(_mixed(row, key), width)) % width
        values[todo] = moved = row * width + column
        todo = todo[moved >= np.uint64(n)]
    return values.astype(np.int64)


def _scaled(words: np.ndarray, counts: np.ndarray | np.uint64) -> np.ndarray:
    """Uint64 words, uniform, as uint64 numbers from 0 below ``counts``, which are at most 2^32."""
    # Multiplying is as even as a remainder (both within counts/2^32), faster, and uses the upper bits.
    return ((words >> np.uint64(32)) * counts) >> np.uint64(32)


def picked(seed: int, epochs: np.ndarray, rows: np.ndarray, counts: np.ndarray, stream: int) -> np.ndarray:
    """One of ``counts`` (B,) things for each row (B,) in an epoch (B,), at random: int64 (B,), from 0.

    Raises:
        ConfigError: the seed does not fit in 64 bits.
    """
    keys = _keys(seed, epochs, stream)
    words = _mixed(_mixed(rows.astype(np.uint64), keys[0]), keys[1])
    return _scaled(words, counts.astype(np.uint64)).astype(np.int64)


def batch_rows(seed: int, n: int, first: int, count: int) -> np.ndarray:
    """Rows at positions first, first+1, ... of endless shuffled epochs over n rows: int64 (count,).

    Every epoch has an order of its own, see :func:`shuffled`; a batch may span two or, if it is larger than
    n, more.
    """
    positions = np.arange(first, first + count)
    return shuffled(seed, positions // n, positions % n, n)
