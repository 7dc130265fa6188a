"""Stage `tokenize`: the tokens are correct, and the same however often it is interrupted or distributed."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from maskgit_cli.cli import main
from maskgit_cli.config.networks import VQGANConfig
from maskgit_cli.config.stages import TokenizeConfig
from maskgit_cli.data import tokenizing
from maskgit_cli.data.images import read_image, views
from maskgit_cli.data.sources import open_source
from maskgit_cli.data.tokenizing import tokenize
from maskgit_cli.errors import ArtifactError, ConfigError, InputError, OutputError
from maskgit_cli.formats.token_writer import TokenWriter
from maskgit_cli.formats.tokens import open_tokens, partial_path
from maskgit_cli.networks.loading import load_tokenizer, save_tokenizer
from maskgit_cli.networks.pixels import to_model
from maskgit_cli.networks.vqgan import VQGAN, Codebook

SIZES = VQGANConfig(
    resolution=16,
    channels=8,
    channel_multipliers=(1, 2),
    residual_blocks=1,
    attention_resolutions=(8,),
    z_channels=8,
    embed_dim=8,
    codebook_size=64,
    norm_groups=4,
)


def make_tokenizer(path, seed):
    torch.manual_seed(seed)
    network = VQGAN(SIZES)
    torch.nn.init.normal_(network.quantize.embedding.weight)
    save_tokenizer(path, network.state_dict(), SIZES)
    return path


def make_images(folder, count, seed=0):
    generator = np.random.default_rng(seed)
    for i in range(count):
        path = folder / ("cat" if i % 2 else "dog") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 18, 3), np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tiny", 0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "photos", 9)


@pytest.fixture
def run(photos, tokenizer, tmp_path):
    """`tokenize` in this process, by default on the fixtures."""

    def call(images=photos, out=tmp_path / "t.h5", tokenizer=tokenizer, batch_size=4, workers=0, **options):
        config = TokenizeConfig(**{k: options.pop(k) for k in ("res", "views", "on_error") if k in options})
        options = {"device": "cpu", "batch_size": batch_size, "workers": workers, **options}
        return tokenize(images, out, tokenizer, config, **options)

    return call


# --- the tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "res"), [("none", 16), ("flip", 16), ("ten-crop", 24)])
def test_tokens_are_those_of_the_tokenizer(run, photos, tokenizer, kind, res):
    result = run(views=kind, res=res)
    file, source, vqgan = open_tokens(result.path), open_source(photos), load_tokenizer(tokenizer)
    assert file.names == source.names
    assert file.labels.tolist() == source.labels.tolist()
    for path, tokens in zip(source.paths, file.codes, strict=True):
        squares = views(read_image(path), res, kind)
        assert np.array_equal(vqgan.network.encode(to_model(squares)), tokens)
    assert result == (result.path, 9, [], False, file.meta)


def test_the_file_records_its_provenance(run, tokenizer):
    vqgan, meta = load_tokenizer(tokenizer), open_tokens(run(views="flip").path).meta
    assert (meta.codebook_size, meta.grid, meta.resolution, meta.views) == (64, 8, 16, "flip")
    assert meta.class_names == ["cat", "dog"]
    assert (meta.tokenizer, meta.tokenizer_sha256) == ("tiny", vqgan.sha256)
    assert meta.settings == {"res": 16, "views": "flip", "dtype": "float32"}
    assert meta.parents[0] == {"kind": "tokenizer", "name": "tiny", "sha256": vqgan.sha256}
    assert (meta.parents[1]["kind"], meta.parents[1]["name"]) == ("images", "photos")


def test_batches_and_workers_make_no_difference(run, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = run(workers=3).path.read_bytes()
    for batch_size in (1, 100):
        assert run(out=tmp_path / "u.h5", batch_size=batch_size, overwrite=True).path.read_bytes() == first


def test_on_a_cpu_every_view_is_encoded_alone(run, monkeypatch):
    # Kernels are chosen by shape: encoding one by one is batch-invariant.
    shapes, latents = [], VQGAN.latents
    monkeypatch.setattr(VQGAN, "latents", lambda self, x: shapes.append(tuple(x.shape)) or latents(self, x))
    monkeypatch.setattr(tokenizing, "_measure", lambda *_: None)
    run(views="flip", batch_size=5)
    assert shapes == [(1, 3, 16, 16)] * 18


def test_bf16_keeps_distances_in_float32(run, tmp_path, monkeypatch):
    seen = []
    nearest = Codebook.nearest

    def spy(self, z):
        seen.append(z.dtype)
        return nearest(self, z)

    monkeypatch.setattr(Codebook, "nearest", spy)
    meta = open_tokens(run(dtype="bf16").path).meta
    assert meta.settings["dtype"] == "bfloat16"
    assert set(seen) == {torch.float32}


# --- bad input --------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(photos, tmp_path):
    """The images, with three unreadable files."""
    folder = tmp_path / "spoilt"
    shutil.copytree(photos, folder)
    (folder / "cat/001.png").write_bytes(b"")
    (folder / "dog/004.png").write_bytes((folder / "dog/004.png").read_bytes()[:300])
    (folder / "dog/note.jpg").write_text("not an image")
    return folder


class Listener:
    """A reporter that records."""

    def __init__(self):
        self.messages, self.total, self.done = [], 0, 0

    def task(self, description, total, done=0, unit="images"):
        self.total, self.done = total, done
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def advance(self, n=1, **stats):
        self.done += n

    def info(self, text):
        self.messages.append(text)

    warn = info


def test_unreadable_images_are_skipped_counted_and_listed(run, spoilt, photos, tmp_path):
    listener = Listener()
    result = run(images=spoilt, reporter=listener)
    file = open_tokens(result.path)
    assert [name for name, _ in file.skipped] == ["cat/001.png", "dog/004.png", "dog/note.jpg"]
    assert file.skipped[0][1] == "empty file"
    assert result.skipped == file.skipped
    assert (result.images, len(file), listener.done, listener.total) == (7, 7, 10, 10)
    assert "3 of 10 images" in listener.messages[-1]
    assert "cat/001.png" in listener.messages[-1]
    whole = open_tokens(run(out=tmp_path / "whole.h5").path)
    kept = [whole.names.index(name) for name in file.names]
    assert np.array_equal(file.codes, whole.codes[kept])


def test_on_error_fail_stops_and_can_be_resumed(run, spoilt, photos, tmp_path):
    with pytest.raises(InputError, match=r"cat/001\.png: empty file.*--on-error"):
        run(images=spoilt, on_error="fail", batch_size=1)
    assert not (tmp_path / "t.h5").exists()
    (spoilt / "dog/note.jpg").unlink()
    for name in ("cat/001.png", "dog/004.png"):
        shutil.copy(photos / name, spoilt / name)
    with pytest.raises(OutputError, match=r"t\.h5 was started.*images"):
        run(images=spoilt, on_error="fail", batch_size=1)
    result = run(images=spoilt, on_error="fail", batch_size=1, overwrite=True)
    assert result.images == 9


def test_no_readable_image_writes_nothing(run, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"1 image .*a\.png: empty file"):
        run(images=folder)
    assert os.listdir(tmp_path) == ["bad"]


def test_resolution_must_suit_the_tokenizer(run):
    with pytest.raises(ConfigError, match=r"--res 17: .*multiple of 2,.* 16"):
        run(res=17)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch_size": 0}, ConfigError),
        ({"workers": -1}, ConfigError),
        ({"device": "quantum"}, ConfigError),
        ({"dtype": "fp8"}, ConfigError),
    ],
)
def test_settings_out_of_range(run, tmp_path, options, error):
    with pytest.raises(error, match="--" + next(iter(options)).replace("_", "-")):
        run(**options)
    assert os.listdir(tmp_path) == []


def test_a_killed_reader_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr("maskgit_cli.data.images.read_image", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(InputError, match="--workers"):
        run(workers=1)


# --- running it again -------------------------------------------------------------------------------


def test_again_is_already_complete(run, tmp_path):
    run()
    before, listener = (tmp_path / "t.h5").stat().st_mtime_ns, Listener()
    result = run(reporter=listener)
    assert (result.images, result.resumed) == (9, True)
    assert (tmp_path / "t.h5").stat().st_mtime_ns == before
    assert "--overwrite" in listener.messages[0]
    run(overwrite=True)
    assert (tmp_path / "t.h5").stat().st_mtime_ns > before


def test_other_settings_are_named(run, tmp_path):
    run()
    for options, message in [
        ({"res": 32}, r"res\b.*16.*32"),
        ({"views": "flip"}, r"views\b.*none.*flip"),
        ({"dtype": "bf16"}, r"dtype\b.*float32.*bfloat16"),
        ({"tokenizer": make_tokenizer(tmp_path / "other", 1)}, r"tokenizer\b.*[0-9a-f]{12}"),
        ({"images": make_images(tmp_path / "more", 11)}, r"images\b.*[0-9a-f]{12}"),
    ]:
        with pytest.raises(OutputError, match=message + r".*--overwrite"):
            run(**options)


def test_rows_done_are_not_read_again(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizing, "_measure", lambda *_: None)
    undisturbed = run(out=tmp_path / "u.h5").path.read_bytes()
    read, original = [], tokenizing.ImageDataset.__getitem__

    def stop_at_fifth(self, index):
        if len(read) == 5:
            raise KeyboardInterrupt
        read.append(index)
        return original(self, index)

    monkeypatch.setattr(tokenizing.ImageDataset, "__getitem__", stop_at_fifth)
    with pytest.raises(KeyboardInterrupt):
        run(batch_size=2)
    read.clear()
    monkeypatch.setattr(
        tokenizing.ImageDataset, "__getitem__", lambda self, i: read.append(i) or original(self, i)
    )
    listener = Listener()
    result = run(batch_size=3, reporter=listener)
    assert result.resumed
    assert read == [4, 5, 6, 7, 8]
    assert listener.done == listener.total == 9
    assert result.path.read_bytes() == undisturbed


def test_an_unreadable_or_unfinished_tokenizer(run, tokenizer, tmp_path):
    with pytest.raises(InputError, match=str(tmp_path / "absent")):
        run(tokenizer=tmp_path / "absent")
    shutil.copytree(tokenizer, tmp_path / "unfinished")
    (tmp_path / "unfinished/model.safetensors").unlink()
    with pytest.raises(ArtifactError):
        run(tokenizer=tmp_path / "unfinished")


# --- the command, in processes of its own ------------------------------------------------------------


def command(photos, tokenizer, out, *options):
    fixed = [str(photos), str(out), "--tokenizer", str(tokenizer), "--batch-size", "2", "--workers", "1"]
    return ["-m", "maskgit_cli", "tokenize", *fixed, "--device", "cpu", *options]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def done_rows(out):
    """Number of rows of an unfinished file that hold tokens; -1 if there is no file yet."""
    return int(TokenWriter(out).done.sum()) if partial_path(out).exists() else -1


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "many", 400, seed=1)


@pytest.fixture(scope="module")
def undisturbed(many, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "undisturbed.h5"
    config = TokenizeConfig(views="flip")
    return tokenize(many, out, tokenizer, config, batch_size=2, workers=0, device="cpu").path.read_bytes()


def test_killed_at_random_moments_gives_the_same_bytes(many, tokenizer, undisturbed, tmp_path):
    out, chance, kills = tmp_path / "t.h5", random.Random(0), 0
    arguments = [sys.executable, *command(many, tokenizer, out, "--views", "flip", "--json")]
    while kills < 2:
        before = done_rows(out)
        process = subprocess.Popen(
            arguments, env=ENVIRONMENT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        # Kill it at a random moment after it has written some rows.
        while process.poll() is None and done_rows(out) <= max(before, 0):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists(), "finished before it could be killed; use more images"
        kills += 1
    assert 0 < done_rows(out) < 400
    last = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    record = json.loads(last.stdout)
    assert record == {"path": str(out), "images": 400, "skipped": {}, "resumed": True}
    assert out.read_bytes() == undisturbed
    assert os.listdir(tmp_path) == ["t.h5"]


def test_two_processes_give_the_bytes_of_one(many, tokenizer, undisturbed, tmp_path):
    out = tmp_path / "t.h5"
    (many / "cat/bad.png").write_bytes(b"")
    try:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        arguments = [sys.executable, *launch, *command(many, tokenizer, out, "--views", "flip")]
        done = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [str(out)]
        alone = tokenize(many, tmp_path / "alone.h5", tokenizer, TokenizeConfig(views="flip"), device="cpu")
    finally:
        (many / "cat/bad.png").unlink()
    assert alone.skipped == [("cat/bad.png", "empty file")]
    assert out.read_bytes() == alone.path.read_bytes()
    (tmp_path / "whole.h5").write_bytes(undisturbed)
    assert np.array_equal(open_tokens(out).codes, open_tokens(tmp_path / "whole.h5").codes)


def test_the_command_in_this_process(photos, tokenizer, tmp_path, capsys):
    arguments = command(photos, tokenizer, tmp_path / "t.h5")[2:]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{tmp_path / 't.h5'}\n"
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--res", "32"])
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert str(tmp_path / "t.h5") in printed.err
    assert re.search(r"res\b.*16.*32", printed.err)
    assert printed.err.count("\n") == 1
