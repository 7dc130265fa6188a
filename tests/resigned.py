"""Artifacts that are changed and signed again, so that what is wrong in them is not the digest."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskgit_cli.formats.atomic import RECORD_DIGEST, record_sha256, sha256_file
from maskgit_cli.formats.tokens import FILLED


def rewrite_record(path: Path, **changes: Any) -> None:
    """Change keys of a record; None removes one."""
    record = json.loads(path.read_text()) | changes
    sign_record(path, {key: value for key, value in record.items() if value is not None})


def sign_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as it is, with its digest; what JSON has no text for is left to the reader."""
    record.pop(RECORD_DIGEST, None)
    path.write_text(json.dumps(record | {RECORD_DIGEST: record_sha256(record)}))


def sign_weights(path: Path) -> None:
    """Record the digest of the weights in a model or tokenizer directory as they are now."""
    rewrite_record(path / "config.json", weights_sha256=sha256_file(path / "model.safetensors"))


def copy_token_file(source: Path, path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A token file whose index ``change`` changes in place, all digests of it renewed."""
    shutil.copyfile(source, path)
    return rewrite_index(path, change)


def rewrite_index(
    path: Path, change: Callable[[dict[str, Any]], Any] = lambda _: None, block: int | None = None
) -> Path:
    """The same, of a file in its place; ``block`` is the size of its user block, where HDF5 is damaged."""
    first, rest = path.read_bytes().split(b"\n", 1)
    length = int(first.split()[2])
    index = json.loads(rest[:length])
    block = block or next(2**k for k in range(9, 31) if _is_hdf5(path, 2**k))
    change(index)
    text = _text(index)
    start = len(first) + 1 + len(text)
    assert start <= block, "the index grew out of its block"
    # The bytes behind the index count as metadata: what is left of the block is zeros.
    data = bytes(start) + bytes(block - start) + path.read_bytes()[block:]
    index["metadata_sha256"] = _outside(data, start, index["datasets"])
    text = _text(index)
    line = b" ".join([*first.split()[:2], b"%010d" % len(text), hashlib.sha256(text).hexdigest().encode()])
    assert len(line) == len(first)
    path.write_bytes(line + b"\n" + text + data[start:])
    return path


def _text(index: dict[str, Any]) -> bytes:
    index.setdefault("metadata_sha256", "0" * 64)
    return (json.dumps(index, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def _is_hdf5(path: Path, offset: int) -> bool:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _outside(data: bytes, start: int, datasets: Any) -> str:
    """Digest of the metadata, as far as the datasets are at all where datasets can be."""
    parts, digest = [], hashlib.sha256()
    for name in FILLED:
        try:
            size = {"<": 0, "|": 0}[datasets[name]["dtype"][0]] + int(datasets[name]["dtype"][2:])
            for length in datasets[name]["shape"]:
                size *= length
            parts.append((datasets[name]["offset"], size))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            continue
    try:
        for offset, size in sorted(parts):
            digest.update(data[start:offset])
            start = offset + size
    except TypeError:
        pass
    digest.update(data[start:])
    return digest.hexdigest()
