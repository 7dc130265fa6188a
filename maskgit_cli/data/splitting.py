"""Which images of a data set are held out for validation."""

from __future__ import annotations

import numpy as np

from maskgit_cli.errors import ConfigError
from maskgit_cli.runtime import rng


def held_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Which images are held out: bool (N,), a function of the arguments alone.

    The split is stratified: of each class (and of the images without one) the fraction is held out, rounded
    up or down, and at least one image in all. The images of a class are drawn at random, and so are the
    classes whose share is rounded up. The only image of a class is never held out.

    Args:
        labels: class numbers int32 (N,), -1 for none.
        fraction: in (0, 0.5].
        seed: 64 bits.

    Raises:
        ConfigError: nothing can be held out, as no two images share a class.
    """
    n = len(labels)
    _, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    random = rng.batch_uniform(seed, 0, n + 1, 1, rng.SPLIT)[:, 0].numpy()
    order = np.lexsort((random[:n], inverse))  # class by class, at random within a class
    order = order[sizes[inverse[order]] > 1]
    pool = len(order)
    if pool < 2:
        raise ConfigError(f"--val-split {fraction}: nothing can be held out, as no two images share a class")
    count = min(max(1, round(fraction * pool)), pool // 2)
    # Evenly spaced places in that order, from a random one: those where a multiple of `pool` is passed.
    steps = (np.arange(pool + 1) * count + int(random[n] * pool)) // pool
    chosen = np.zeros(n, np.bool_)
    chosen[order[np.diff(steps) > 0]] = True
    return chosen
