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
from tiny_training import count_syncs, kill_at

from maskgit_cli.cli import main
from maskgit_cli.config.networks import VQGANConfig
from maskgit_cli.config.stages import TokenizeConfig
from maskgit_cli.data import tokenizing
from maskgit_cli.data.images import read_image, views
from maskgit_cli.data.sources import open_source
from maskgit_cli.data.splitting import held_out
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
    settings = ("res", "views", "on_error", "val_split", "seed")

    def call(images=photos, out=tmp_path / "t.h5", tokenizer=tokenizer, batch_size=4, workers=0, **options):
        config = TokenizeConfig(**{k: options.pop(k) for k in settings if k in options})
        options = {"device": "cpu", "batch_size": batch_size, "workers": workers, **options}
        return tokenize(images, out, tokenizer, config, **options)

    return call


# --- the tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "res"), [("none", 16), ("flip", 16), ("ten-crop", 24), ("random:3", 16)])
def test_tokens_are_those_of_the_tokenizer(run, photos, tokenizer, kind, res):
    result = run(views=kind, res=res, seed=8)
    file, source, vqgan = open_tokens(result.path), open_source(photos), load_tokenizer(tokenizer)
    assert file.names == source.names
    assert file.labels.tolist() == source.labels.tolist()
    for i, (path, tokens) in enumerate(zip(source.paths, file.codes, strict=True)):
        squares = views(read_image(path), res, kind, 8, i)
        assert np.array_equal(vqgan.network.encode(to_model(squares)), tokens)
    assert result == (result.path, 9, [], False, file.meta, None)


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


def test_random_views_depend_on_the_seed_alone(run, tmp_path):
    first = run(views="random:3", seed=4)
    for batch_size, workers in ((1, 0), (100, 2)):
        other = run(out=tmp_path / "u.h5", views="random:3", seed=4, batch_size=batch_size, workers=workers)
        assert other.path.read_bytes() == first.path.read_bytes()
        other.path.unlink()
    more = open_tokens(run(out=tmp_path / "v.h5", views="random:5", seed=4).path)
    tokens = open_tokens(first.path)
    assert tokens.codes.shape == (9, 3, 8, 8)
    assert np.array_equal(more.codes[:, :3], tokens.codes)
    assert not np.array_equal(
        open_tokens(run(out=tmp_path / "w.h5", views="random:3").path).codes, tokens.codes
    )
    assert tokens.meta.settings == {"res": 16, "views": "random:3", "dtype": "float32", "seed": 4}
    with pytest.raises(OutputError, match="--seed 4, not 5"):
        run(views="random:3", seed=5)


def test_a_seed_that_decides_nothing_is_not_recorded(run):
    run(seed=4)
    assert run(seed=5).resumed


@pytest.mark.parametrize(
    "kind", ["random", "random:", "random:0", "random:01", "random:301", "random:-1", "3"]
)
def test_views_that_there_are_not(run, kind):
    with pytest.raises(ConfigError, match=f"--views {kind}: .*ten-crop.*random:K.*300"):
        run(views=kind)


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


# --- a validation split -----------------------------------------------------------------------------

SPLIT = {"views": "random:3", "val_split": 0.4, "seed": 2}


def test_a_split_is_two_files(run, photos, tokenizer, tmp_path):
    listener = Listener()
    result = run(**SPLIT, reporter=listener)
    assert result.val.path == tmp_path / "t-val.h5"
    assert (result.images, result.val.images, result.val.resumed) == (5, 4, False)
    assert sorted(os.listdir(tmp_path)) == ["t-val.h5", "t.h5"]
    trained, val = open_tokens(result.path), open_tokens(result.val.path)
    whole = open_tokens(run(out=tmp_path / "whole.h5", views="random:3", seed=2).path)
    center = open_tokens(run(out=tmp_path / "center.h5").path)
    chosen = held_out(whole.labels, 0.4, 2)
    assert np.bincount(val.labels).tolist() == [2, 2]
    for tokens, everything, rows in ((trained, whole, ~chosen), (val, center, chosen)):
        assert tokens.names == [name for name, there in zip(everything.names, rows, strict=True) if there]
        assert tokens.labels.tolist() == everything.labels[rows].tolist()
        assert np.array_equal(tokens.codes, everything.codes[rows])
    settings = {"res": 16, "views": "random:3", "dtype": "float32", "seed": 2, "val_split": 0.4}
    assert trained.meta.settings == settings
    assert val.meta.settings == settings | {"views": "none"}
    assert trained.meta.parents == val.meta.parents


def test_both_files_are_claimed_before_any_work(run, tmp_path):
    run(out=tmp_path / "t-val.h5")
    with pytest.raises(OutputError, match=r"t-val\.h5 exists.*--val-split none, not 0\.4"):
        run(val_split=0.4)
    assert os.listdir(tmp_path) == ["t-val.h5"]
    assert run(val_split=0.4, overwrite=True).val.images == 4


def test_a_split_again_is_already_complete_and_a_lost_file_is_made_again(run, tmp_path):
    first = run(**SPLIT)
    before = {path: path.read_bytes() for path in (first.path, first.val.path)}
    for lost in ((), (first.val.path,), (first.path,)):
        for path in lost:
            path.unlink()
        again = run(**SPLIT)
        assert (again.resumed, again.val.resumed) == (first.path not in lost, first.val.path not in lost)
        assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(OutputError, match="--seed 2, not 3"):
        run(**SPLIT | {"seed": 3})


def test_killed_at_any_write_a_split_resumes_to_the_same_bytes(run, photos, tokenizer, tmp_path):
    """Where TOKENS.h5 is, TOKENS-val.h5 is too."""
    wanted = run(**SPLIT)
    wanted = wanted.path.read_bytes(), wanted.val.path.read_bytes()
    arguments, options = (
        (tokenizer, TokenizeConfig(**SPLIT)),
        {"workers": 0, "batch_size": 6, "device": "cpu"},
    )
    moments = count_syncs(tokenize, photos, tmp_path / "undisturbed.h5", *arguments, **options)
    assert moments > 8
    halves = 0
    for moment in range(1, moments + 1, 2):
        folder = tmp_path / str(moment)
        out = folder / "t.h5"
        assert kill_at(moment, tokenize, photos, out, *arguments, **options)
        assert not out.exists() or (folder / "t-val.h5").exists()
        halves += (folder / "t-val.h5").exists() and not out.exists()
        run(out=out, **SPLIT)
        assert (out.read_bytes(), (folder / "t-val.h5").read_bytes()) == wanted
        assert sorted(os.listdir(folder)) == ["t-val.h5", "t.h5"]
    assert halves > 0


def test_a_replaced_split_is_whole_until_the_new_one_is(run, photos, tokenizer, tmp_path):
    old = run(val_split=0.3)
    before = [path.read_bytes() for path in (old.path, old.val.path)]
    options = {"workers": 0, "batch_size": 6, "device": "cpu", "overwrite": True}
    assert kill_at(4, tokenize, photos, old.path, tokenizer, TokenizeConfig(**SPLIT), **options)
    assert [path.read_bytes() for path in (old.path, old.val.path)] == before
    result = run(**SPLIT, overwrite=True)
    assert result.resumed
    assert (
        open_tokens(result.path).meta.settings["seed"] == open_tokens(result.val.path).meta.settings["seed"]
    )


def test_a_split_whose_validation_images_are_unreadable(run, photos, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    source = open_source(folder)
    for i in np.flatnonzero(held_out(source.labels, 0.2, 0)):
        source.paths[i].write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 2 images for t-val\.h5"):
        run(images=folder, val_split=0.2)
    assert not (tmp_path / "t.h5").exists()


def test_links_are_followed(run, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "t.h5").symlink_to(tmp_path / "disk" / "real.h5")
    run()
    assert (tmp_path / "t.h5").is_symlink()
    assert len(open_tokens(tmp_path / "disk" / "real.h5")) == 9


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


def test_the_command_names_both_files_of_a_split(photos, tokenizer, tmp_path, maskgit):
    out, options = tmp_path / "t.h5", ("--val-split", "0.3", "--json")
    done = maskgit(*command(photos, tokenizer, out, *options)[2:])
    record = json.loads(done.stdout)
    assert (record["path"], record["images"]) == (str(out), 6)
    assert (record["val"]["path"], record["val"]["images"]) == (str(tmp_path / "t-val.h5"), 3)
    assert f"--val {tmp_path / 't-val.h5'}" in done.stderr


def test_two_processes_give_the_split_of_one(photos, tokenizer, tmp_path):
    out, options = tmp_path / "t.h5", ("--val-split", "0.4", "--views", "random:3")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [sys.executable, *launch, *command(photos, tokenizer, out, *options)]
    subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    config = TokenizeConfig(views="random:3", val_split=0.4)
    alone = tokenize(photos, tmp_path / "alone.h5", tokenizer, config, workers=0, device="cpu")
    assert out.read_bytes() == alone.path.read_bytes()
    assert (tmp_path / "t-val.h5").read_bytes() == alone.val.path.read_bytes()
