"""Extraction survives a kill: finished chunks are kept, compared with the images, and removed at the end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import make_tokenizer

from maskgit_cli.config.features import FeatureSpace
from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.data.sources import open_source
from maskgit_cli.formats.feature_statistics import read_statistics
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.scoring import extraction
from maskgit_cli.scoring.extraction import extract
from maskgit_cli.scoring.features.tokenizer import TokenizerExtractor
from maskgit_cli.scoring.stages import fid_stats, score

VQGAN = ScoreConfig(features="vqgan")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("resuming") / "tokenizer")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(extraction, "UNIT", 4)
    monkeypatch.setattr(extraction, "STORED_FROM", 1)


class Interrupting(TokenizerExtractor):
    """An extractor that is interrupted at a call, and counts images."""

    at, seen = 10**9, 0

    def __call__(self, images):
        if self.seen >= self.at:
            raise KeyboardInterrupt
        self.seen += len(images)
        return super().__call__(images)


def extractor_and_space(tokenizer):
    extractor = Interrupting(load_tokenizer(tokenizer))
    return extractor, FeatureSpace("vqgan", extractor.sha256, extractor.dimension, resolution=16)


@pytest.mark.parametrize("keep", [(), ("features",)])
@pytest.mark.parametrize("small", [True, False])
def test_the_next_call_computes_the_rest_and_gives_the_same_bits(
    tmp_path, images, tokenizer, keep, small, monkeypatch
):
    source, store = open_source(images), tmp_path / "store"
    extractor, space = extractor_and_space(tokenizer)
    if not small:  # sums instead of rows
        monkeypatch.setattr(Interrupting, "dimension", 1, raising=False)
    whole = extract(source, extractor, space, keep, 3)
    assert extractor.seen == 30
    interrupted, _ = extractor_and_space(tokenizer)
    interrupted.at = 18
    with pytest.raises(KeyboardInterrupt):
        extract(source, interrupted, space, keep, 3, store=store)
    assert sorted(path.name for path in store.iterdir()) == [f"{i:09d}.npz" for i in (0, 4, 8, 12)]
    resumed, _ = extractor_and_space(tokenizer)
    found = extract(source, resumed, space, keep, 5, store=store)
    assert resumed.seen == 30 - 16
    assert np.array_equal(found.moments.scatter, whole.moments.scatter)
    assert np.array_equal(found.moments.mean, whole.moments.mean)
    assert found.sha256 == whole.sha256
    assert found.sizes == whole.sizes
    if keep:
        assert np.array_equal(found.features, whole.features)


def test_chunks_of_other_pixels_or_settings_or_damaged_ones_are_computed_again(tmp_path, images, tokenizer):
    store = tmp_path / "store"
    extractor, space = extractor_and_space(tokenizer)
    extract(open_source(images), extractor, space, store=store)
    Image.new("RGB", (16, 16), "red").save(images / "05.png")
    (store / "000000008.npz").write_bytes(b"PK damaged")
    again, _ = extractor_and_space(tokenizer)
    found = extract(open_source(images), again, space, store=store)
    assert again.seen == 8  # two chunks of four
    expected, _ = extractor_and_space(tokenizer)
    assert np.array_equal(
        found.moments.scatter, extract(open_source(images), expected, space).moments.scatter
    )
    other, _ = extractor_and_space(tokenizer)
    extract(open_source(images), other, space._replace(resolution=32), store=store)
    assert other.seen == 30


def test_nothing_is_left_when_the_result_is_written(tmp_path, images, tokenizer):
    fid_stats([images], tmp_path / "ref.npz", VQGAN, tokenizer=tokenizer)
    score(images, tmp_path / "ref.npz", VQGAN, tokenizer=tokenizer)
    left = {path.name for path in tmp_path.iterdir()} - {".ref.npz.lock", ".images.scores.json.lock"}
    assert left == {"images", "ref.npz", "images.scores.json"}


def test_after_sigkill_the_same_command_resumes(tmp_path, images, tokenizer):
    """The process kills itself in the extraction; the second one computes the remaining images only."""
    script = """
import os, signal, sys
from pathlib import Path
from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.scoring import extraction
from maskgit_cli.scoring.features.tokenizer import TokenizerExtractor
from maskgit_cli.scoring.stages import fid_stats
extraction.UNIT, extraction.STORED_FROM = 4, 1
call, seen, limit = TokenizerExtractor.__call__, 0, int(sys.argv[4])
def counting(self, images):
    global seen
    if seen >= limit:
        os.kill(os.getpid(), signal.SIGKILL)
    seen += len(images)
    return call(self, images)
TokenizerExtractor.__call__ = counting
fid_stats([Path(sys.argv[1])], Path(sys.argv[2]), ScoreConfig(features="vqgan"), tokenizer=Path(sys.argv[3]),
          batch_size=4, device="cpu")
print(seen)
"""
    arguments = [sys.executable, "-c", script, str(images), str(tmp_path / "ref.npz"), str(tokenizer)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run([*arguments, "12"], env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "ref.npz").exists()
    done = subprocess.run([*arguments, "99"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "18"
    fid_stats([images], tmp_path / "whole.npz", VQGAN, tokenizer=tokenizer)
    one, two = (read_statistics(Path(tmp_path / name)) for name in ("ref.npz", "whole.npz"))
    assert np.array_equal(one.sigma, two.sigma)
    assert not (tmp_path / ".ref.npz.features").exists()
