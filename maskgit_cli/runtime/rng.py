"""Counter-based random numbers: every one is a hash of (seed, index, step, position, stream).

There is no generator and no state, so image i gets the same numbers whatever the batch it is drawn
in, the process that draws it, or the place where a run was resumed. The hash is Philox4x32-10
(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), written in int64 tensor
operations: integer arithmetic is exact, so CPU and GPU give the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.errors import ConfigError

# One stream a purpose, so that no two purposes ever share a random number. The values are part of
# what a seed means: they never change, new ones are added at the end.
CODE = 0  # which code a position gets
CONFIDENCE = 1  # the noise on a code's confidence
RATIO = 2  # the masking ratio of a training image
MASK = 3  # which tokens of a training image are masked
DROP = 4  # whether a training image loses its label
LABEL = 5  # classes drawn at random
VIEW = 6  # which view of a training image is taken
MIRROR = 7  # whether a training image is mirrored
REVIVE = 8  # which encoder outputs replace codes that fell out of use
ROLL = 9  # where in its order the Halton sampler begins an image

# A seed for all images, or for each image its own: int64 (B,), the 64 bits taken as a signed number.
Seed = int | Tensor
# A key of Philox: two 32-bit words, or two tensors of them.
Key = tuple[int, int] | tuple[Tensor, Tensor]

# Multipliers and key increments of Philox4x32 (the paper's section 3.3 and its Random123 library).
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF


def _multiply(x: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low 32-bit words of the product of 32-bit words held in int64.

    The 64-bit product wraps around in int64, which keeps all of its bits; masking after the
    (arithmetic) shift removes the copies of the sign bit.
    """
    product = x * multiplier
    return (product >> 32) & _WORD, product & _WORD


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Key) -> tuple[Tensor, ...]:
    """Philox4x32-10: four 32-bit words of counter and two of key to four random 32-bit words.

    Args:
        counter: four int64 tensors that broadcast together, values in [0, 2^32).
        key: two integers in [0, 2^32), or int64 tensors of them that broadcast with the counter.

    Returns:
        Four int64 tensors of the broadcast shape, values in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def seeds_of_images(seeds: Sequence[int]) -> Tensor:
    """Seeds, each of 64 bits, as samplers and :func:`uniform` take one for each image: int64 (B,).

    Raises:
        ConfigError: a seed has more than 64 bits or is negative.
    """
    for seed in seeds:
        _key(seed)
    return torch.from_numpy(np.array(seeds, np.uint64).view(np.int64))


def _key(seed: Seed) -> Key:
    """The two 32-bit words of a 64-bit seed, low word first; each (B, 1) for seeds (B,)."""
    if isinstance(seed, Tensor):
        rows = seed.view(-1, 1)
        return rows & _WORD, (rows >> 32) & _WORD
    if not 0 <= seed < 2**64:
        raise ConfigError(f"--seed {seed}: must be between 0 and 2^64 - 1")
    return seed & _WORD, seed >> 32


def uniform(seed: Seed, index: Tensor, step: int, positions: int, stream: int = CODE) -> Tensor:
    """Uniform numbers in the open interval (0, 1), one for each image and position.

    Args:
        seed: 64 bits, from the user; or one for each image (B,).
        index: int64 (B,), number of each image in the whole set, in [0, 2^32).
        step: of the sampler or of the training, in [0, 2^32).
        positions: N, how many numbers an image gets.
        stream: the purpose, one of this module's constants.

    Returns:
        float64 (B, N) on the device of ``index``; odd multiples of 2^-53, so neither 0 nor 1 occurs.

    Raises:
        ConfigError: the seed has more than 64 bits or is negative.
    """
    assert 0 <= step <= _WORD, f"step {step} doesn't fit in 32 bits"
    rows = index.to(torch.int64).view(-1, 1)  # (B, 1)
    columns = torch.arange(positions, device=index.device).view(1, -1)  # (1, N)
    constant = torch.zeros_like(columns)
    counter = (rows, constant + step, columns, constant + stream)
    first, second, _, _ = philox(counter, _key(seed))  # each (B, N)
    bits = (first << 20) | (second >> 12)  # 52 bits; with the half added, 53, which float64 holds exactly
    return (bits.to(torch.float64) + 0.5) * 2.0**-52


def gumbel(seed: Seed, index: Tensor, step: int, positions: int, stream: int = CONFIDENCE) -> Tensor:
    """Standard Gumbel noise −log(−log u), float64 (B, N); arguments as :func:`uniform`."""
    return -torch.log(-torch.log(uniform(seed, index, step, positions, stream)))


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of n items in an epoch: int64 (n,), a pure function of its arguments.

    It ranks the raw words of NumPy's Philox. Those are fixed for all versions of NumPy, which
    ``Generator.permutation`` is not.
    """
    _key(seed)  # the same rule for seeds as everywhere
    generator = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))
    return np.argsort(generator.random_raw(n), kind="stable")


@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    return permutation(seed, epoch, n)


def batch_rows(seed: int, n: int, first: int, count: int) -> np.ndarray:
    """Which of n items stand at places first, first+1, ... of endless epochs: int64 (count,).

    Every epoch is a :func:`permutation` of its own; a batch may span the end of one.
    """
    places = np.arange(first, first + count)
    rows = np.empty(count, dtype=np.int64)
    for epoch in np.unique(places // n):
        here = places // n == epoch
        rows[here] = _epoch_order(seed, int(epoch), n)[places[here] % n]
    return rows
