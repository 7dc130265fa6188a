"""The counter-based random numbers: known answers, independence of the batch, and distribution."""

import numpy as np
import pytest
import torch

from maskgit_cli.errors import ConfigError
from maskgit_cli.runtime import rng as noise

# Known answers that the authors of Philox publish with their Random123 library (kat_vectors).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_words(counter, key, expected):
    words = noise.philox(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(int(word) for word in words) == expected


def test_uniform_takes_its_counter_and_key_in_the_documented_order():
    seed = 0x299F31D0A4093822
    words = noise.philox(tuple(torch.tensor([c]) for c in (7, 3, 2, noise.MASK)), (0xA4093822, 0x299F31D0))
    bits = int(words[0]) << 20 | int(words[1]) >> 12
    drawn = noise.uniform(seed, torch.tensor([7]), 3, 4, noise.MASK)
    assert drawn[0, 2].item() == (2 * bits + 1) * 2.0**-53


def test_a_row_depends_on_its_index_alone():
    whole = noise.uniform(5, torch.arange(40), 2, 9)
    for rows in (torch.tensor([3]), torch.tensor([39, 0, 17]), torch.arange(8, 24)):
        assert torch.equal(noise.uniform(5, rows, 2, 9), whole[rows])
    assert torch.equal(noise.uniform(5, torch.arange(40), 2, 4), whole[:, :4])


def test_every_part_of_the_counter_matters():
    one = torch.tensor([1])
    variants = [
        noise.uniform(seed, torch.tensor([index]), step, 3, stream)
        for seed, index, step, stream in [
            (0, 1, 0, 0), (1, 1, 0, 0), (2**32, 1, 0, 0), (0, 2, 0, 0), (0, 1, 1, 0), (0, 1, 0, 1),
        ]
    ]  # fmt: skip
    assert len(torch.cat(variants).unique()) == 3 * len(variants)
    assert torch.equal(variants[0], noise.uniform(0, one, 0, 3, 0))


def test_uniform_is_uniform_and_open():
    u = noise.uniform(11, torch.arange(400), 0, 500)
    assert u.dtype == torch.float64
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    counts = torch.histc(u, bins=100, min=0, max=1)
    chi_square = ((counts - 2000) ** 2 / 2000).sum().item()
    assert 50 < chi_square < 160  # 99 degrees of freedom: 0.02 % quantiles are about 53 and 155
    assert abs(torch.corrcoef(u[:, :2].T)[0, 1]) < 0.2


def test_the_extreme_words_stay_inside_the_interval(monkeypatch):
    for word, expected in ((0, 2.0**-53), (2**32 - 1, 1 - 2.0**-53)):
        monkeypatch.setattr(noise, "philox", lambda counter, key, w=word: (torch.full((1, 1), w),) * 4)
        assert noise.uniform(0, torch.tensor([0]), 0, 1).item() == expected


def test_gumbel_has_the_moments_of_the_gumbel_distribution():
    g = noise.gumbel(3, torch.arange(300), 1, 300)
    assert g.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert g.var().item() == pytest.approx(np.pi**2 / 6, rel=0.03)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed):
    with pytest.raises(ConfigError, match="--seed"):
        noise.uniform(seed, torch.tensor([0]), 0, 1)
    with pytest.raises(ConfigError, match="--seed"):
        noise.permutation(seed, 0, 3)


def test_permutation_is_a_pure_function_of_seed_and_epoch():
    order = noise.permutation(0, 0, 100)
    assert sorted(order) == list(range(100))
    assert np.array_equal(order, noise.permutation(0, 0, 100))
    assert not np.array_equal(order, noise.permutation(0, 1, 100))
    assert not np.array_equal(order, noise.permutation(1, 0, 100))
    # Written down once: a seed must mean the same order in every release.
    assert noise.permutation(2, 3, 8).tolist() == [2, 6, 3, 5, 0, 4, 7, 1]


def test_a_seed_for_each_image():
    """Images of several seeds get in one call what they get in a call each."""
    seeds = [0, 5, 2**63, 2**64 - 1]
    indices = torch.tensor([3, 3, 0, 9])
    together = noise.uniform(noise.seeds_of_images(seeds), indices, 2, 7, noise.CONFIDENCE)
    for i, seed in enumerate(seeds):
        alone = noise.uniform(seed, indices[i : i + 1], 2, 7, noise.CONFIDENCE)
        assert torch.equal(together[i], alone[0])
    for wrong in (-1, 2**64):
        with pytest.raises(ConfigError, match=f"--seed {wrong}"):
            noise.seeds_of_images([0, wrong])
