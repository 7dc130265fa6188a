"""Stage `sample` and sample directories: reproducibility, resuming, and refusals."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from resigned import rewrite_record
from tiny_models import CODES, NAMES, make_model

from maskgit_cli.config.samplers import (
    ConfidenceConfig,
    GoogleSamplerConfig,
    HaltonSamplerConfig,
    RasterConfig,
)
from maskgit_cli.config.stages import SampleConfig
from maskgit_cli.errors import ArtifactError, ConfigError, InputError, OutputError
from maskgit_cli.figures.grids import png_bytes
from maskgit_cli.figures.sheets import captioned_sheet
from maskgit_cli.formats.samples import SampleWriter, open_samples, read_record
from maskgit_cli.formats.token_writer import TokenWriter
from maskgit_cli.formats.tokens import open_tokens
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.networks.pixels import to_pixels
from maskgit_cli.sampling.images import grid_rows, grid_texts, sample

STEPS = ConfidenceConfig(steps=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


def generate(model, out, n=7, sampler=STEPS, batch_size=3, overwrite=False, **config):
    return sample(
        model,
        out,
        SampleConfig(n=n, **config),
        sampler,
        batch_size=batch_size,
        device="cpu",
        overwrite=overwrite,
    )


def contents(path: Path) -> dict[str, str]:
    """Digest of every file below a folder, hidden ones included."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_sample_directory(model, tmp_path):
    result = generate(model, tmp_path / "s")
    assert (result.path, result.images, result.resumed) == (tmp_path / "s", 7, False)
    images = [f"images/{i:06d}.png" for i in range(7)]
    assert list(contents(tmp_path / "s")) == ["grid.png", *images, "settings.json", "tokens.h5"]

    samples = open_samples(tmp_path / "s")
    assert samples.tokens.codes.shape == (7, 1, 4, 4)
    assert samples.tokens.codes.max() < CODES
    assert samples.tokens.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert samples.tokens.names[2] == "000002"
    assert samples.tokens.meta.class_names == NAMES
    assert samples.record["settings"]["sampler"] == {"method": "confidence", **STEPS.to_json()}
    assert samples.record["settings"]["range"] == [0, 7]
    assert [parent["kind"] for parent in samples.record["parents"]] == ["model", "tokenizer"]
    assert samples.record["settings"] == result.settings == samples.tokens.meta.settings

    codes = torch.from_numpy(samples.tokens.codes[:, 0].astype(np.int64))
    pixels = to_pixels(load_tokenizer(model).network.decode(codes))
    stored = np.asarray(Image.open(tmp_path / "s" / images[3]))
    assert np.abs(stored.transpose(2, 0, 1) - pixels[3].numpy().astype(int)).max() <= 1


@pytest.mark.parametrize(
    "sampler", [STEPS, HaltonSamplerConfig(steps=4), GoogleSamplerConfig(steps=4, cfg=1.0), RasterConfig()]
)
def test_an_image_depends_neither_on_batch_size_nor_on_range(model, tmp_path, sampler):
    whole = generate(model, tmp_path / "whole", 8, sampler, labels="uniform", batch_size=8).path
    alone = generate(model, tmp_path / "alone", 8, sampler, labels="uniform", batch_size=1).path
    assert contents(whole) == contents(alone)
    part = generate(model, tmp_path / "part", 8, sampler, labels="uniform", start=3, stop=6).path
    a, b = open_tokens(whole / "tokens.h5"), open_tokens(part / "tokens.h5")
    assert np.array_equal(a.codes[3:6], b.codes)
    assert np.array_equal(a.labels[3:6], b.labels)
    assert b.names == ["000003", "000004", "000005"]
    for name in b.names:
        assert (whole / "images" / f"{name}.png").read_bytes() == (
            part / "images" / f"{name}.png"
        ).read_bytes()


def test_the_same_call_finds_its_own_samples_and_leaves_them_alone(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = generate(model, None)
    assert first.path.parent == Path("samples")
    assert first.path.name.startswith("tiny-")
    before = {file: file.stat().st_mtime_ns for file in first.path.rglob("*")}
    second = generate(model, None, batch_size=2)
    assert second == first._replace(resumed=True)
    assert before == {file: file.stat().st_mtime_ns for file in first.path.rglob("*")}
    assert generate(model, None, seed=1).path != first.path


def test_an_interrupted_call_resumes_to_the_same_bytes(model, tmp_path, monkeypatch):
    whole = contents(generate(model, tmp_path / "whole", format="npz").path)

    class Stopped(Exception):
        pass

    # Stop once before each of the writes: images, tokens, token file, grid, record.
    for method in ("write", "finish_tokens", "finish"):
        for calls in (0, 1) if method == "write" else (0,):
            path = tmp_path / f"{method}-{calls}"
            left, original = [calls], getattr(SampleWriter, method)

            def stop(self, *args, left=left, original=original, **options):
                if left[0] == 0:
                    raise Stopped
                left[0] -= 1
                return original(self, *args, **options)

            with monkeypatch.context() as patch:
                patch.setattr(SampleWriter, method, stop)
                with pytest.raises(Stopped):
                    generate(model, path, format="npz")
            assert read_record(path)["complete"] is False
            with pytest.raises(ArtifactError, match=path.name):
                open_samples(path)
            (path / "images").mkdir(exist_ok=True)
            (path / "images" / ".000001.png.0123456789ab.tmp").write_bytes(b"half an ima")
            again = generate(model, path, format="npz", batch_size=2)
            assert again.resumed == (calls > 0 or method != "write")
            assert contents(path) == whole


KILLED = """
import os, signal, sys
from pathlib import Path
from maskgit_cli.config.samplers import ConfidenceConfig
from maskgit_cli.config.stages import SampleConfig
from maskgit_cli.formats.samples import SampleWriter
from maskgit_cli.formats.token_writer import TokenWriter
from maskgit_cli.sampling.images import sample

writer = {"SampleWriter": SampleWriter, "TokenWriter": TokenWriter}[sys.argv[3]]
method, left = sys.argv[4], [int(sys.argv[5])]
original = getattr(writer, method)

def killed(self, *args, **options):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return original(self, *args, **options)

setattr(writer, method, killed)
sample(Path(sys.argv[1]), Path(sys.argv[2]), SampleConfig(n=8), ConfidenceConfig(steps=4), batch_size=2,
       device="cpu")
"""


def test_sigkill_in_the_middle_and_again_gives_the_same_bytes(model, tmp_path):
    """Killed between the images and the tokens of the second batch, before the fourth, and at the end."""
    whole = contents(generate(model, tmp_path / "whole", n=8, batch_size=2).path)
    path = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for kill, images, done in [
        (("TokenWriter", "write", "1"), 4, 2),
        (("SampleWriter", "write", "2"), 6, 6),
        (("SampleWriter", "finish", "0"), 8, None),
    ]:
        arguments = [sys.executable, "-c", KILLED, str(model), str(path), *kill]
        process = subprocess.run(arguments, env=environment, capture_output=True, check=False)
        assert process.returncode == -signal.SIGKILL, process.stderr.decode()
        assert read_record(path)["complete"] is False
        assert len(list((path / "images").glob("*.png"))) == images
        if done is None:
            assert len(open_tokens(path / "tokens.h5")) == 8
        else:
            assert TokenWriter(path / "tokens.h5").done.sum() == done
    result = generate(model, path, n=8, batch_size=7)
    assert result.resumed
    assert contents(path) == whole


def test_formats(model, tmp_path):
    png = generate(model, tmp_path / "png").path
    npz = generate(model, tmp_path / "npz", format="npz").path
    tokens = generate(model, tmp_path / "tokens", format="tokens").path
    assert contents(png)["tokens.h5"] != contents(tokens)["tokens.h5"]  # it contains its settings
    assert np.array_equal(open_tokens(png / "tokens.h5").codes, open_tokens(tokens / "tokens.h5").codes)
    assert list(contents(tokens)) == ["grid.png", "settings.json", "tokens.h5"]
    assert contents(png)["grid.png"] == contents(npz)["grid.png"] == contents(tokens)["grid.png"]
    with np.load(npz / "samples.npz", allow_pickle=False) as file:
        pixels = file["arr_0"]
    assert (pixels.dtype, pixels.shape) == (np.uint8, (7, 16, 16, 3))
    assert np.array_equal(pixels[4], np.asarray(Image.open(npz / "images" / "000004.png")))


def test_other_settings_over_samples_that_are_there(model, tmp_path):
    path = generate(model, tmp_path / "s").path
    before = contents(path)
    cases = [
        ({"seed": 1}, "--seed 0, not 1"),
        ({"n": 8}, "--n 7, not 8"),
        ({"labels": "1"}, "--labels all, not 1"),
        ({"start": 2}, "--range 0:7, not 2:7"),
        ({"sampler": ConfidenceConfig(steps=5)}, "--steps 4, not 5"),
        ({"sampler": HaltonSamplerConfig(steps=4)}, "--sampler confidence, not halton"),
        ({"trace": "gif"}, "--trace none, not gif"),
    ]
    for change, difference in cases:
        with pytest.raises(OutputError) as caught:
            generate(model, path, **change)
        assert difference in str(caught.value)
        assert "--overwrite" in str(caught.value)
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(OutputError, match=r"model [0-9a-f]{12}, not [0-9a-f]{12}"):
        generate(other, path)
    assert contents(path) == before


def test_labels_from_a_file_that_has_changed(model, tmp_path):
    (tmp_path / "labels").write_text("cat\nowl\n")
    spec = f"@{tmp_path / 'labels'}"
    path = generate(model, tmp_path / "s", labels=spec).path
    assert open_tokens(path / "tokens.h5").labels.tolist() == [0, 2, 0, 2, 0, 2, 0]
    (tmp_path / "labels").write_text("cat\ndog\n")
    with pytest.raises(OutputError, match="--labels @"):
        generate(model, path, labels=spec)


def test_the_error_names_the_seed_where_the_classes_depend_on_it(model, tmp_path):
    path = generate(model, tmp_path / "s", labels="uniform").path
    with pytest.raises(OutputError, match="--seed 0, not 1"):
        generate(model, path, labels="uniform", seed=1)


def test_overwrite_replaces_a_damaged_token_file(model, tmp_path, monkeypatch):
    whole = contents(generate(model, tmp_path / "whole").path)
    path = tmp_path / "s"

    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SampleWriter, "finish_tokens", stop)
        with pytest.raises(KeyboardInterrupt):
            generate(model, path)
    (path / "tokens.h5.partial").write_bytes(b"no HDF5")
    with pytest.raises(OutputError, match="--overwrite"):
        generate(model, path)
    generate(model, path, overwrite=True)
    assert contents(path) == whole


def test_overwrite_replaces_samples_and_nothing_else(model, tmp_path):
    path = generate(model, tmp_path / "s", n=9, format="npz").path
    (path / "notes.txt").write_text("mine")
    (path / "scores.json").write_text("{}")
    generate(model, path, n=4, seed=3, overwrite=True)
    clean = contents(generate(model, tmp_path / "clean", n=4, seed=3).path)
    assert contents(path) == {**clean, "notes.txt": hashlib.sha256(b"mine").hexdigest()}
    generate(model, path, n=4, seed=3, overwrite=True)
    assert contents(path)["tokens.h5"] == clean["tokens.h5"]


def test_a_directory_that_holds_something_else(model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")
    for name in ("photos", "file"):
        with pytest.raises(OutputError, match=f"{name} .*--out"):
            generate(model, tmp_path / name, overwrite=True)
    (tmp_path / "empty").mkdir()
    assert generate(model, tmp_path / "empty", n=1).images == 1


def test_impossible_settings(model, tmp_path):
    with pytest.raises(ConfigError, match="--batch-size 0"):
        generate(model, tmp_path / "s", batch_size=0)
    with pytest.raises(ConfigError, match=r"--steps 17: .* 16 tokens"):
        generate(model, tmp_path / "s", sampler=ConfidenceConfig(steps=17))
    with pytest.raises(ConfigError, match="--steps -1"):
        ConfidenceConfig(steps=-1)
    for part in ({"start": -1}, {"start": 1, "stop": 1}, {"stop": 0}, {"stop": 8}):
        with pytest.raises(ConfigError, match=r"--range -?\d:\d: .* 0:7"):
            SampleConfig(n=7, **part)
    with pytest.raises(ConfigError, match=r"--seed \d+: "):
        SampleConfig(seed=2**64)
    with pytest.raises(ConfigError, match=r"owls: .* owl"):
        generate(model, tmp_path / "s", labels="owls")
    with pytest.raises(InputError, match="absent"):
        generate(tmp_path / "absent", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_checkpoint_with_nan_logits(tmp_path):
    with pytest.raises(ArtifactError, match="NaN"):
        generate(make_model(tmp_path / "m", nan=True), tmp_path / "s")


def test_a_model_without_classes(tmp_path):
    path = generate(make_model(tmp_path / "m", classes=0), tmp_path / "s").path
    samples = open_samples(path)
    assert set(samples.tokens.labels) == {-1}
    assert samples.record["settings"]["sampler"]["cfg"] == 0
    with pytest.raises(ConfigError, match="--cfg 5: must be 0"):
        generate(tmp_path / "m", tmp_path / "other", sampler={"cfg": 5.0})


def test_damaged_sample_directories(model, tmp_path):
    path = generate(model, tmp_path / "s", n=2).path
    with pytest.raises(ArtifactError, match="images"):
        open_samples(path / "images")
    rewrite_record(path / "settings.json", version=3)
    with pytest.raises(ArtifactError, match="version 3"):
        open_samples(path)
    rewrite_record(path / "settings.json", version=2)
    (path / "tokens.h5").unlink()
    with pytest.raises(OutputError, match=r"tokens\.h5.*--overwrite"):
        generate(model, path, n=2)


def test_several_processes_generate_what_one_generates(model, tmp_path):
    whole = contents(generate(model, tmp_path / "whole", n=5).path)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from maskgit_cli.config.stages import SampleConfig\n"
        "from maskgit_cli.config.samplers import ConfidenceConfig\n"
        "from maskgit_cli.sampling.images import sample\n"
        "sample(Path(sys.argv[1]), Path(sys.argv[2]), SampleConfig(n=5), ConfidenceConfig(steps=4),\n"
        "       batch_size=1, device='cpu')\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    path = tmp_path / "several"
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent.parent)
    environment["TMPDIR"] = str(tmp_path)  # the launcher leaves its logs there
    subprocess.run(
        [*torchrun, str(script), str(model), str(path)], check=True, env=environment, capture_output=True
    )
    assert contents(path) == whole


@pytest.mark.parametrize(
    ("labels", "rows", "columns"),
    [
        ([0, 1, 0, 1, 0], [0, 2, 1, 3], 2),  # few classes: one per row
        ([2, 0, 1], [1, 2, 0], 2),  # one image of each
        ([-1] * 5, [0, 1, 2, 3, 4], 2),
    ],
)
def test_grid_rows(labels, rows, columns):
    chosen, width = grid_rows(np.array(labels))
    assert (chosen.tolist(), width) == (rows, columns)


def test_a_grid_of_many_classes_shows_as_many_of_them_as_it_can():
    labels = np.arange(5000) % 1000
    chosen, width = grid_rows(labels)
    assert (chosen.tolist(), width) == (list(range(100)), 10)
    chosen, _ = grid_rows(np.arange(300) % 70)
    assert len(chosen) == 100
    assert set(labels[chosen]) >= set(range(70))


@pytest.mark.parametrize(
    ("labels", "names", "columns", "texts"),
    [
        ([0, 0, 2, 2], NAMES, 2, {"row_names": ["cat", "owl"]}),
        ([0, 0, 2, 2], [], 2, {"row_names": ["class 0", "class 2"]}),
        ([0, 1, 1, 2], NAMES, 2, {"captions": ["cat", "dog", "dog", "owl"]}),
        ([0, 1], NAMES, 1, {"captions": ["cat", "dog"]}),
        ([1, 1, 1], NAMES, 2, {"title": "dog"}),
        ([0, 1], ["n01443537", "n02114367"], 1, {"captions": ["goldfish", "timber wolf"]}),
        ([-1, -1], [], 1, {}),
    ],
)
def test_a_grid_names_the_classes(labels, names, columns, texts):
    assert grid_texts(np.array(labels), names, columns) == texts


def test_the_grid_has_the_names_of_the_classes(model, tmp_path):
    sample(model, tmp_path / "s", SampleConfig(n=6), {"steps": 2})
    rows = [0, 3, 1, 4, 2, 5]
    pixels = np.stack([np.array(Image.open(tmp_path / "s" / "images" / f"{i:06d}.png")) for i in rows])
    sheet = captioned_sheet(torch.from_numpy(pixels).permute(0, 3, 1, 2), 2, row_names=NAMES)
    assert (tmp_path / "s" / "grid.png").read_bytes() == png_bytes(sheet)
