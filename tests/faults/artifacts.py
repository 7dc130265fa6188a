"""Every kind of artifact: its files, and what a reader gets from it that must be right or refused."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file

from maskgit_cli import (
    InpaintConfig,
    ScoreConfig,
    describe,
    fid_stats,
    import_weights,
    inpaint,
    load_model,
    load_tokenizer,
    open_samples,
    open_tokens,
    score,
)
from maskgit_cli.config.base import Settings


class Artifact(NamedTuple):
    """Something that is read.

    Attributes:
        source: what is copied from the workshop, all of it.
        files: patterns of the files that are damaged, below the copy's folder.
        read: what a reader gets from the copy's folder.
        checked: whether the format has a checksum, or is to have one, of all that is read. Without one,
            another well-formed reading is accepted: it cannot be distinguished from what was meant.
    """

    source: tuple[str, ...]
    files: tuple[str, ...]
    read: Callable[[Path], Any]
    checked: bool = True


FEATURES = ScoreConfig(features="vqgan", metrics=("fid", "prdc"))


def _tokens(folder: Path) -> Any:
    return _of_tokens(open_tokens(next(folder.glob("*.h5"))))


def _of_tokens(tokens: Any) -> Any:
    trace = [] if tokens.trace is None else list(tokens.trace)
    return [tokens.meta, tokens.codes, tokens.labels, tokens.names, tokens.skipped, *trace]


def _model(folder: Path) -> Any:
    """Weights, sizes, class names and settings of the transformer; weights and sizes of its tokenizer."""
    return [load_model(folder / "model"), load_tokenizer(folder / "model")]


def _tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder / "tokenizer")


def _run(folder: Path) -> Any:
    run = folder / "run"
    return [load_model(run), load_model(run, weights="raw"), load_tokenizer(run)]


def _samples(folder: Path) -> Any:
    samples = open_samples(folder / "samples")
    return [samples.record, _of_tokens(samples.tokens)]


def _png(folder: Path) -> Any:
    """The scores of all images, in which a changed pixel shows."""
    done = score(
        folder / "samples",
        folder / "stats.npz",
        FEATURES,
        out=folder / "x.json",
        tokenizer=folder / "tokenizer",
    )
    return [done.record["n"], done.record["metrics"]]


def _statistics(folder: Path) -> Any:
    """What two statistics merge into, and a distance between them."""
    other = folder / "other-stats.npz"
    path = fid_stats([folder / "stats.npz", other], folder / "merged.npz", ScoreConfig(features="vqgan"))
    with np.load(path) as merged:
        arrays = {name: merged[name] for name in merged.files if name != "meta"}
    done = score(other, folder / "stats.npz", FEATURES, out=folder / "scores.json")
    return [arrays, done.record["metrics"], done.record["n_ref"]]


def _imported(folder: Path, *names: str, tokenizer: tuple[str, ...] = (), heads: int | None = None) -> Any:
    """Weights and records of what is made of published files, less what follows from these files' digests."""
    files, tokenizers = [folder / name for name in names], [folder / name for name in tokenizer]
    out = import_weights(files, folder / "imported", tokenizer=tokenizers, heads=heads)
    records = [json.loads(path.read_text()) for path in sorted(out.rglob("*.json"))]
    keep = [{k: v for k, v in r.items() if k not in ("parents", "record_sha256")} for r in records]
    return [keep, *(load_file(path) for path in sorted(out.rglob("*.safetensors")))]


V1, CKPT, YAML = "MaskGIT_tiny.pth", "last.ckpt", "model.yaml"
HALTON, LLAMAGEN = "halton.pth", "llamagen.pt"
GOOGLE, GOOGLE_TOKENIZER = "maskgit_imagenet_tiny_checkpoint", "tokenizer_imagenet_tiny_checkpoint"


def _published(*names: str) -> tuple[str, ...]:
    return tuple(f"published/{name}" for name in names)


def _v1(folder: Path) -> Any:
    return _imported(folder, V1, tokenizer=(CKPT, YAML))


def _halton(folder: Path) -> Any:
    return _imported(folder, HALTON, tokenizer=(LLAMAGEN,), heads=4)


def _google(folder: Path) -> Any:
    return _imported(folder, GOOGLE, tokenizer=(GOOGLE_TOKENIZER,))


def _label_table(folder: Path) -> Any:
    return describe(folder / "labels.csv")


def _manifest(folder: Path) -> Any:
    done = inpaint(folder / "edits.csv", folder / "model", folder / "out", config=InpaintConfig(n=1))
    return [path.read_bytes() for path in sorted(done.path.glob("images/*.png"))]


ARTIFACTS = {
    "tokens": Artifact(("tokens.h5",), ("tokens.h5",), _tokens),
    "traced-tokens": Artifact(("traced/tokens.h5",), ("tokens.h5",), _tokens),
    "model": Artifact(("model",), ("model/**/*.json", "model/**/*.safetensors"), _model),
    "tokenizer": Artifact(
        ("tokenizer",), ("tokenizer/config.json", "tokenizer/model.safetensors"), _tokenizer
    ),
    "run": Artifact(
        ("run",),
        (
            "run/*.json",
            "run/checkpoints/step-00000004/*.json",
            "run/checkpoints/step-00000004/[em]*.safetensors",
            "run/tokenizer/*",
        ),
        _run,
    ),
    "samples": Artifact(("samples",), ("samples/settings.json", "samples/tokens.h5"), _samples),
    "sample-image": Artifact(("samples", "stats.npz", "tokenizer"), ("samples/images/*.png",), _png),
    "statistics": Artifact(("stats.npz", "other-stats.npz"), ("stats.npz",), _statistics),
    "sweep-record": Artifact(("sweep",), ("sweep/sweep.json",), lambda folder: describe(folder / "sweep")),
    "scores": Artifact(("scores.json",), ("scores.json",), lambda folder: describe(folder / "scores.json")),
    "decoded": Artifact(("decoded",), ("decoded/*.json",), lambda folder: describe(folder / "decoded")),
    "v1": Artifact(_published(V1, CKPT, YAML), ("*.pth", "*.ckpt"), _v1),
    "halton": Artifact(_published(HALTON, LLAMAGEN), ("*.pth", "*.pt"), _halton),
    # flax's own container has no checksum, and neither has text that people write.
    "flax": Artifact(_published(GOOGLE, GOOGLE_TOKENIZER), ("*_checkpoint",), _google, checked=False),
    "yaml": Artifact(_published(V1, CKPT, YAML), ("*.yaml",), _v1, checked=False),
    "label-table": Artifact(("labels.csv", "images"), ("labels.csv",), _label_table, checked=False),
    "manifest": Artifact(
        ("edits.csv", "images", "picture.png", "model"), ("edits.csv",), _manifest, checked=False
    ),
}


def fingerprint(value: Any) -> str:
    """A digest of everything in a reading but the paths it was read from."""
    digest = hashlib.sha256()
    _add(digest, value)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, torch.nn.Module):
        value = value.state_dict()
    elif isinstance(value, Settings):
        value = {"kind": type(value).__name__, **value.to_json()}
    elif dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            digest.update(repr(key).encode())
            _add(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)}".encode())
        for item in value:
            _add(digest, item)
    elif not isinstance(value, Path):
        digest.update(repr(value).encode())
