"""``info --verify``: an artifact and all in it, compared with the digests that they record."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from maskgit_cli.config.arguments import PathArgument, checked
from maskgit_cli.errors import ArtifactError, InputError, MaskGITError
from maskgit_cli.formats.atomic import read_json, sha256_file
from maskgit_cli.formats.decoded import DECODED_FILE, check_listing, listed_files
from maskgit_cli.formats.feature_statistics import holds_statistics, read_statistics
from maskgit_cli.formats.models import find_named, weights_digest
from maskgit_cli.formats.runs import (
    CONFIG_FILE,
    RUN_FORMAT,
    WEIGHTS_FILE,
    checkpoints,
    read_metrics,
    read_state,
)
from maskgit_cli.formats.samples import IMAGES, NPZ_FILE, SETTINGS_FILE, check_pixels, open_samples, read_png
from maskgit_cli.formats.scores import read_scores
from maskgit_cli.formats.sweeps import BOOTSTRAP, POINTS, REFERENCE_FILE, SWEEP_FILE, read_sweep
from maskgit_cli.formats.token_index import is_token_file
from maskgit_cli.formats.tokens import open_tokens
from maskgit_cli.runtime.progress import SILENT, Reporter


class Verified(NamedTuple):
    """What :func:`verify` found.

    Attributes:
        files: how many files were compared with a digest or checksum.
        damage: one line for each damaged or missing file, range of rows, or image.
    """

    files: int
    damage: list[str]


# A file, and what raises a MaskGITError if it is damaged.
_Check = tuple[Path, Callable[[], Any]]


@checked
def verify(path: PathArgument, reporter: Reporter = SILENT) -> Verified:
    """Compare an artifact, and all artifacts in it, with the digests and checksums that they record.

    Previews, grids, plots and ``metrics.jsonl`` have none.

    Args:
        path: any artifact, or an ``.npz``.
        reporter: receives progress.

    Raises:
        InputError: there is nothing at ``path``, or nothing that has digests.
    """
    path = Path(path)
    path = path if path.exists() else find_named(path, "file or directory")
    checks = list(_checks(path))
    if not checks:
        raise InputError(f"{path} is no artifact: it records no digests to compare it with")
    damage = []
    with reporter.task("verify", len(checks), unit="files") as task:
        for _, check in checks:
            try:
                check()
            except MaskGITError as error:
                damage.append(str(error))
            task.advance(1)
    return Verified(len({file for file, _ in checks}), damage)


def _checks(path: Path) -> Iterator[_Check]:
    """All checks of a file or directory, in the order in which they are reported."""
    if path.is_dir():
        kinds = {
            CONFIG_FILE: _network_directory,
            SETTINGS_FILE: _samples,
            "state.json": _checkpoint,
            DECODED_FILE: _decoded,
            SWEEP_FILE: _sweep,
        }
        found = next((name for name in kinds if (path / name).exists()), None)
        if found is not None:
            yield from kinds[found](path)
    elif path.suffix == ".npz":
        yield path, lambda: _read_npz(path)
    elif path.name in (CONFIG_FILE, SETTINGS_FILE, DECODED_FILE, SWEEP_FILE, "state.json"):
        yield path, lambda: read_json(path, "a record")
    elif path.suffix == ".json":
        yield path, lambda: read_scores(path)
    elif path.suffix == ".h5" or is_token_file(path):
        yield path, lambda: open_tokens(path)


def _network_directory(path: Path) -> Iterator[_Check]:
    """A model, tokenizer or run directory; a model's or run's tokenizer is in it."""
    config, weights, tokenizer = path / CONFIG_FILE, path / WEIGHTS_FILE, path / "tokenizer"

    def record() -> dict[str, Any]:
        return read_json(config, "a model, tokenizer or run directory")

    def same_tokenizer() -> None:
        wanted = record().get("tokenizer_sha256")
        if wanted is not None:
            _compare(tokenizer / WEIGHTS_FILE, wanted)

    yield config, record
    unfinished = (path / "checkpoints").is_dir() or _format(config) == RUN_FORMAT
    if weights.exists() or not unfinished:
        yield weights, lambda: _compare(weights, weights_digest(record(), path))
    for checkpoint in checkpoints(path):
        yield from _checkpoint(checkpoint)
    if (path / "metrics.jsonl").exists():
        yield path / "metrics.jsonl", lambda: read_metrics(path)
    if tokenizer.is_dir():
        yield from _network_directory(tokenizer)
        yield tokenizer / WEIGHTS_FILE, same_tokenizer


def _format(record: Path) -> Any:
    """The format that a record names; None of one that cannot be read."""
    try:
        return read_json(record, "a record").get("format")
    except MaskGITError:
        return None


def _checkpoint(path: Path) -> Iterator[_Check]:
    yield path / "state.json", lambda: read_state(path)
    try:
        digests = read_state(path).sha256
    except MaskGITError:  # reported by the check above
        return
    for name, digest in digests.items():
        yield path / name, partial(_compare, path / name, digest)


def _samples(path: Path) -> Iterator[_Check]:
    yield path / SETTINGS_FILE, lambda: open_samples(path)
    try:
        tokens = open_samples(path).tokens
    except MaskGITError:
        return
    digests = tokens.pixels_sha256
    if digests is None:
        return
    # An image that was inpainted in several windows has several rows, which begin with its number.
    images = {name.split(" ")[0]: row for row, name in enumerate(tokens.names)}
    for number, row in images.items():
        png = path / IMAGES / f"{number}.png"
        yield png, partial(_compare_pixels, png, digests[row])
    if (path / NPZ_FILE).exists():
        rows = np.array(list(images.values()))
        yield path / NPZ_FILE, lambda: _compare_array(path / NPZ_FILE, digests[rows])


def _decoded(path: Path) -> Iterator[_Check]:
    yield path / DECODED_FILE, lambda: check_listing(path)
    try:
        files = listed_files(path)
    except MaskGITError:  # reported by the check above
        return
    for png in files:
        yield png, partial(_check_png, png)


def _sweep(path: Path) -> Iterator[_Check]:
    yield path / SWEEP_FILE, lambda: read_sweep(path)
    if (path / REFERENCE_FILE).exists():
        yield from _checks(path / REFERENCE_FILE)
    for point in sorted([*(path / POINTS).glob("*"), *(path / BOOTSTRAP).glob("*.npz")]):
        yield from _checks(point)


# --- files ------------------------------------------------------------------------------------------


def _compare(file: Path, digest: str | None) -> None:
    """Compare a file with its digest; version 1 of weights recorded none."""
    if not file.is_file():
        raise ArtifactError(f"{file} is missing")
    if digest is not None and sha256_file(file) != digest:
        raise ArtifactError(f"{file} is damaged: its sha256 is not {digest[:12]}… as recorded")


def _read_npz(path: Path) -> None:
    """Read all of an ``.npz``: each array has a CRC-32, which reading compares."""
    if holds_statistics(path):
        read_statistics(path)
        return
    with zipfile.ZipFile(path) as archive:
        try:
            member = archive.testzip()
        except (OSError, ValueError, NotImplementedError, RuntimeError) as error:
            raise ArtifactError(f"{path} is damaged: {error}") from None
    if member is not None:
        raise ArtifactError(f"{path} is damaged: {member} differs from its checksum")


def _compare_array(path: Path, digests: np.ndarray) -> None:
    """Compare the images in a sample directory's ``.npz``, one at a time, with digests of their pixels."""
    _read_npz(path)
    images = np.load(path, mmap_mode="r", allow_pickle=False)["arr_0"]
    if len(images) != len(digests):
        raise ArtifactError(f"{path} has {len(images):,} images, not {len(digests):,}")
    for i, (pixels, digest) in enumerate(zip(images, digests, strict=True)):
        check_pixels(_planes(pixels), digest, path.with_name(f"{path.name}[{i}]"))


def _compare_pixels(png: Path, digest: np.ndarray) -> None:
    """Compare the pixels of an image with their digest."""
    check_pixels(_planes(read_png(png)), digest, png)


def _planes(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) as planes (3, H, W)."""
    return pixels.transpose(2, 0, 1)


def _check_png(path: Path) -> None:
    """Compare every chunk of a PNG with its CRC-32, which decoding alone doesn't do."""
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; decode again")
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: {error}; remove it and decode again") from None
