"""``info``: what a file or directory is, what wrote it, and from what. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskgit_cli.config.arguments import PathArgument, checked
from maskgit_cli.config.metrics import is_score
from maskgit_cli.data.sources import is_source, open_source
from maskgit_cli.errors import ArtifactError, InputError, counted
from maskgit_cli.formats.atomic import check_format, read_json
from maskgit_cli.formats.decoded import DECODED_FILE, DECODED_FORMAT, DECODED_KEYS, DECODED_VERSION
from maskgit_cli.formats.feature_statistics import holds_statistics, npz_names, read_statistics
from maskgit_cli.formats.models import (
    MODEL_FORMAT,
    MODEL_VERSION,
    TOKENIZER_FORMAT,
    TOKENIZER_VERSION,
    find_named,
)
from maskgit_cli.formats.runs import (
    CHECKPOINT_FORMAT,
    CHECKPOINT_VERSION,
    CONFIG_FILE,
    RUN_FORMAT,
    RUN_VERSION,
    WEIGHTS_FILE,
    checkpoints,
    has_weights,
    read_metrics,
)
from maskgit_cli.formats.samples import SAMPLES_FORMAT, SAMPLES_KEYS, SAMPLES_VERSION, SETTINGS_FILE
from maskgit_cli.formats.scores import SCORES_FORMAT, SCORES_KEYS, SCORES_VERSION
from maskgit_cli.formats.sweeps import SWEEP_FILE, SWEEP_FORMAT, SWEEP_KEYS, SWEEP_VERSION
from maskgit_cli.formats.tensors import tensor_shapes
from maskgit_cli.formats.token_index import TOKENS_FORMAT, TOKENS_VERSION
from maskgit_cli.formats.tokens import TokenFile, open_tokens, partial_path
from maskgit_cli.runtime.progress import SILENT, Reporter

Facts = dict[str, Any]
# Names of the records in directories, in the order of the search.
RECORDS = (CONFIG_FILE, SETTINGS_FILE, "state.json", DECODED_FILE, SWEEP_FILE)


@checked
def describe(path: PathArgument, reporter: Reporter = SILENT) -> Facts:
    """Facts about an artifact or a folder of images.

    Args:
        path: a file or directory.
        reporter: receives the progress of a long listing, and warnings.

    Returns:
        ``kind``, facts of that kind, and where the artifact has them ``settings``, ``parents`` (each with
        kind, name and sha256; nearest first) and ``created_by``.

    Raises:
        InputError: nothing is at ``path``, or a file of an unrecognized type.
        ArtifactError: the artifact is incomplete or damaged.
    """
    path = Path(path)
    if not path.exists() and partial_path(path).exists():
        return _tokens(path)  # its error says how to finish it
    # An existing path is described, even a folder of images called `builtin`, and so is a pattern of files.
    if not path.exists() and not is_source(path):
        path = find_named(path, "file or directory")
    if path.is_dir():
        return _directory(path, reporter)
    readers: dict[str, Callable[[Path], Facts]] = {
        ".h5": _tokens,
        ".hdf5": _tokens,
        ".npz": _npz,
        ".json": _json,
        ".safetensors": _tensors,
    }
    reader = readers.get(path.suffix.lower())
    if reader is not None:
        return reader(path)
    if not is_source(path):
        known = f"{', '.join(readers)} and image sources"
        raise InputError(f"{path}: unrecognized file type; info reads {known}")
    return _images(path, reporter)


def _common(record: Facts) -> Facts:
    """Facts that records of several kinds have."""
    keys = ("weights_sha256", "settings", "parents", "created_by")
    return {key: record[key] for key in keys if key in record}


def _directory(path: Path, reporter: Reporter = SILENT) -> Facts:
    for name in RECORDS:
        if (path / name).exists():
            return _record(path, read_json(path / name, "a maskgit artifact"))
    return _images(path, reporter)


def _record(path: Path, record: Facts) -> Facts:
    name = str(record.get("format"))
    if name not in KINDS:
        raise ArtifactError(f"{path} has a record of format {name}, which is not a maskgit artifact")
    kind = KINDS[name]
    check_format(record, path, name, kind.version, kind.keys)
    try:
        particular = kind.facts(path, record)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} is damaged: its record has no usable {error}") from None
    return {"kind": name, "version": record.get("version"), **particular, **_common(record)}


def _parameters(file: Path) -> Facts:
    shapes = tensor_shapes(file)
    return {"parameters": sum(map(math.prod, shapes.values())), "bytes": file.stat().st_size}


def _sizes(record: Facts, default: str) -> Facts:
    """The sizes of the record's network, under the key that is named after it."""
    network = record.get("network", default)
    key = "transformer" if network == "maskgit" else network
    return {key: record[key]}


def _run(path: Path, record: Facts) -> Facts:
    steps = [int(p.name.removeprefix("step-")) for p in checkpoints(path)]
    newest = _parameters(checkpoints(path)[-1] / WEIGHTS_FILE) if steps else {}
    wanted = record["settings"].get("steps")
    sizes = _sizes(record, "maskgit")
    finals = last_metrics(path, ("loss", "val_loss"))
    return {
        "complete": bool(steps) and wanted is not None and steps[-1] >= wanted,
        "network": record["network"],
        "resolution": record["resolution"],
        "classes": next(iter(sizes.values()))["classes"],
        "checkpoints": steps,
        **finals,
        **newest,
        **sizes,
        "tokenizer_sha256": record["tokenizer_sha256"],
    }


def last_metrics(path: Path, names: Sequence[str]) -> Facts:
    """The last values of some quantities and of all scores, as far as a training's log has them."""
    lines = read_metrics(path)
    scores = sorted({name for line in lines for name in line if is_score(name)})
    found = {
        name: next((x[name] for x in reversed(lines) if x.get(name) is not None), None)
        for name in (*names, *scores)
    }
    return {name: value for name, value in found.items() if value is not None}


def _model(path: Path, record: Facts) -> Facts:
    first = ("network", "resolution", "step", "epoch", "weights", "half")
    last = ("tokenizer_sha256", "class_names", "sampler")
    facts = {key: record[key] for key in first if key in record} | _sizes(record, "maskgit")
    return facts | {key: record[key] for key in last if key in record} | _parameters(path / WEIGHTS_FILE)


def _tokenizer(path: Path, record: Facts) -> Facts:
    complete = has_weights(path, record)
    newest = _parameters(path / WEIGHTS_FILE) if complete else {}
    newest |= last_metrics(path, ("val_psnr", "l1", "usage"))
    return {"complete": complete, **newest, "network": record.get("network"), **_sizes(record, "vqgan")}


def _samples(path: Path, record: Facts) -> Facts:
    return {key: record[key] for key in ("stage", "complete", "images") if key in record}


def _checkpoint(path: Path, record: Facts) -> Facts:
    return {"step": record["step"], "files": sorted(record["sha256"])}


def _scores(path: Path, record: Facts) -> Facts:
    return {key: record[key] for key in ("n", "n_ref", "protocol", "features", "metrics") if key in record}


def _sweep(path: Path, record: Facts) -> Facts:
    best = {
        best["metric"]: f"{best['value']:.6g} with {best['point']}"
        if best["point"] is not None
        else f"none: {counted(len(best['within_spread']), 'point')} within the spread of the samples"
        for best in record["best"]
    }
    scored = sum(point["metrics"] is not None for point in record["points"])
    return {"complete": record["complete"], "points": len(record["points"]), "scored": scored, "best": best}


class Kind(NamedTuple):
    """A format of records.

    Attributes:
        version: its newest version.
        keys: that the record must have, and types of their values.
        facts: its own facts, from the path and the record.
    """

    version: int
    keys: Mapping[str, type]
    facts: Callable[[Path, Facts], Facts]


KINDS = {
    RUN_FORMAT: Kind(RUN_VERSION, {"settings": dict, "parents": list, "tokenizer_sha256": str}, _run),
    MODEL_FORMAT: Kind(MODEL_VERSION, {"class_names": list, "tokenizer_sha256": str}, _model),
    TOKENIZER_FORMAT: Kind(TOKENIZER_VERSION, {"settings": dict, "parents": list}, _tokenizer),
    SAMPLES_FORMAT: Kind(SAMPLES_VERSION, SAMPLES_KEYS, _samples),
    DECODED_FORMAT: Kind(DECODED_VERSION, DECODED_KEYS, _samples),
    CHECKPOINT_FORMAT: Kind(CHECKPOINT_VERSION, {"step": int, "sha256": dict}, _checkpoint),
    SCORES_FORMAT: Kind(SCORES_VERSION, SCORES_KEYS, _scores),
    SWEEP_FORMAT: Kind(SWEEP_VERSION, SWEEP_KEYS, _sweep),
}


def _json(path: Path) -> Facts:
    if path.name in RECORDS:
        return _directory(path.parent)
    return _record(path, read_json(path, "a maskgit artifact"))


def _counts(tokens: TokenFile) -> dict[str, int]:
    """Number of images of the smallest and the largest class, and of those without one."""
    labels = tokens.labels[tokens.labels >= 0]
    classes = len(tokens.meta.class_names)
    counts = np.bincount(labels, minlength=classes) if classes else np.array([], np.int64)
    found = {"smallest": int(counts.min()), "largest": int(counts.max())} if len(counts) else {}
    return found | {"without": int((tokens.labels < 0).sum())}


def _tokens(path: Path) -> Facts:
    tokens = open_tokens(path)
    meta = tokens.meta
    return {
        "kind": TOKENS_FORMAT,
        "version": TOKENS_VERSION,
        "images": len(tokens),
        "skipped": len(tokens.skipped),
        "resolution": meta.resolution,
        "grid": meta.grid,
        "views": meta.views,
        "codebook_size": meta.codebook_size,
        "psnr": meta.psnr,
        "class_names": meta.class_names,
        "class_counts": _counts(tokens),
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


def _images(path: Path, reporter: Reporter) -> Facts:
    source = open_source(path, reporter=reporter)
    return {"kind": "images", "images": len(source), "class_names": source.class_names}
