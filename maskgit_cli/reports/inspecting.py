"""``info``: what a file or directory is, what made it, and from what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskgit_cli.data.sources import open_source
from maskgit_cli.errors import ArtifactError, InputError
from maskgit_cli.formats.atomic import read_json
from maskgit_cli.formats.decoded import PICTURES_FORMAT, RECORD_FILE
from maskgit_cli.formats.feature_statistics import holds_statistics, npz_names, read_statistics
from maskgit_cli.formats.models import MODEL_FORMAT, TOKENIZER_FORMAT, WEIGHTS_FILE, find_named
from maskgit_cli.formats.runs import CHECKPOINT_FORMAT, RUN_FORMAT, checkpoints
from maskgit_cli.formats.samples import SAMPLES_FORMAT, SETTINGS_FILE
from maskgit_cli.formats.scores import SCORES_FORMAT
from maskgit_cli.formats.sweeps import RECORD_FILE as SWEEP_FILE
from maskgit_cli.formats.sweeps import SWEEP_FORMAT
from maskgit_cli.formats.tensors import read_tensors
from maskgit_cli.formats.tokens import TOKENS_FORMAT, open_tokens, partial_path
from maskgit_cli.networks.registry import TOKENIZERS, TRANSFORMERS, network_of

Facts = dict[str, Any]
# Names of the records in directories of ours, and the order in which they are looked for.
RECORDS = ("config.json", SETTINGS_FILE, "state.json", RECORD_FILE, SWEEP_FILE)


def describe(path: Path) -> Facts:
    """Facts about an artifact or a folder of images.

    Returns:
        ``kind``, what is particular to it, and where it has them ``settings``, ``parents`` (each with
        kind, name and sha256; nearest first) and ``created_by``.

    Raises:
        InputError: there is nothing at ``path``, or nothing that this package knows.
        ArtifactError: it is one of ours, but incomplete or damaged.
    """
    if not path.exists() and partial_path(path).exists():
        return _tokens(path)  # which says how to finish it
    if not path.exists():  # what is there is described, also a folder of pictures called `builtin`
        path = find_named(path, "file or directory")
    if path.is_dir():
        return _directory(path)
    readers: dict[str, Callable[[Path], Facts]] = {
        ".h5": _tokens,
        ".hdf5": _tokens,
        ".npz": _npz,
        ".json": _json,
        ".safetensors": _tensors,
        ".csv": _images,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} is nothing this package knows; it reads {', '.join(readers)} and folders")
    return reader(path)


def _common(record: Facts) -> Facts:
    """What every record of ours ends with."""
    return {key: record[key] for key in ("settings", "parents", "created_by") if key in record}


def _directory(path: Path) -> Facts:
    for name in RECORDS:
        if (path / name).exists():
            return _record(path, read_json(path / name, "an artifact of ours"))
    return _images(path)


def _record(path: Path, record: Facts) -> Facts:
    known: dict[str, Callable[[Path, Facts], Facts]] = {
        RUN_FORMAT: _run,
        MODEL_FORMAT: _model,
        TOKENIZER_FORMAT: _tokenizer,
        SAMPLES_FORMAT: _samples,
        PICTURES_FORMAT: _samples,
        CHECKPOINT_FORMAT: _checkpoint,
        SCORES_FORMAT: _scores,
        SWEEP_FORMAT: _sweep,
    }
    name = str(record.get("format"))
    if name not in known:
        raise ArtifactError(f"{path} has a record of format {name}, which is none of ours")
    try:
        particular = known[name](path, record)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} is damaged: its record does not hold what it should ({error})") from None
    return {"kind": name, "version": record.get("version"), **particular, **_common(record)}


def _parameters(file: Path) -> Facts:
    tensors = read_tensors(file)
    return {"parameters": sum(t.numel() for t in tensors.values()), "bytes": file.stat().st_size}


def _run(path: Path, record: Facts) -> Facts:
    steps = [int(p.name.removeprefix("step-")) for p in checkpoints(path)]
    newest = _parameters(checkpoints(path)[-1] / WEIGHTS_FILE) if steps else {}
    wanted = record["settings"].get("steps")
    sizes = network_of(record, TRANSFORMERS, "maskgit", path).key
    return {
        "complete": bool(steps) and wanted is not None and steps[-1] >= wanted,
        "network": record["network"],
        "resolution": record["resolution"],
        "classes": record[sizes]["classes"],
        "checkpoints": steps,
        **newest,
        sizes: record[sizes],
        "tokenizer_sha256": record["tokenizer_sha256"],
    }


def _model(path: Path, record: Facts) -> Facts:
    sizes = network_of(record, TRANSFORMERS, "maskgit", path).key
    keys = (
        "network",
        "resolution",
        "step",
        "epoch",
        "weights",
        "half",
        sizes,
        "tokenizer_sha256",
        "class_names",
        "sampler",
    )
    return {**{key: record[key] for key in keys if key in record}, **_parameters(path / WEIGHTS_FILE)}


def _tokenizer(path: Path, record: Facts) -> Facts:
    complete = (path / WEIGHTS_FILE).exists()
    newest = _parameters(path / WEIGHTS_FILE) if complete else {}
    sizes = network_of(record, TOKENIZERS, "vqgan", path).key
    return {"complete": complete, **newest, "network": record.get("network"), sizes: record[sizes]}


def _samples(path: Path, record: Facts) -> Facts:
    return {key: record[key] for key in ("stage", "complete", "images") if key in record}


def _checkpoint(path: Path, record: Facts) -> Facts:
    return {"step": record["step"], "files": sorted(record["sha256"])}


def _scores(path: Path, record: Facts) -> Facts:
    return {key: record[key] for key in ("n", "n_ref", "protocol", "features", "metrics") if key in record}


def _sweep(path: Path, record: Facts) -> Facts:
    best = {best["metric"]: f"{best['value']:.6g} with {best['point']}" for best in record["best"]}
    scored = sum(point["metrics"] is not None for point in record["points"])
    return {"complete": record["complete"], "points": len(record["points"]), "scored": scored, "best": best}


def _json(path: Path) -> Facts:
    if path.name in RECORDS:
        return _directory(path.parent)
    return _record(path, read_json(path, "an artifact of ours"))


def _tokens(path: Path) -> Facts:
    tokens = open_tokens(path)
    meta = tokens.meta
    return {
        "kind": TOKENS_FORMAT,
        "images": len(tokens),
        "skipped": len(tokens.skipped),
        "resolution": meta.resolution,
        "grid": meta.grid,
        "views": meta.views,
        "codebook_size": meta.codebook_size,
        "class_names": meta.class_names,
        "tokenizer": meta.tokenizer,
        "tokenizer_sha256": meta.tokenizer_sha256,
        "sha256": tokens.sha256,
        "settings": meta.settings,
        "parents": meta.parents,
        "created_by": meta.created_by,
    }


def _npz(path: Path) -> Facts:
    if not holds_statistics(path):
        return {"kind": "npz", "arrays": sorted(npz_names(path))}
    statistics = read_statistics(path)
    facts = {"kind": "statistics", "images": statistics.n, "dimension": len(statistics.mu)}
    return {**facts, **{k: v for k, v in vars(statistics).items() if isinstance(v, str | dict | list)}}


def _tensors(path: Path) -> Facts:
    return {"kind": "safetensors", **_parameters(path)}


def _images(path: Path) -> Facts:
    source = open_source(path)
    return {"kind": "images", "images": len(source), "class_names": source.class_names}
