"""Every stage as a small command, what it writes, and what makes two results the same."""

import csv
import hashlib
import io
import json
import shlex
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from faults.child import Call
from faults.workshop import FEATURES, TOKENIZER, TRAINING
from maskgit_cli import MaskGITError, describe

# Values that say how fast a stage was, and digests of records that hold such values.
TIMING = {"images_per_second", "tflops", "mfu", "memory_gb", "seconds"}
DIGESTS = {"record_sha256"}
# Files by which a process says that it is at work; they may stay.
LOCKS = ("*.lock", ".lock")


class Place(NamedTuple):
    """Where cases find their inputs.

    Attributes:
        workshop: see :mod:`faults.workshop`.
        hub: address of a hub on loopback that has its models as ``user/tiny`` and ``user/other``.
    """

    workshop: Path
    hub: str

    def hub_settings(self, cwd: Path) -> dict[str, str | None]:
        """Environment of a call that downloads, with a cache of its own next to the working directory."""
        offline = {"MASKGIT_OFFLINE": None, "HF_HUB_OFFLINE": None, "HTTP_PROXY": None, "http_proxy": None}
        return {**offline, "HF_ENDPOINT": self.hub, "HF_HOME": f"{cwd}-home"}


class Stage(NamedTuple):
    """A command that writes something.

    Attributes:
        name: of the stage.
        line: its command line; it writes ``out``, and reads what lies in the workshop, ``@``.
        old: the same with other settings, whose result ``--overwrite`` replaces.
        out: name of the file or folder that it writes.
    """

    name: str
    line: str
    old: str
    out: str = "out"

    def call(self, place: Place, cwd: Path, extra: str = "", line: str | None = None) -> Call:
        """The call of it in a folder."""
        words = shlex.split(f"{line or self.line} {extra}".replace("@", f"{place.workshop}/"))
        environment = place.hub_settings(cwd) if words[0] == "pull" else {}
        return Call((*words, "--quiet"), cwd, seconds=60.0, environment=environment)


def _stage(name: str, line: str, change: str, out: str = "out", old: str = "") -> Stage:
    return Stage(name, line, old or f"{line} {change}", out)


_VQGAN = f"train-vqgan @images --out out --steps 2 --checkpoint-every 1 {TOKENIZER}"
_TRAIN = "train @tokens.h5 --out out --steps 4 --checkpoint-every 2 --preview-every 4 " + TRAINING.replace(
    "tokenizer tokenizer", "tokenizer @tokenizer"
)
_FEATURES = FEATURES.replace("tokenizer tokenizer", "tokenizer @tokenizer")
_V1 = "--tokenizer @published/last.ckpt --tokenizer @published/model.yaml"

STAGES = {
    stage.name: stage
    for stage in (
        _stage(
            "tokenize",
            "tokenize @images out.h5 --tokenizer @tokenizer --workers 0 --batch-size 5",
            "--views flip",
            "out.h5",
        ),
        _stage(
            "merge", "merge @part-1.h5 @part-0.h5 out.h5", "", "out.h5", old="merge @other-part.h5 out.h5"
        ),
        _stage("train", _TRAIN, "--seed 1"),
        _stage("train-vqgan", _VQGAN, "--seed 1"),
        _stage("sample", "sample @model --out out --n 5 --batch-size 2 --format npz", "--seed 1"),
        _stage(
            "inpaint",
            "inpaint @picture.png @model --box 1,1,8,8 --out out --n 3 --batch-size 2",
            "--seed 1",
        ),
        _stage(
            "decode",
            "decode @tokens.h5 out --tokenizer @tokenizer --batch-size 5",
            "",
            old="decode @samples/tokens.h5 out --tokenizer @tokenizer",
        ),
        _stage(
            "fid", f"fid @samples --ref @stats.npz --out out.json {_FEATURES}", "--metrics fid", "out.json"
        ),
        _stage("fid-stats", f"fid-stats @images out.npz {_FEATURES}", "--with-features", "out.npz"),
        _stage("export", "export @run out", "--half"),
        _stage(
            "import",
            f"import @published/MaskGIT_tiny.pth out {_V1}",
            "",
            old="import @published/halton.pth out --heads 4 --tokenizer @published/llamagen.pt",
        ),
        _stage("doctor", "doctor @tokens.h5 --tokenizer @tokenizer --out out.png", "--shown 1", "out.png"),
        _stage("compare", "compare @samples @other-samples --out out.png", "--columns 2", "out.png"),
        _stage(
            "sweep",
            "sweep @model --ref @stats.npz --out out --steps 1,2 --n 4 --keep images --features vqgan",
            "--seed 1",
        ),
        _stage("pull", "pull user/tiny --out out", "", old="pull user/other --out out"),
    )
}

# --- results ----------------------------------------------------------------------------------------

Tree = dict[str, Any]


def contents(path: Path) -> Tree:
    """What a file or folder holds, by name below it: bytes, less what differs between equal runs."""
    if path.is_file():
        return {"": _content(path)}
    return {p.relative_to(path).as_posix(): _content(p) for p in sorted(path.rglob("*")) if not is_lock(p)}


def is_lock(path: Path) -> bool:
    """Whether a file only says that a process is at work."""
    return any(fnmatch(path.name, pattern) for pattern in LOCKS)


def _content(path: Path) -> Any:
    if path.is_dir():
        return "folder"
    data = path.read_bytes()
    try:
        if path.suffix == ".jsonl":
            return [_less(json.loads(line)) for line in data.splitlines()]
        if path.suffix == ".json":
            return _record(json.loads(data))
        if path.suffix == ".csv":
            return [_less(row) for row in csv.DictReader(io.StringIO(data.decode()))]
    except ValueError:  # half of one
        pass
    return hashlib.sha256(data).hexdigest()


def _record(value: Any) -> Any:
    """A record without timing; the digest of one that has timing depends on it."""
    timed = any(f'"{name}"' in json.dumps(value) for name in TIMING)
    kept = (
        {k: v for k, v in value.items() if k not in DIGESTS} if timed and isinstance(value, dict) else value
    )
    return _less(kept)


def _less(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _less(inner) for key, inner in value.items() if key not in TIMING}
    return [_less(inner) for inner in value] if isinstance(value, list) else value


def difference(found: Tree, wanted: Tree) -> str:
    """The first names in which two results differ, or nothing."""
    names = sorted(found.keys() ^ wanted.keys()) or sorted(k for k in wanted if found[k] != wanted[k])
    return ", ".join(names[:4])


def claims_to_be_complete(path: Path) -> bool:
    """Whether readers take what is there for a finished result."""
    if path.suffix == ".png":  # has no record: to be there is its claim
        return path.exists()
    try:
        return describe(path).get("complete", True) is True
    except MaskGITError:
        return False


def strays(cwd: Path, stage: Stage) -> list[str]:
    """Names in a folder other than the result's."""
    return sorted(p.name for p in cwd.iterdir() if p.name != stage.out and not is_lock(p))


def copy_result(source: Path, destination: Path) -> None:
    """Put a result somewhere else."""
    if source.is_dir():
        shutil.copytree(source, destination)
    else:
        shutil.copy2(source, destination)
