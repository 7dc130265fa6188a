"""Sample directories (``maskgit-samples``, version 1): sampled tokens, their images, and all settings.

``settings.json`` is written first, with ``complete`` false, and last, with ``complete`` true. Between
the two, an image is written before its tokens are marked as done, so that the same command continues
whatever a killed process left and ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from maskgit_cli.config.arguments import PathArgument, checked
from maskgit_cli.errors import ArtifactError
from maskgit_cli.formats.atomic import (
    CREATED_BY,
    check_format,
    disk_errors,
    read_json,
    remove_leftovers_below,
    replacing_file,
    sha256_bytes,
    write_bytes,
    write_json,
)
from maskgit_cli.formats.claim import (
    Found,
    OutputKind,
    is_empty_folder,
    new_path,
)
from maskgit_cli.formats.records import Record, identity
from maskgit_cli.formats.token_writer import TokenWriter
from maskgit_cli.formats.tokens import TokenFile, TokenMeta, Trace, open_tokens, partial_path, read_header

SAMPLES_FORMAT, SAMPLES_VERSION = "maskgit-samples", 2
SAMPLES_KEYS = {"stage": str, "complete": bool, "images": int, "settings": dict, "parents": list}
SETTINGS_FILE, TOKENS_FILE, GRID_FILE, NPZ_FILE = "settings.json", "tokens.h5", "grid.png", "samples.npz"
IMAGES, TRACES = "images", "traces"
# Written by `fid`; the scores of samples that are replaced are removed with them.
SCORES_FILE = "scores.json"


class Samples(NamedTuple):
    """A finished sample directory.

    Attributes:
        path: the directory.
        record: what its ``settings.json`` holds.
        tokens: its token file.
    """

    path: Path
    record: dict[str, Any]
    tokens: TokenFile


def samples_record(
    stage: str, settings: Mapping[str, Any], parents: Sequence[Mapping[str, str]], images: int
) -> dict[str, Any]:
    """What ``settings.json`` holds before the samples are complete.

    Args:
        stage: ``sample`` or ``inpaint``.
        settings: all of them, resolved, as JSON values.
        parents: the model, its tokenizer, and other inputs.
        images: number of images.
    """
    return {
        "format": SAMPLES_FORMAT,
        "version": SAMPLES_VERSION,
        "created_by": CREATED_BY,
        "stage": stage,
        "complete": False,
        "images": images,
        "settings": dict(settings),
        "parents": [dict(source) for source in parents],
    }


def samples_digest(record: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that identify the settings and parents of a record."""
    return sha256_bytes(json.dumps(identity(_compared(record)), sort_keys=True).encode())[:8]


def _compared(record: Record) -> Record:
    return {key: record.get(key) for key in ("stage", "settings", "parents")}


def read_record(path: Path) -> dict[str, Any]:
    """The checked ``settings.json`` of a sample directory, finished or not.

    Raises:
        ArtifactError: it is missing, damaged, or of another format or version.
    """
    record = read_json(path / SETTINGS_FILE, SAMPLES.what)
    check_format(record, path, SAMPLES_FORMAT, SAMPLES_VERSION, SAMPLES_KEYS)
    return record


@checked
def open_samples(path: PathArgument) -> Samples:
    """Open a finished sample directory.

    Raises:
        ArtifactError: it is not a sample directory, is unfinished, damaged, or of another version.
    """
    path = Path(path)
    record = read_record(path)
    if record.get("complete") is not True:
        raise ArtifactError(f"{path} is not finished; run the same command again to finish it")
    return Samples(path, record, open_tokens(path / TOKENS_FILE))


def _find(path: Path) -> Found | None:
    if not (path / SETTINGS_FILE).exists():
        return None
    record = read_record(path)
    complete = record.get("complete") is True
    return Found(record, complete, _damage(path, complete))


def _damage(path: Path, complete: bool) -> str | None:
    """Why the token file of samples, finished or not, cannot be used; None if it can."""
    tokens = path / TOKENS_FILE
    if complete and not tokens.exists():
        return f"it has no {TOKENS_FILE}"
    try:
        for file in (tokens, partial_path(tokens)):
            if file.exists():
                read_header(file)
    except ArtifactError as error:
        return str(error)
    return None


def _start(path: Path, record: Record) -> None:
    write_json(path / SETTINGS_FILE, record)


def _own(path: Path) -> Iterator[Path]:
    tokens = path / TOKENS_FILE
    yield from (tokens, partial_path(tokens), path / GRID_FILE, path / NPZ_FILE, path / SCORES_FILE)
    yield from (path / IMAGES).glob("[0-9]*.png")
    yield from (path / TRACES).glob("[0-9]*.*")
    for folder in (path, path / IMAGES, path / TRACES):
        yield from folder.glob(".*.tmp")
    yield from (folder for folder in (path / IMAGES, path / TRACES) if is_empty_folder(folder))
    yield path / SETTINGS_FILE


SAMPLES = OutputKind(
    "a sample directory",
    _find,
    compared=_compared,
    start=_start,
    draft=new_path,
    own=_own,
    out="--out",
)


def differing_settings(paths: Sequence[Path | None]) -> dict[str, list[Any]]:
    """Settings and parents in which sample directories differ, by name: a value for each directory.

    Args:
        paths: the directories; None for images without known settings.

    Raises:
        ArtifactError: a directory's ``settings.json`` is missing or damaged.
    """
    found = [identity(_compared(read_record(path))) if path else None for path in paths]
    known = [values for values in found if values is not None]
    names = dict.fromkeys(name for values in known for name in values)
    return {
        name: [values.get(name) if values else None for values in found]
        for name in names
        if any(values.get(name) != known[0].get(name) for values in known)
    }


class StoredImage(NamedTuple):
    """An image as it is stored.

    Attributes:
        png: the PNG file.
        sha256: digest of its pixels, see :func:`pixels_digest`.
    """

    png: bytes
    sha256: bytes


class SampleWriter:
    """Fills a claimed sample directory row by row, in any order, from one process or several.

    Where several processes fill a directory, rank 0 creates its writer before the others do.

    Args:
        path: the directory.
        meta: of the token file.
        indices: number of each image in the whole set (N,), which is its name.
        labels: class number of each row of tokens (R,), -1 for none.
        names: of the rows of tokens (R,); None is the images' numbers.
        counts: rows of tokens per image (N,), which sum to R; None is one each.
        trace_steps: S where the sampler's steps are stored, else 0.
        pixels: whether there are images, the digests of whose pixels are stored.

    Attributes:
        todo: images without tokens when this writer was created.
    """

    def __init__(
        self,
        path: Path,
        meta: TokenMeta,
        indices: np.ndarray,
        labels: np.ndarray,
        names: Sequence[str] | None = None,
        counts: np.ndarray | None = None,
        trace_steps: int = 0,
        pixels: bool = True,
    ) -> None:
        self.path = path
        self.indices = indices
        counts = np.ones(len(indices), np.int64) if counts is None else counts
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts
        self.tokens: TokenWriter | None = None
        self.todo = np.array([], np.int64)
        # Once the token file is finished, only what follows it is left to do.
        if not (path / TOKENS_FILE).exists():
            names = names or [f"{index:06d}" for index in indices]
            self.tokens = TokenWriter.create_or_resume(
                path / TOKENS_FILE, meta, names, labels, steps=trace_steps, pixels=pixels
            )
            done = self.tokens.done
            whole = [done[start:end].all() for start, end in zip(self._starts, self._ends, strict=True)]
            self.todo = np.flatnonzero(~np.array(whole))

    def image_path(self, image: int) -> Path:
        """Path of an image, by its place among ``indices``."""
        return self.path / IMAGES / f"{self.indices[image]:06d}.png"

    def write(
        self,
        images: np.ndarray,
        tokens: np.ndarray,
        stored: Sequence[StoredImage] = (),
        trace: Trace | None = None,
        strips: Sequence[Mapping[str, bytes]] = (),
    ) -> None:
        """Store the files of images (B,), and then all their tokens (rows, h, w) in order.

        Args:
            images: their places among ``indices``.
            tokens: in [0, K).
            stored: the images themselves, or none at all.
            trace: what the sampler did to each row, if that is stored.
            strips: figures of the trace, files by their suffix for each image, or none at all.

        Raises:
            OutputError: the disk is full or not writable.
        """
        assert self.tokens is not None
        for image, pixels in zip(images if len(stored) else (), stored, strict=True):
            write_bytes(self.image_path(image), pixels.png)
        for image, files in zip(images if len(strips) else (), strips, strict=True):
            for suffix, content in files.items():
                write_bytes(self.path / TRACES / f"{self.indices[image]:06d}.{suffix}", content)
        rows = [np.arange(self._starts[i], self._ends[i]) for i in images]
        digests = [np.frombuffer(content.sha256, np.uint8) for content in stored]
        repeated = np.repeat(digests, [len(part) for part in rows], axis=0) if digests else None
        self.tokens.write(np.concatenate(rows), tokens[:, None], trace, repeated)

    def finish_tokens(self) -> TokenFile:
        """Write the finished token file; every row has its tokens.

        Raises:
            OutputError: the disk is full or not writable.
        """
        tokens = self.path / TOKENS_FILE
        if self.tokens is not None:
            self.tokens.finish()
        partial_path(tokens).unlink(missing_ok=True)
        return open_tokens(tokens)

    def finish(self, record: Mapping[str, Any], grid: bytes, npz: bool = False) -> None:
        """Write the files of all images together, and last the record that marks them as complete.

        Args:
            record: from :func:`samples_record`.
            grid: PNG file that shows the images.
            npz: also write all images as one array.

        Raises:
            OutputError: the disk is full or not writable.
        """
        write_bytes(self.path / GRID_FILE, grid)
        if npz:
            digests = open_tokens(self.path / TOKENS_FILE).pixels_sha256
            assert digests is not None
            pngs = [self.image_path(i) for i in range(len(self.indices))]
            write_npz(self.path / NPZ_FILE, pngs, digests[self._starts])
        with disk_errors(self.path):
            remove_leftovers_below(self.path)
        write_json(self.path / SETTINGS_FILE, {**record, "complete": True})


def pixels_digest(pixels: np.ndarray) -> bytes:
    """The sha256 of an image, uint8 (3, H, W), whatever file it is stored in: its size, then its planes."""
    _, height, width = pixels.shape
    return hashlib.sha256(f"{height}x{width}:".encode() + np.ascontiguousarray(pixels).tobytes()).digest()


def check_pixels(pixels: np.ndarray, digest: np.ndarray, path: Path) -> None:
    """Check that a stored image is the one that was sampled.

    Args:
        pixels: uint8 (3, H, W).
        digest: of the sampled image, uint8 (32,).
        path: of the image.

    Raises:
        ArtifactError: it is another image.
    """
    if pixels_digest(pixels) != digest.tobytes():
        raise ArtifactError(
            f"{path} is damaged or was edited: its pixels are not those that were sampled; sample again with "
            f"--overwrite, or name {path.parent} to use its images as they are"
        )


def read_png(path: Path) -> np.ndarray:
    """Pixels uint8 (H, W, 3) of a PNG in a sample directory.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    try:
        with warnings.catch_warnings():
            # PIL warns about large images; an inpainted one is as large as its original.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return np.array(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise ArtifactError(
            f"{path} is missing or damaged; remove {path.parent.parent} and sample again"
        ) from error


def write_npz(path: Path, pngs: Sequence[Path], digests: np.ndarray) -> None:
    """Write ``arr_0`` uint8 (N, H, W, 3), which ADM's evaluator reads, from N images, one at a time.

    Args:
        path: the file.
        pngs: the images.
        digests: of their pixels, uint8 (N, 32).

    Raises:
        ArtifactError: an image is missing or damaged.
        OutputError: the disk is full or not writable.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(pngs), *read_png(pngs[0]).shape)}
    with replacing_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        member = zipfile.ZipInfo("arr_0.npy")  # dated 1980: equal images give equal bytes
        with archive.open(member, "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for png, digest in zip(pngs, digests, strict=True):
                pixels = read_png(png)
                check_pixels(pixels.transpose(2, 0, 1), digest, png)
                file.write(pixels.tobytes())
