"""The faults that are known today, by test. A mark must go when its fault is cured: such a test fails."""

from typing import NamedTuple


class Known(NamedTuple):
    """A fault that is known.

    Attributes:
        reason: what is wrong, in one line.
        kinds: the kinds of findings that it explains.
        strict: whether it is found every time; False where it depends on the moment.
    """

    reason: str
    kinds: tuple[str, ...]
    strict: bool = True


KNOWN: dict[str, Known] = {}
_STAGES = ("tokenize", "train", "train-vqgan", "sample", "inpaint", "decode", "sweep")
_STAGES += ("fid", "fid-stats", "export", "import", "compare", "pull")


def _know(name: str, kinds: str, reason: str, strict: bool = True) -> None:
    assert name not in KNOWN, name
    KNOWN[name] = Known(reason, tuple(kinds.split()), strict)


def _split(names: str) -> list[str]:
    return [name.strip() for name in " ".join(names.split()).split(";")]


# --- wrong calls ------------------------------------------------------------------------------------

_WRONG = {
    ("unforeseen", "a link to itself where the output is to be"): """
        train .. --out loop; sample .. --out loop; compare .. --out loop;
        tokenize images loop --tokenizer tokenizer""",
    ("unnamed", "an empty name is looked up"): "pull ''",
    ("accepted changed", "an option without an effect is accepted"): """
        fid .. --weights missing; fid .. --weights notes.txt; fid-stats .. --weights missing;
        fid-stats .. --weights notes.txt; export .. --license mit; compare .. --tokenizer missing""",
    ("accepted changed", "a name that readers do not take for what is in the file"): """
        compare .. --out new.txt""",
    ("changed", "leaves the record of a sweep whose reference cannot be read"): """
        sweep .. --ref notes.txt; sweep .. --ref fifo""",
}
for (_kinds, _reason), _names in _WRONG.items():
    for _name in _split(_names):
        _know(f"test_wrong_calls.py::test_wrong_call[{_name}]", _kinds, _reason)

# --- hostile files ----------------------------------------------------------------------------------

_HOSTILE = "test_hostile_files.py::test_hostile_{}[{}]"
_FILES = {
    ("unnamed", "the file is not named"): "npz-sigma-negative",
    ("unforeseen", "archives whose headers are absurd"): """
        npz-zip-version; npz-zip-method; npz-zip-encrypted; npz-mu-huge; npz-meta-deep; npz-meta-digits;
        npz-features-huge; npz-images-empty; npz-images-huge""",
    ("unforeseen", "a byte of zero in a name"): "csv-edit-null",
    ("unforeseen", "numbers of 5,000 digits, or nesting, in text"): """
        csv-label-digits; csv-edit-label; yaml-deep; yaml-digits""",
}
for (_kinds, _reason), _names in _FILES.items():
    for _name in _split(_names):
        _know(_HOSTILE.format("file", _name), _kinds, _reason)
_GADGETS = "system popen eval exec open mkdir copy import partial attrgetter map pickle codecs runpy"
_GADGETS += " torch-load numpy state key tensor module"
for _name in _GADGETS.split():
    _know(
        f"test_hostile_files.py::test_no_pickle_runs[{_name}-newest]",
        "lines",
        "a warning of torch's is shown",
    )

# --- full disks -------------------------------------------------------------------------------------

for _how in ("fresh", "overwrite"):
    _know(
        f"test_full_disk.py::test_files_may_not_grow[pull-{_how}]",
        "temporary",
        "names a temporary file in the cache of downloads",
    )

# --- signals ----------------------------------------------------------------------------------------

for _stage in _STAGES:
    _know(
        f"test_signals.py::test_a_signal_at_a_random_moment[{_stage}]",
        "status",
        "a signal while safetensors are read is reported as a damaged file",
        strict=False,
    )
