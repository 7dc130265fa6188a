"""What files call themselves never controls the terminal that it is shown on."""

import json
import os
import pty
import shlex
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from resigned import rewrite_index, rewrite_record
from safetensors.numpy import load_file, save_file

from faults.child import Call
from faults.processes import finish
from faults.verdict import Finding, judge, limit
from faults.workshop import partial_copy

# Clears the screen; sets a title; the same by one byte in UTF-8; overwrites the line; rings.
SEQUENCES = {
    "clear": "\x1b[2J",
    "title": "\x1b]0;owned\x07",
    "csi": "\x9b2J",
    "return": "safe\rowned",
    "bell": "\x07",
}
CHANGED = ("tokens.h5", "model", "samples", "scores.json", "edits.csv", "published/model.yaml")
FEATURES = "--features vqgan --tokenizer tokenizer"


def _record(path: str, **values: object) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        file = root / path
        rewrite_record(file, **values)

    return write


def _attribute(root: Path, text: str) -> None:
    rewrite_index(root / "tokens.h5", lambda index: index["attributes"].update(tokenizer=text))


def _tensor(root: Path, text: str) -> None:
    path = root / "model/model.safetensors"
    save_file({**load_file(path), text: next(iter(load_file(path).values()))}, path)


def _image(root: Path, name: str) -> None:
    (root / "odd").mkdir()
    (root / "odd" / f"{name}.png").write_text("not an image")
    Image.new("RGB", (16, 16)).save(root / "odd" / f"{name}-good.png")


def _class(root: Path, name: str) -> None:
    shutil.copytree(root / "images" / "cat", root / "odd" / name)


# How a text gets where it is shown: prepares the workshop, and the call that shows it.
WAYS: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "path": (lambda *_: None, "info {quoted}"),
    "path-of-out": (lambda *_: None, "export run {quoted}"),
    "label": (lambda *_: None, "sample model --out new --labels {quoted}"),
    "option": (lambda *_: None, "sample model --out new --sampler {quoted}"),
    "command": (lambda *_: None, "{quoted}"),
    "tokenizer": (_attribute, "info tokens.h5"),
    "class-names": (
        lambda root, text: _record("model/config.json", class_names=[text, "b", "c"])(root),
        "info model",
    ),
    "class-error": (
        lambda root, text: _record("model/config.json", class_names=[text, "b", "c"])(root),
        "sample model --out new --labels bat",
    ),
    "format": (lambda root, text: _record("model/config.json", format=text)(root), "info model"),
    "version": (lambda root, text: _record("model/config.json", version=text)(root), "info model"),
    "created-by": (
        lambda root, text: _record("samples/settings.json", created_by=text)(root),
        "info samples",
    ),
    "parent": (
        lambda root, text: _record("scores.json", parents=[{"kind": text, "name": text, "sha256": text}])(
            root
        ),
        "info scores.json",
    ),
    "key": (lambda root, text: _record("scores.json", metrics={text: 1.0})(root), "info scores.json"),
    "setting": (
        lambda root, text: _record("samples/settings.json", settings={"a": text})(root),
        "info samples",
    ),
    "network": (
        lambda root, text: _record("model/config.json", network=text)(root),
        "sample model --out new",
    ),
    "tensor": (_tensor, "sample model --out new"),
    "image-name": (_image, "tokenize odd new.h5 --tokenizer tokenizer --workers 0"),
    "image-alone": (_image, f"fid odd --ref stats.npz --out new.json {FEATURES}"),
    "class-folder": (_class, "tokenize odd new.h5 --tokenizer tokenizer --workers 0"),
    "column": (
        lambda root, text: (root / "edits.csv").write_text(f"image,{text}\n") and None,
        "inpaint edits.csv model",
    ),
    "cell": (
        lambda root, text: (root / "edits.csv").write_text(f'image,box\n{text},"1,1,2,2"\n') and None,
        "inpaint edits.csv model --out new",
    ),
    "yaml": (
        lambda root, text: (root / "published/model.yaml").write_text(json.dumps({text: 1})) and None,
        "import published/MaskGIT_tiny.pth new --tokenizer published/last.ckpt "
        "--tokenizer published/model.yaml",
    ),
    "row-name": (lambda *_: None, "compare samples other-samples --name {quoted} --out new.png"),
}


def on_a_terminal(call: Call) -> tuple[bytes, str]:
    """What a call writes to a terminal, stdout and stderr, and how it ended."""
    master, slave = pty.openpty()
    shown: list[bytes] = []

    def collect() -> None:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            shown.append(data)

    reader = threading.Thread(target=collect)
    reader.start()
    environment = {"TERM": "xterm-256color", "COLUMNS": "400", "LINES": "50"}
    done = finish(call.but(terminal=os.ttyname(slave), environment=environment))
    os.close(slave)
    reader.join(5)
    os.close(master)
    return b"".join(shown), str(done)


@pytest.mark.parametrize("way", WAYS)
def test_no_text_controls_the_terminal(way, place, tmp_path, request):
    prepare, line = WAYS[way]
    findings = []
    for name, sequence in SEQUENCES.items():
        root = tmp_path / name
        partial_copy(place.workshop, root, *CHANGED)
        prepare(root, f"a{sequence}b")
        words = tuple(shlex.split(line.format(quoted=shlex.quote(f"a{sequence}b"))))
        shown, done = on_a_terminal(Call(words, root, seconds=limit(request)))
        if f"a{sequence}b".encode() in shown:
            findings.append(Finding("raw", f"{way}, {name}: {line}", repr(shown[-200:])))
        if not shown or b"Traceback" in shown or b"--debug" in shown:
            findings.append(Finding("unforeseen", f"{way}, {name}: {line}", f"{done} {shown[-400:]!r}"))
    judge(request, findings, len(SEQUENCES))


def test_what_is_printed_raw_is_seen_here(tmp_path):
    """The control of the test above."""
    shown, _ = on_a_terminal(Call(("a\x1b[2Jb",), tmp_path, function=print))
    assert b"a\x1b[2Jb" in shown
