"""``info --verify``: whatever is damaged in an artifact is named, and nothing else is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resigned import rewrite_record

from maskgit_cli.config.stages import SampleConfig, ScoreConfig, SweepConfig
from maskgit_cli.data.decoding import decode
from maskgit_cli.errors import InputError
from maskgit_cli.formats.runs import newest_checkpoint
from maskgit_cli.formats.tokens import open_tokens
from maskgit_cli.reports.sweeping import sweep
from maskgit_cli.reports.verifying import verify
from maskgit_cli.sampling.images import sample
from maskgit_cli.scoring.stages import fid_stats, score
from maskgit_cli.weights.exporting import export

VQGAN = ScoreConfig(features="vqgan", metrics=("fid",))


@pytest.fixture(scope="module")
def artifacts(run, tokens, tokenizer, tmp_path_factory) -> Path:
    """One artifact of every kind."""
    root = tmp_path_factory.mktemp("verified")
    shutil.copytree(run, root / "run")
    shutil.copy(tokens, root)
    export(run, root / "model")
    sample(root / "model", root / "samples", SampleConfig(n=5, format="npz"), device="cpu")
    decode(tokens, root / "decoded", tokenizer=tokenizer, device="cpu")
    stats = fid_stats([root / "samples"], root / "stats.npz", VQGAN, tokenizer=tokenizer, device="cpu")
    score(root / "samples", stats, VQGAN, out=root / "scores.json", tokenizer=tokenizer, device="cpu")
    settings = SweepConfig(n=4, keep="images")
    sweep([root / "model"], {"steps": [1, 2]}, stats, root / "sweep", settings, scoring=VQGAN, device="cpu")
    return root


@pytest.fixture
def copy(artifacts, tmp_path):
    """A copy of them that a test may damage."""
    return Path(shutil.copytree(artifacts, tmp_path / "copy"))


KINDS = [
    "run",
    "tokens.h5",
    "model",
    "samples",
    "decoded",
    "stats.npz",
    "scores.json",
    "sweep",
    "samples/samples.npz",
    "model/tokenizer",
]


@pytest.mark.parametrize("name", KINDS)
def test_what_is_whole_is_called_whole(artifacts, name):
    found = verify(artifacts / name)
    assert found.damage == []
    assert found.files >= 1


def test_all_files_that_have_digests_are_counted(artifacts):
    # settings.json, five images, the .npz
    assert verify(artifacts / "samples").files == 7
    checkpoint = len(list(newest_checkpoint(artifacts / "run").iterdir()))
    assert verify(artifacts / "run").files >= 3 + checkpoint  # its record, tokenizer's, and metrics
    # four images for each of two points, with their records, and the sweep's own
    assert verify(artifacts / "sweep").files >= 11


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


def damaged(root: Path, name: str) -> list[str]:
    return verify(root / name).damage


@pytest.mark.parametrize(
    ("artifact", "file"),
    [
        ("model", "model.safetensors"),
        ("model", "tokenizer/model.safetensors"),
        ("model", "config.json"),
        ("run", "checkpoints/*/ema.safetensors"),
        ("run", "checkpoints/*/optimizer.safetensors"),
        ("run", "checkpoints/*/state.json"),
        ("run", "tokenizer/model.safetensors"),
        ("samples", "settings.json"),
        ("samples", "images/000002.png"),
        ("samples", "samples.npz"),
        ("decoded", "*/3.png"),
        ("decoded", "files.csv"),
        ("sweep", "sweep.json"),
        ("sweep", "points/steps=2/images/000001.png"),
        ("sweep", "points/steps=1/tokens.h5"),
        ("sweep", "bootstrap/steps=1.npz"),
        ("stats.npz", ""),
        ("scores.json", ""),
    ],
)
def test_a_flipped_bit_is_found_and_its_file_named(copy, artifact, file):
    path = max((copy / artifact).glob(file)) if file else copy / artifact
    flip(path, path.stat().st_size * 3 // 5)
    found = damaged(copy, artifact)
    assert found
    assert all(str(path) in line or path.suffix == ".json" for line in found)
    assert any(path.name in line or str(path.parent) in line for line in found)
    assert all("\n" not in line for line in found)


def test_rows_of_tokens_are_named(copy):
    tokens = open_tokens(copy / "tokens.h5")
    offset, row = tokens._datasets["codes"].offset, tokens.codes[0].nbytes
    for number in (3, 4, 11):
        flip(copy / "tokens.h5", offset + number * row)
    (line,) = damaged(copy, "tokens.h5")
    assert "rows 3-4, 11 of 24 differ" in line


def test_every_damaged_image_is_reported(copy):
    for number in (1, 3):
        image = copy / "samples" / "images" / f"{number:06d}.png"
        Image.fromarray(np.zeros_like(np.array(Image.open(image)))).save(image)
    (copy / "samples" / "images" / "000004.png").unlink()
    found = damaged(copy, "samples")
    assert [next(n for n in "134" if f"00000{n}.png" in line) for line in found] == ["1", "3", "4"]


def test_a_missing_file(copy):
    (copy / "model" / "model.safetensors").unlink()
    (line,) = damaged(copy, "model")
    assert line.endswith("model.safetensors is missing")
    image = min((copy / "decoded").glob("*/*.png"))
    image.unlink()
    (line,) = damaged(copy, "decoded")
    assert line.startswith(f"{image} is missing")
    (copy / "decoded" / "files.csv").unlink()
    assert "files.csv is missing" in damaged(copy, "decoded")[0]


def test_decoded_images_without_a_list(copy):
    """Earlier folders have numbered images and no list of them."""
    folder = copy / "decoded"
    for number, image in enumerate(sorted(folder.glob("*/*.png"))):
        image.rename(folder / f"{number:06d}.png")
    (folder / "files.csv").unlink()
    rewrite_record(folder / "decoded.json", files_sha256=None)
    assert damaged(copy, "decoded") == []
    (folder / "000007.png").unlink()
    (line,) = damaged(copy, "decoded")
    assert "has 23 images, not 24" in line


def test_another_tokenizer_than_the_models(copy):
    rewrite_record(copy / "model" / "config.json", tokenizer_sha256="0" * 64)
    (line,) = damaged(copy, "model")
    assert "tokenizer/model.safetensors" in line


def test_a_compressed_again_image_is_the_same_image(copy):
    """Pixels count, not the file: tools that shrink PNGs do no damage."""
    image = copy / "samples" / "images" / "000001.png"
    before = image.read_bytes()
    Image.open(image).save(image, compress_level=0)
    assert image.read_bytes() != before
    assert damaged(copy, "samples") == []


def test_nothing_to_verify(images, tmp_path):
    for path in (images, tmp_path):
        with pytest.raises(InputError, match="records no digests"):
            verify(path)
    with pytest.raises(InputError, match="does not exist"):
        verify(tmp_path / "nowhere")


def test_the_command(copy, maskgit):
    done = maskgit("info", copy / "model", "--verify", "--quiet")
    assert (done.status, done.stderr) == (0, "")
    assert "no damage" in done.stdout
    flip(copy / "model" / "model.safetensors", 900)
    done = maskgit("info", copy / "model", "--verify", "--quiet")
    assert done.status == 1
    assert "model.safetensors" in done.stdout
    assert len(done.stderr.splitlines()) == 1
    done = maskgit("info", copy / "model", "--verify", "--json", "--quiet")
    assert (done.status, len(json.loads(done.stdout)["damage"])) == (1, 1)
