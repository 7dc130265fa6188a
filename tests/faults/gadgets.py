"""Pickles that do something when they are loaded, in every container that weights come in. None may run.

Each writes a file, so that it shows whether one did.
"""

import builtins
import codecs
import functools
import operator
import os
import pickle
import runpy
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class _Calls:
    """What a pickle makes by calling a function."""

    def __init__(self, function: Callable, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.reduced


def _nested(marker: Path) -> bytes:
    return pickle.dumps(_Calls(os.system, f"touch {marker}"))


# By what is called; each makes the file ``marker``.
GADGETS: dict[str, Callable[[Path], Any]] = {
    "system": lambda marker: _Calls(os.system, f"touch {marker}"),
    "popen": lambda marker: _Calls(subprocess.Popen, ["touch", str(marker)]),
    "eval": lambda marker: _Calls(builtins.eval, f"open({str(marker)!r}, 'w')"),
    "exec": lambda marker: _Calls(builtins.exec, f"open({str(marker)!r}, 'w')"),
    "open": lambda marker: _Calls(builtins.open, str(marker), "w"),
    "mkdir": lambda marker: _Calls(os.mkdir, str(marker)),
    "copy": lambda marker: _Calls(shutil.copy, "/etc/hostname", str(marker)),
    "import": lambda marker: _Calls(builtins.__import__, "os.path"),
    "partial": lambda marker: _Calls(functools.partial, os.mkdir, str(marker)),
    "attrgetter": lambda marker: _Calls(operator.attrgetter, "__class__"),
    "map": lambda marker: _Calls(builtins.list, _Calls(builtins.map, os.mkdir, [str(marker)])),
    "pickle": lambda marker: _Calls(pickle.loads, _nested(marker)),
    "codecs": lambda marker: _Calls(codecs.open, str(marker), "w"),
    "runpy": lambda marker: _Calls(runpy.run_path, str(marker.with_name("script.py"))),
    "torch-load": lambda marker: _Calls(torch.load, str(marker.with_name("nested.pt"))),
    "numpy": lambda marker: _Calls(np.save, str(marker), 1),
    "state": lambda marker: _Calls(dict, state={"x": _Calls(os.system, f"touch {marker}")}),
    "key": lambda marker: {"weight": torch.zeros(2), _Hashed(marker): 1},
    "tensor": lambda marker: _Calls(
        torch._utils._rebuild_tensor_v2, _Calls(os.mkdir, str(marker)), 0, (1,), (1,), False, {}
    ),
    "module": lambda marker: torch.nn.Linear(2, 2),
}


class _Hashed:
    """A key of a dict that is made by a call."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def _zip(value: Any, path: Path) -> None:
    torch.save({"model": value, "weight": torch.zeros(2)}, path)


def _legacy(value: Any, path: Path) -> None:
    torch.save({"model": value}, path, _use_new_zipfile_serialization=False)


def _bare(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": value}, protocol=2))


def _oldest(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": value}, protocol=0))


def _newest(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": value}, protocol=5))


def _stored(value: Any, path: Path) -> None:
    """A zip file by hand, with a name that torch does not give."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model": value}, protocol=2))
        archive.writestr("archive/version", "3\n")


CONTAINERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": _zip,
    "legacy": _legacy,
    "bare": _bare,
    "oldest": _oldest,
    "newest": _newest,
    "stored": _stored,
}


def make(gadget: str, container: str, path: Path, marker: Path) -> Path:
    """Write a file whose loading would make ``marker``."""
    marker.with_name("script.py").write_text(f"open({str(marker)!r}, 'w')")
    torch.save(_Calls(os.system, f"touch {marker}"), marker.with_name("nested.pt"))
    CONTAINERS[container](GADGETS[gadget](marker), path)
    return path
