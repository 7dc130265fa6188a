"""Wrong calls: exit status 1 or 2, one line that names the culprit, and nothing created or lost."""

import errno
import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from resigned import rewrite_index, rewrite_record, sign_record, sign_weights
from safetensors.torch import load_file, save_file
from tiny_models import make_tokenizer
from tiny_training import TRAINING, VQGAN_SIZES, VQGAN_TRAINING, train_tiny_vqgan

from maskgit_cli.cli import COMMANDS
from maskgit_cli.config.networks import SIZES, TOKENIZER_SIZES, Size
from maskgit_cli.config.stages import SampleConfig, ScoreConfig
from maskgit_cli.data.decoding import decode
from maskgit_cli.sampling.images import sample
from maskgit_cli.scoring.stages import fid_stats, score
from maskgit_cli.weights.exporting import export


def words_of(settings: dict) -> str:
    return " ".join(f"--{key.replace('_', '-')} {value}" for key, value in settings.items())


TRAIN = "train tokens.h5 --tokenizer tokenizer " + words_of(TRAINING | {"preview_every": 6})
TRAIN_VQGAN = "train-vqgan images --workers 0 " + words_of(VQGAN_TRAINING)
TOKENIZE = "tokenize images {} --tokenizer tokenizer --workers 0"
NO_LPIPS = ("--perceptual-weight", "0", "--workers", "0")
FID = "--features vqgan --tokenizer tokenizer"

FEATURES = "--features vqgan"

# Records that say what they are and nothing else.
BARE = [
    ("run", "config.json", "run"),
    ("model", "config.json", "model"),
    ("tokenizer", "config.json", "tokenizer"),
    ("checkpoint", "state.json", "checkpoint"),
    ("samples", "settings.json", "samples"),
]


POOR = "tokens are few|reconstructions are poor|vqgan features|reference images are|standard error"


# --- a folder full of things, good and bad ----------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer, tokens, run, images) -> Path:
    """What the cases below name. They must change nothing here."""
    root = tmp_path_factory.mktemp("bad")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        shutil.copytree(tokenizer, "tokenizer")
        make_tokenizer(Path("other"), seed=1)
        shutil.copy(tokens, "tokens.h5")
        for source, name in ((run, "run"), (images, "images")):
            shutil.copytree(source, name)
        make_finished()
        make_folders()
        make_token_files()
        make_models()
    return root


def make_finished():
    """A result of each stage, and files of the user."""
    model = export(Path("run"), Path("model"))
    sample(model, Path("samples/mine"), SampleConfig(n=4), device="cpu")
    vqgan = {"config": ScoreConfig(features="vqgan"), "tokenizer": Path("tokenizer"), "device": "cpu"}
    fid_stats([Path("images")], Path("images.npz"), **vqgan)
    score(Path("samples/mine"), Path("images.npz"), **vqgan)
    decode(Path("tokens.h5"), Path("decoded"), Path("tokenizer"), device="cpu")
    train_tiny_vqgan(Path("images"), Path("vqgan"))
    Path("notes").mkdir()
    Path("notes/letter.txt").write_text("Dear all,")
    Path("notes.txt").write_text("precious")
    Path("labels.txt").touch()


def make_folders():
    Path("empty").mkdir()
    Path("texts").mkdir()
    Path("texts/readme.txt").write_text("no image")
    png = Path("images/cat/0.png").read_bytes()
    for folder in ("unreadable", "some-bad"):
        Path(folder).mkdir()
        Path(folder, "cut.png").write_bytes(png[: len(png) // 2])
        Path(folder, "empty.png").touch()
        Path(folder, "text.png").write_text("not an image")
    Path("some-bad/good.png").write_bytes(png)
    Image.new("1", Image.open("images/cat/0.png").size).save("black.png")
    edits = 'image,box\nimages/cat/0.png,"1,1,4,4"\nimages/cat/none.png,"1,1,4,4"\n'
    Path("edits.csv").write_text(edits)
    Image.new("1", (7, 7), 1).save("small.png")


def make_token_files():
    whole = Path("tokens.h5").read_bytes()
    Path("cut.h5").write_bytes(whole[:-100])
    Path("head.h5").write_bytes(whole[:900])
    Path("text.h5").write_text("codes: 1 2 3")
    Path("zero.h5").touch()
    for name in ("newer", "unfinished", "codes"):
        Path(f"{name}.h5").write_bytes(whole)
    Path("begun.h5.partial").write_bytes(whole)
    Path("newer.h5").write_bytes(whole.replace(b"maskgit-tokens 2 ", b"maskgit-tokens 3 "))
    rewrite_index(Path("unfinished.h5"), lambda index: index.update(complete=False))
    rewrite_index(Path("codes.h5"), lambda index: index["attributes"].update(codebook_size=2))
    with h5py.File("theirs.h5", "w") as file:
        file["weights"] = np.zeros(3)


def make_models():
    def change(path: str, source: str = "model"):
        shutil.copytree(source, path)
        return Path(path)

    (change("no-config") / "config.json").unlink()
    (change("no-json") / "config.json").write_text("{,")
    (change("no-weights") / "model.safetensors").unlink()
    cut = change("cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-50])
    for name in ("lacking", "extra", "nan", "shape"):
        file = change(name) / "model.safetensors"
        tensors = load_file(file)
        if name == "lacking":
            del tensors["blocks.0.qkv.weight"]
        elif name == "extra":
            tensors["blocks.9.qkv.weight"] = torch.zeros(2)
        elif name == "nan":
            tensors["positions"][0, 0, 0] = torch.nan
        else:
            tensors["positions"] = tensors["positions"][:, :-1].clone()
        save_file(tensors, file)
        sign_weights(file.parent)
    for name, edit in (
        ("newer", {"version": 3}),
        ("theirs", {"format": "else"}),
        ("renamed", {"class_names": ["cat", "dog"]}),
        ("wide", {"resolution": 32}),
        ("heads", {"transformer": {}}),
    ):
        rewrite_record(change(name) / "config.json", **edit)
    for name, file, kind in BARE:
        Path(f"bare-{name}").mkdir()
        bare = {"format": f"maskgit-{kind}", "version": 2, "complete": True}
        sign_record(Path(f"bare-{name}", file), bare)
    shutil.copytree("run/checkpoints", "bare-run/checkpoints")
    for name in ("model", "tokenizer"):
        shutil.copy(f"{name}/model.safetensors", f"bare-{name}")
    shutil.rmtree(change("other-tokenizer") / "tokenizer")
    shutil.copytree("other", "other-tokenizer/tokenizer")
    shutil.rmtree(change("no-tokenizer") / "tokenizer")
    shutil.rmtree(change("new-run", "run") / "checkpoints")
    for damaged in change("damaged-run", "run").glob("checkpoints/*/ema.safetensors"):
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    (change("begun-tokenizer", "vqgan") / "model.safetensors").unlink()


def tree(root: Path) -> dict[str, str]:
    """Everything below a folder and its digest."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def here(place, monkeypatch) -> Path:
    """In that folder, offline, with networks as small as the ones that were trained there."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("MASKGIT_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(place / "hub"))
    monkeypatch.setitem(SIZES, "tiny", Size(32, 1, 4, 64))
    monkeypatch.setitem(TOKENIZER_SIZES, "tiny", VQGAN_SIZES)
    return place


def one_line(outcome, status: int = 1) -> str:
    """The only line printed by a call that failed as it should."""
    assert (outcome.status, outcome.stdout) == (status, ""), outcome
    # The pictures here are few and tiny and the tokenizer is untrained, of which stages warn.
    lines = [line for line in outcome.stderr.splitlines() if not re.match(f"warning: .*({POOR})", line)]
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith("maskgit: ")
    assert "--debug" not in lines[0], "an unexpected error"
    return lines[0]


# --- the table --------------------------------------------------------------------------------------

# Arguments of a call, and what its line must name.
REFUSED = {
    # Folders and files of images
    "tokenize missing new.h5 --tokenizer tokenizer": ["missing"],
    "tokenize empty new.h5 --tokenizer tokenizer": ["empty"],
    "tokenize texts new.h5 --tokenizer tokenizer": ["texts"],
    "tokenize unreadable new.h5 --tokenizer tokenizer --workers 0 --quiet": ["3", "cut.png"],
    "tokenize notes.txt new.h5 --tokenizer tokenizer": ["notes.txt"],
    "train-vqgan missing --out new": ["missing"],
    "train-vqgan empty --out new": ["empty"],
    f"fid missing --ref images {FID}": ["missing"],
    f"fid samples/mine --ref empty {FID} --out new.json": ["empty"],
    f"fid samples/mine --ref some-bad {FID} --out new.json --quiet": ["cut.png"],
    f"fid-stats texts new.npz {FID}": ["texts"],
    "inpaint missing.png model --box 1,1,4,4 --out new": ["missing.png"],
    "inpaint some-bad/cut.png model --box 1,1,4,4 --out new": ["cut.png"],
    "inpaint some-bad/empty.png model --box 1,1,4,4 --out new": ["empty.png"],
    "inpaint some-bad/text.png model --box 1,1,4,4 --out new": ["text.png"],
    "info missing": ["missing"],
    "info notes.txt": ["notes.txt", ".h5"],
    # Output that exists
    TOKENIZE.format("tokens.h5"): ["tokens.h5", "--overwrite"],
    TOKENIZE.format("notes"): ["notes"],
    TOKENIZE.format("notes.txt"): ["notes.txt", "--overwrite"],
    TOKENIZE.format("notes --overwrite"): ["notes"],
    TOKENIZE.format("notes.txt/new.h5"): ["notes.txt"],
    f"{TRAIN} --out notes": ["notes", "--out"],
    f"{TRAIN} --out notes --overwrite": ["notes"],
    f"{TRAIN} --out notes.txt --overwrite": ["notes.txt"],
    f"{TRAIN} --out run --seed 1": ["run", "seed", "--overwrite"],
    f"{TRAIN_VQGAN} --out notes": ["notes", "--out"],
    f"{TRAIN_VQGAN} --out notes --overwrite": ["notes"],
    f"{TRAIN_VQGAN} --out vqgan --lr 0.5": ["vqgan", "lr", "--overwrite"],
    "sample model --out notes": ["notes", "--out"],
    "sample model --out notes.txt": ["notes.txt", "--out"],
    "inpaint images/cat/0.png model --box 1,1,4,4 --out notes --quiet": ["notes"],
    "decode tokens.h5 notes.txt": ["notes.txt"],
    f"fid samples/mine --ref images.npz --out notes.txt {FID}": ["notes.txt", ".json"],
    f"fid-stats images notes --overwrite --quiet {FID}": ["notes"],
    f"fid-stats images notes.txt/new.npz --quiet {FID}": ["notes.txt"],
    "sample model --out notes --overwrite": ["notes"],
    "sample model --out samples/mine --n 4 --seed 1": ["samples/mine", "--seed", "--overwrite"],
    "inpaint images/cat/0.png model --box 1,1,4,4 --out samples/mine --quiet": [
        "samples/mine",
        "--overwrite",
    ],
    "decode tokens.h5 notes": ["notes"],
    "decode tokens.h5 notes --overwrite": ["notes"],
    "decode samples/mine/tokens.h5 decoded --tokenizer tokenizer": ["decoded", "--overwrite"],
    f"fid samples/mine --ref images.npz --splits 3 {FID}": ["scores.json", "--splits", "--overwrite"],
    f"fid-stats images images.npz --with-features {FID}": ["images.npz", "--overwrite"],
    "export run model --half": ["model", "half", "--overwrite"],
    "import notes.txt notes": ["notes", "--overwrite"],
    "import notes.txt notes --overwrite": ["notes"],
    "import missing.pth new": ["missing.pth"],
    "pull maskgit-256 --out notes": ["notes", "--overwrite"],
    "pull maskgit-265 --out new": ["maskgit-265", "maskgit-256"],
    "export run notes --overwrite": ["notes"],
    "export tokenizer notes --overwrite": ["notes"],
    "export model/tokenizer model --overwrite": ["model"],
    "export run notes.txt --overwrite": ["notes.txt"],
    "demo notes.txt": ["notes.txt"],
    # Token files
    "train missing.h5": ["missing.h5"],
    "train begun.h5": ["begun.h5"],
    "train unfinished.h5": ["unfinished.h5"],
    "train newer.h5": ["newer.h5", "3", "2"],
    "train text.h5": ["text.h5", "maskgit tokenize"],
    "train zero.h5": ["zero.h5", "not a token file"],
    "train theirs.h5": ["theirs.h5", "maskgit-tokens", "version 1"],
    "train cut.h5": ["cut.h5"],
    "train head.h5": ["head.h5"],
    "train codes.h5": ["codes.h5", "codebook of 2"],
    "train tokens.h5 --out new --tokenizer other": ["other"],
    "train tokens.h5 --out new --tokenizer missing": ["missing"],
    "train tokens.h5 --out new --val codes.h5 --tokenizer tokenizer": ["codes.h5", "codebook of 2"],
    "train tokens.h5 --res 512": ["--res 512", "16", "maskgit tokenize"],
    "decode cut.h5 new": ["cut.h5"],
    "decode begun.h5 new": ["begun.h5"],
    "decode tokens.h5 new --tokenizer other": ["other"],
    f"fid newer.h5 --ref images.npz {FID}": ["newer.h5", "2"],
    "fid tokens.h5 --ref images.npz --features vqgan --tokenizer other": ["other"],
    "info unfinished.h5": ["unfinished.h5"],
    "info theirs.h5": ["theirs.h5", "maskgit-tokens", "version 1"],
    # Labels
    "sample model --out new --labels 3": ["--labels 3", "0 to 2"],
    "sample model --out new --labels 1-7": ["--labels 7", "0 to 2"],
    "sample model --out new --labels dgo": ["dgo", "dog"],
    "sample model --out new --labels @missing.txt": ["missing.txt"],
    "sample model --out new --labels @labels.txt": ["labels.txt"],
    "inpaint images/cat/0.png model --box 1,1,4,4 --out new --label=-1": ["--label -1", "0 to 2"],
    "inpaint images/cat/0.png model --box 1,1,4,4 --out new --label kat": ["kat", "cat"],
    "inpaint images/cat/0.png model --box 1,1,4,4 --out new --label submarine": [
        "submarine",
        "cat, dog, owl",
    ],
    # Masks and boxes
    "inpaint images/cat/0.png model --mask small.png --out new": ["small.png", "7×7", "20×24"],
    "inpaint images/cat/0.png model --mask black.png --out new": ["black.png"],
    "inpaint images/cat/0.png model --mask some-bad/cut.png --out new": ["cut.png"],
    "inpaint images/cat/0.png model --out new": ["--mask"],
    "inpaint images/cat/0.png model --mask black.png --box 1,1,2,2 --out new": ["black.png"],
    "inpaint images/cat/0.png model --outpaint left:0 --out new": ["--outpaint 0"],
    "inpaint images/cat/0.png model --outpaint top:9999999 --out new": [
        "--outpaint top:9999999",
        "16,384",
    ],
    "inpaint images/cat/0.png model --keep-box 0,0,20,24 --out new": ["--keep-box"],
    "inpaint images/cat/0.png model --keep-box 0,0,21,24 --out new": ["--keep-box 0,0,21,24", "20×24"],
    "inpaint images/cat/0.png model --box 1,1,4,4=kat --out new": ["kat", "cat"],
    "inpaint images/cat/0.png model --box 1,1,4,4 --window 21 --out new": ["--window 21", "20"],
    "inpaint missing.csv model --out new": ["missing.csv"],
    "inpaint edits.csv model --box 1,1,4,4 --out new": ["--box", "column 'box' of edits.csv"],
    "inpaint edits.csv model --mask black.png --out new": ["--mask", "column 'mask' of edits.csv"],
    "inpaint edits.csv model --out new": ["line 3", "images/cat/none.png"],
    "inpaint images/cat/0.png model --box 0,0,0,4 --out new": ["--box 0,0,0,4"],
    "inpaint images/cat/0.png model --box 9,9,99,9 --out new": ["--box 9,9,99,9", "20×24"],
    # Models and checkpoints
    "sample missing --out new": ["missing"],
    "sample notes --out new": ["notes", "config.json"],
    "sample no-config --out new": ["no-config", "config.json"],
    "sample no-json --out new": ["config.json", "JSON"],
    "sample no-weights --out new": ["model.safetensors", "missing"],
    "sample cut --out new": ["model.safetensors"],
    "sample lacking --out new": ["blocks.0.qkv.weight"],
    "sample extra --out new": ["blocks.9.qkv.weight"],
    "sample nan --out new": ["positions", "NaN"],
    "sample shape --out new": ["positions", "(1, 16, 32)", "(1, 17, 32)"],
    "sample newer --out new": ["newer", "3", "2"],
    "sample theirs --out new": ["theirs"],
    "sample heads --out new": ["config.json", "missing"],
    "sample tokenizer --out new": ["tokenizer", "maskgit-tokenizer"],
    "sample no-tokenizer --out new": ["tokenizer", "config.json"],
    "sample other-tokenizer --out new": ["other-tokenizer"],
    "sample new-run --out new": ["new-run", "maskgit train"],
    "inpaint images/cat/0.png nan --box 1,1,4,4 --out new": ["positions", "NaN"],
    "export nan new": ["positions", "NaN"],
    "export notes new": ["notes", "config.json"],
    "export missing new": ["missing"],
    "export new-run new": ["new-run"],
    "export run run --overwrite": ["run"],
    f"{TRAIN} --out damaged-run": ["ema.safetensors"],
    "tokenize images new.h5 --tokenizer begun-tokenizer": ["begun-tokenizer", "maskgit train-vqgan"],
    "tokenize images new.h5 --tokenizer notes": ["notes", "config.json"],
    "tokenize images new.h5 --tokenizer missing": ["missing"],
    "sample renamed --out new": ["renamed", "2", "3"],
    "sample wide --out new": ["wide", "16", "32"],
    "sample bare-run --out new": ["bare-run", "transformer"],
    "sample bare-model --out new": ["bare-model", "weights_sha256"],
    "export bare-model new": ["bare-model", "weights_sha256"],
    "export bare-tokenizer new": ["bare-tokenizer", "train-vqgan"],
    "tokenize images new.h5 --tokenizer bare-tokenizer": ["bare-tokenizer", "train-vqgan"],
    "info bare-run": ["bare-run", "settings"],
    "info bare-tokenizer": ["bare-tokenizer", "settings"],
    "info bare-checkpoint": ["bare-checkpoint", "step"],
    f"fid bare-samples --ref images {FID}": ["bare-samples", "stage"],
    "info no-json": ["config.json", "JSON"],
    "info theirs": ["theirs"],
    # Scores
    "fid samples/mine --ref images --out new.json": [
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729",
        "--weights",
    ],
    "fid samples/mine --ref images --weights notes.txt --out new.json": ["notes.txt"],
    "fid samples/mine --ref images --weights missing.pth --out new.json": ["missing.pth"],
    "fid-diff missing.json samples/mine": ["missing.json", "maskgit fid"],
    "fid-diff notes.txt notes.txt": ["notes.txt"],
    "fid-diff images images": ["images", "scores"],
    # Settings
    f"{TOKENIZE.format('new.h5')} --batch-size 0": ["--batch-size 0"],
    f"{TOKENIZE.format('new.h5')} --res 17": ["--res 17", "4", "16"],
    f"{TOKENIZE.format('new.h5')} --res -16": ["--res -16"],
    f"{TOKENIZE.format('new.h5')} --device gpu": ["--device gpu", "cpu"],
    f"{TOKENIZE.format('new.h5')} --device cpu --dtype fp16": ["--dtype fp16", "bf16"],
    f"{TOKENIZE.format('new.h5')} --views both": ["--views both", "ten-crop", "random:K"],
    f"{TOKENIZE.format('new.h5')} --views random:301": ["--views random:301", "300"],
    f"{TOKENIZE.format('new.h5')} --val-split 0.6": ["--val-split 0.6", "0.5"],
    f"{TOKENIZE.format('new.h5')} --range 900:999": ["--range 900:999", "0:"],
    f"{TOKENIZE.format('new.h5')} --range 0:4 --val-split 0.5": ["--val-split", "--range", "train"],
    "merge missing.h5 new.h5": ["missing.h5"],
    "merge tokens.h5 new.h5": ["tokens.h5", "--range"],
    "train tokens.h5 --val tokens.h5 --val-split 0.5": ["--val-split 0.5", "--val"],
    "train tokens.h5 --batch-size 0": ["--batch-size 0"],
    "train tokens.h5 --steps -1": ["--steps -1"],
    "train tokens.h5 --lr nan": ["--lr nan"],
    "train tokens.h5 --fid-every 5": ["--fid-every 5", "--fid-ref"],
    "train tokens.h5 --fid-ref images": ["--fid-ref images", "--fid-every"],
    "train tokens.h5 --fid-every 5 --fid-ref missing --tokenizer tokenizer": ["--fid-ref missing"],
    "train tokens.h5 --batch-size 9 --accumulate 2": ["--batch-size 9", "2"],
    "train-vqgan images --out new --batch-size 0": ["--batch-size 0"],
    "train-vqgan images --out new --steps -5": ["--steps -5"],
    "train-vqgan images --out new --size tiny --res 18": ["--res 18", "4"],
    "train-vqgan images --out new --size tiny --workers -1": ["--workers -1"],
    "sample model --out new --batch-size 0": ["--batch-size 0"],
    "sample model --out new --steps -1": ["--steps -1"],
    "sample model --out new --steps 17": ["--steps 17", "16"],
    "sample model --out new --n 0": ["--n 0"],
    "sample model --out new --n 4 --range 3:9": ["--range 3:9", "0:4"],
    "inpaint images/cat/0.png model --box 1,1,4,4 --out new --batch-size 0": ["--batch-size 0"],
    "inpaint images/cat/0.png model --box 1,1,4,4 --out new --steps 0": ["--steps 0"],
    "inpaint images/cat/0.png model --box 1,1,4,4 --out new --feather -2": ["--feather -2"],
    "decode tokens.h5 new --batch-size 0": ["--batch-size 0"],
    f"fid samples/mine --ref images --batch-size 0 {FID}": ["--batch-size 0"],
    f"fid-stats images new.npz --batch-size -3 {FID}": ["--batch-size -3"],
    "compare samples/mine --out new.png": ["two"],
    "compare samples/mine nothing --out new.png": ["nothing"],
    "compare samples/mine notes --out new.png": ["notes"],
    "compare samples/mine images --out new.png": ["mine"],
    "compare samples/mine samples/mine --out notes.txt": ["notes.txt", ".png"],
    "compare samples/mine samples/mine --name one --out new.png": ["--name"],
    "compare samples/mine samples/mine --classes bat --out new.png": ["--classes bat", "cat"],
    "compare samples/mine samples/mine --classes 2-1 --out new.png": ["--classes 2-1", "1-2"],
    "compare samples/mine samples/mine --per-class 0 --out new.png": ["--per-class 0"],
    "doctor tokens.h5 --tokenizer tokenizer --n 0": ["--n 0"],
    "doctor nothing.h5": ["nothing.h5"],
    "doctor tokens.h5 --tokenizer tokenizer --images notes": ["notes"],
    f"sweep model --ref images --out new {FEATURES}": ["--steps 4,8,12"],
    f"sweep model --steps 4,x --ref images --out new {FEATURES}": ["--steps x", "START:STOP:STEP"],
    f"sweep model --steps 8:4:1 --ref images --out new {FEATURES}": ["--steps 8:4:1"],
    f"sweep model --cfg 0:1:0.00001 --ref images --out new {FEATURES}": ["--cfg", "1000"],
    f"sweep model --cfg 1,1 --ref images --out new {FEATURES}": ["--cfg 1,1"],
    f"sweep model --steps 4,17 --ref images --out new {FEATURES}": ["--steps 17", "16"],
    f"sweep model --sampler best --ref images --out new {FEATURES}": ["--sampler best", "halton"],
    f"sweep model --sampler halton --gumbel 1 --ref images --out new {FEATURES}": ["--gumbel-temp", "halton"],
    f"sweep model --preset raster --sampler raster --ref images --out new {FEATURES}": ["--preset"],
    f"sweep nowhere --steps 2,4 --ref images --out new {FEATURES}": ["nowhere"],
    f"sweep model --steps 2,4 --ref nowhere --out new {FEATURES}": ["--ref nowhere"],
    f"sweep model --steps 2,4 --ref images --out notes {FEATURES}": ["notes"],
    f"sweep model --steps 2,4 --ref images --out new --n 1 {FEATURES}": ["--n 1"],
    f"sweep model --steps 2,4 --ref images --out new --labels bat {FEATURES}": ["--labels bat", "cat"],
    f"sweep model model --steps 2,4 --ref images --out new {FEATURES}": ["model"],
    "sweep model --steps 2,4 --ref images --out new --inception nowhere": ["--inception nowhere"],
    "bench --batch-size 0": ["--batch-size 0"],
    "bench --res 250 --stages decode": ["--res 250", "16"],
    "--procs 0 info tokens.h5": ["--procs 0"],
}

# The same for usage errors, which end with exit status 2.
USAGE = {
    "train": ["TOKENS.h5"],
    "train tokens.h5 --size giant": ["--size", "giant", "base"],
    "train tokens.h5 --steps x": ["--steps", "x"],
    "train tokens.h5 --no-such 3": ["--no-such"],
    "train tokens.h5 --out": ["--out"],
    "train-vqgan images --revive-after 0.5": ["--revive-after", "0.5"],
    "sample model --out new --sampler best": ["--sampler", "best", "halton"],
    "sample model --out new --preset none": ["--preset", "none", "paper-256"],
    "sample model --out new --preset raster --sampler halton": ["--preset raster", "halton"],
    "sample model --out new --format tokens --trace-as gif": ["--trace-as", "--format tokens"],
    "sample model --out new --range 1-4": ["--range", "1-4", "START:STOP"],
    "sample model --out new --cfg-interval 1": ["--cfg-interval", "1", "LOW:HIGH"],
    "inpaint images/cat/0.png model --box 1,1,4 --out new": ["--box", "1,1,4", "X,Y,W,H"],
    "inpaint images/cat/0.png model --outpaint up:3 --out new": ["--outpaint", "up:3", "left"],
    "decode tokens.h5 new --views second": ["--views", "second", "all"],
    "fid samples/mine": ["--ref"],
    f"fid samples/mine --ref images --metrics fid,lpips {FID}": ["--metrics", "lpips", "prdc"],
    f"sweep model --steps 2,4 --ref images --out new --keep some {FEATURES}": ["--keep", "some", "tokens"],
    "bench --stages train,cook": ["--stages", "cook", "tokenize"],
    "export run new --to v2": ["--to", "v2", "v1"],
    "pull": ["NAME"],
    "inf tokens.h5": ["inf", "info"],
    "--procs two info tokens.h5": ["--procs", "two"],
    "--install-completion tcsh": ["--install-completion", "tcsh", "zsh"],
}


@pytest.mark.parametrize(("words", "status"), [*((w, 1) for w in REFUSED), *((w, 2) for w in USAGE)])
def test_one_line_and_nothing_lost(here, maskgit, words, status):
    before = tree(here)
    line = one_line(maskgit(*shlex.split(words)), status)
    for text in (REFUSED | USAGE)[words]:
        assert text in line
    assert tree(here) == before


def test_every_command_is_in_the_table():
    assert {words.removeprefix("--procs 0 ").split()[0] for words in REFUSED} == set(COMMANDS)


# --- what works nevertheless ------------------------------------------------------------------------


@pytest.fixture
def copy(here, tmp_path, monkeypatch) -> Path:
    """A copy of what the cases below begin with, which they may change."""
    for name in ("tokenizer", "model", "images", "some-bad", "unreadable", "texts"):
        shutil.copytree(here / name, tmp_path / name)
    shutil.copy(here / "tokens.h5", tmp_path)
    (tmp_path / "square").mkdir()
    for i, path in enumerate(sorted(here.glob("images/*/*.png"))):
        Image.open(path).resize((16, 16)).save(tmp_path / "square" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


SOME_BAD = "tokenize some-bad new.h5 --tokenizer tokenizer --workers 0"


def test_unreadable_images_are_skipped_counted_and_listed(copy, maskgit):
    outcome = maskgit(*SOME_BAD.split(), "--json")
    assert outcome.status == 0
    assert "3 of 4 images" in outcome.stderr
    skipped = json.loads(outcome.stdout)["skipped"]
    assert skipped.keys() == {"cut.png", "empty.png", "text.png"}
    assert skipped["empty.png"] == "empty file"
    assert "Traceback" not in outcome.stderr
    with h5py.File("new.h5") as file:
        assert file["names"].asstr()[:].tolist() == ["good.png"]
        assert dict(file["skipped"].asstr()[:]) == skipped
    assert json.loads(maskgit("info", "new.h5", "--json").stdout)["skipped"] == 3


def test_on_error_fail_stops_and_skip_continues(copy, maskgit):
    before = tree(copy)
    line = one_line(maskgit(*SOME_BAD.split(), "--on-error", "fail", "--quiet"))
    assert "cut.png" in line
    assert "--on-error skip" in line
    assert before.items() <= tree(copy).items()
    assert maskgit(*SOME_BAD.split()).status == 0
    assert not Path("new.h5.partial").exists()


def test_images_of_odd_sizes(copy, maskgit):
    """One pixel is an image; a strip and a decompression bomb are skipped, and the bomb is never decoded."""
    Path("odd").mkdir()
    Image.new("RGB", (1, 1), "red").save("odd/dot.png")
    Image.new("RGB", (1, 300), "red").save("odd/strip.png")
    header = struct.pack(">4sIIBBBBB", b"IHDR", 50_000, 40_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT"))
    Path("odd/bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + data)
    outcome = maskgit("tokenize", "odd", "new.h5", "--tokenizer", "tokenizer", "--workers", 0, "--json")
    assert outcome.status == 0
    skipped = json.loads(outcome.stdout)["skipped"]
    assert "megapixels" in skipped.pop("bomb.png")
    assert "1×300 pixels" in skipped.pop("strip.png")
    assert skipped == {}
    assert maskgit("inpaint", "odd/dot.png", "model", "--box", "0,0,1,1", "--out", "inpainted").status == 0
    assert Image.open("inpainted/images/000000.png").size == (1, 1)


def test_a_tokenizer_needs_images(copy, maskgit):
    line = one_line(
        maskgit("train-vqgan", "unreadable", "--out", "new", "--size", "tiny", *NO_LPIPS, "--quiet")
    )
    assert "unreadable" in line


def test_few_images_are_warned_about(copy, maskgit):
    outcome = maskgit("fid", "images", "--ref", "images", *FID.split(), "--metrics", "fid", "--json")
    assert outcome.status == 0
    assert "warning: 12 samples" not in outcome.stderr  # enough for 8 features
    shutil.rmtree("images/owl")
    shutil.rmtree("images/dog")
    outcome = maskgit("fid", "images", "--ref", "images", *FID.split(), "--out", "few.json", "--json")
    assert outcome.status == 0
    assert "warning: 4 samples" in outcome.stderr
    assert not any("50k" in name for name in json.loads(outcome.stdout)["metrics"])


# --- a full disk ------------------------------------------------------------------------------------

STAGES = {
    "tokenize images new.h5 --tokenizer tokenizer --workers 0 --batch-size 4": 4,
    f"{TRAIN} --out new": 9,
    f"{TRAIN_VQGAN} --out new": 3,
    "sample model --out new --n 4": 5,
    "inpaint images/cat/0.png model --box 1,1,4,4 --out new": 4,
    "decode tokens.h5 new": 6,
    f"fid-stats images new.npz {FID}": 0,
    f"fid square --ref tokens.h5 --out new.json {FID}": 0,
    "export model new": 2,
}


def sync_errors(monkeypatch, writes: int) -> None:
    """Let the disk be full after so many files, until ``undo``."""
    sync, done = os.fsync, []

    def fsync(file):
        done.append(file)
        if len(done) > writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("words", STAGES)
def test_full_disk(copy, maskgit, words):
    """It is reported, nothing is lost, and with space the same command succeeds."""
    before = tree(copy)
    for writes in (0, STAGES[words]):
        with pytest.MonkeyPatch.context() as patch:
            sync_errors(patch, writes)
            line = one_line(maskgit(*words.split(), "--quiet"))
        assert "disk is full" in line
        assert "new" in line
        assert before.items() <= tree(copy).items()
    outcome = maskgit(*words.split(), "--quiet")
    assert outcome.status == 0, outcome.stderr
    assert not [path for path in copy.rglob("*") if path.name.endswith((".tmp", ".partial"))]


def test_file_size_limit(copy, maskgit):
    """A limit that the system itself sets, through HDF5's writing too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        outcome = maskgit(
            "tokenize", "images", "new.h5", "--tokenizer", "tokenizer", "--workers", 0, "--quiet"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "new.h5" in one_line(outcome)
    assert not list(copy.glob("*new.h5*"))
