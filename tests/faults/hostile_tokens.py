"""Token files that are signed but not what they claim: changes of a good one that a reader must refuse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from resigned import copy_token_file

Index = dict[str, Any]
Change = Callable[[Index], Any]

DEEP: Any = []
for _ in range(60):
    DEEP = [DEEP]
HUGE = 2**61

# Values of attributes that are no such value.
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "grid": {"half": 8.5, "text": "4", "wide": "４", "negative": -1, "zero": 0, "huge": HUGE, "list": [4, 4]},
    "resolution": {"zero": 0, "negative": -1, "other": 7777, "huge": HUGE, "text": "16px", "true": True},
    "codebook_size": {"zero": 0, "negative": -5, "huge": HUGE, "float": 12.0, "one": 1, "small": 2},
    "views": {"unknown": "both", "number": 5, "long": "x" * 100, "ten": "ten-crop"},
    "tokenizer": {"number": 5, "list": [1, 2], "null": None},
    "tokenizer_sha256": {"short": "x", "number": 5, "other": "Z" * 64},
    "class_names": {
        "text": "cat",
        "mixed": [1, None, {}],
        "deep": DEEP,
        "surrogate": ["\ud800", "dog", "owl"],
        "few": ["cat"],
    },
    "settings": {"list": [], "null": None},
    "parents": {
        "number": 5,
        "numbers": [1, 2],
        "keys": [{"kind": 1}],
        "digest": [{"kind": "a", "name": "b"}],
    },
    "created_by": {"number": 7},
}
# The same for keys of the index itself.
KEYS: dict[str, dict[str, Any]] = {
    "complete": {"text": "no", "two": 2, "null": None, "false": False},
    "bytes": {"less": 100, "huge": HUGE, "text": "1"},
    "attributes": {"list": [], "null": None},
    "datasets": {"list": [], "empty": {}},
}
DATASETS = ("codes", "labels", "names", "done", "skipped", "row_crc32")


def _attribute(name: str, value: Any) -> Change:
    return lambda index: index["attributes"].__setitem__(name, value)


def _key(name: str, value: Any) -> Change:
    return lambda index: index.__setitem__(name, value)


def _dataset(name: str, **values: Any) -> Change:
    return lambda index: index["datasets"][name].update(values)


def _without(*keys: str) -> Change:
    def change(index: Index) -> None:
        for key in keys[:-1]:
            index = index[key]
        del index[keys[-1]]

    return change


def _listed(name: str) -> Change:
    return lambda index: index["datasets"].update({name: []})


def _moved(name: str, other: str) -> Change:
    """A dataset claims to be where another one is."""
    return lambda index: index["datasets"][name].update(offset=index["datasets"][other]["offset"])


def _swapped(first: str, second: str) -> Change:
    """Two datasets claim each other's place."""

    def change(index: Index) -> None:
        one, other = index["datasets"][first], index["datasets"][second]
        one["offset"], other["offset"] = other["offset"], one["offset"]

    return change


CHANGES: dict[str, Change] = {
    **{f"{k}-{what}": _attribute(k, v) for k, values in ATTRIBUTES.items() for what, v in values.items()},
    **{f"{k}-{what}": _key(k, v) for k, values in KEYS.items() for what, v in values.items()},
    **{f"without-{name}": _without("attributes", name) for name in ATTRIBUTES},
    **{f"without-dataset-{name}": _without("datasets", name) for name in DATASETS},
    **{f"{name}-list": _listed(name) for name in DATASETS},
    **{f"{name}-beyond": _dataset(name, offset=HUGE) for name in ("codes", "labels", "names")},
    **{f"{name}-negative": _dataset(name, offset=-8) for name in ("codes", "labels", "names")},
    **{f"{name}-in-index": _dataset(name, offset=16) for name in ("codes", "labels", "done")},
    **{f"{name}-fraction": _dataset(name, offset=8192.5) for name in ("codes", "labels")},
    "codes-absurd": _dataset("codes", shape=[HUGE, HUGE, HUGE, HUGE]),
    "codes-many-axes": _dataset("codes", shape=[1] * 20),
    "codes-no-axes": _dataset("codes", shape=[]),
    "codes-short": _dataset("codes", shape=[3, 1, 4, 4]),
    "codes-3d": _dataset("codes", shape=[12, 4, 4]),
    "codes-float": _dataset("codes", dtype="<f4"),
    "codes-big-endian": _dataset("codes", dtype=">u2"),
    "codes-objects": _dataset("codes", dtype="|O"),
    "codes-record": _dataset("codes", dtype=[["a", "<u2"]]),
    "codes-no-digest": _without("datasets", "codes", "sha256"),
    "codes-other-digest": _dataset("codes", sha256="0" * 64),
    "codes-digest-number": _dataset("codes", sha256=5),
    "labels-empty": _dataset("labels", shape=[0]),
    "labels-long": _dataset("labels", shape=[24]),
    "labels-2d": _dataset("labels", shape=[12, 1]),
    "labels-float": _dataset("labels", dtype="<f4"),
    "labels-digest": _dataset("labels", sha256="0" * 64),
    "names-numbers": _dataset("names", dtype="<i4"),
    "names-wide": _dataset("names", dtype="|S999999"),
    "names-wider": _dataset("names", dtype="|S99999999999"),
    "done-numbers": _dataset("done", dtype="<i4"),
    "skipped-1d": _dataset("skipped", shape=[4]),
    "skipped-many": _dataset("skipped", shape=[10**9, 2]),
    "same-place": _moved("names", "labels"),
    "labels-are-names": _swapped("labels", "names"),
    "one-more": lambda index: index["datasets"].update(extra=index["datasets"]["labels"] | {"offset": 0}),
    "trace-alone": lambda index: index["datasets"].update(trace_codes=index["datasets"]["codes"]),
    "pixels-alone": lambda index: index["datasets"].update(pixels_sha256=index["datasets"]["done"]),
}

# Changes of the first line, by regular text.
FIRST_LINES: dict[str, Callable[[bytes], bytes]] = {
    "version-next": lambda line: line.replace(b"-tokens 2 ", b"-tokens 9 "),
    "version-long": lambda line: line.replace(b"-tokens 2 ", b"-tokens 999999999 "),
    "version-text": lambda line: line.replace(b"-tokens 2 ", b"-tokens ii "),
    "length-huge": lambda line: b" ".join([*line.split()[:2], b"9999999999", line.split()[3]]),
    "length-zero": lambda line: b" ".join([*line.split()[:2], b"0000000000", line.split()[3]]),
    "digest-other": lambda line: line[:-64] + b"0" * 64,
    "digest-short": lambda line: line[:-1],
    "endless": lambda line: line + b"x" * 100_000,
    "nothing": lambda _: b"",
}


def make(name: str, good: Path, evil: Path) -> Path:
    """Write the changed copy of a good token file."""
    if name in CHANGES:
        return copy_token_file(good, evil, CHANGES[name])
    first, rest = good.read_bytes().split(b"\n", 1)
    evil.write_bytes(FIRST_LINES[name](first) + b"\n" + rest)
    return evil
