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


def _know(name: str, kinds: str, reason: str, strict: bool = True) -> None:
    assert name not in KNOWN, name
    KNOWN[name] = Known(reason, tuple(kinds.split()), strict)


def _split(names: str) -> list[str]:
    return [name.strip() for name in " ".join(names.split()).split(";")]


# --- damaged artifacts ------------------------------------------------------------------------------

_DAMAGED = "test_mutations.py::test_damaged[{}]"
for _name in ("tokens", "traced-tokens"):
    _know(
        _DAMAGED.format(_name),
        "hang silent",
        "no digest: HDF5 loops over a damaged header; data change silently",
    )
for _name in ("model", "tokenizer", "run"):
    _know(
        _DAMAGED.format(_name),
        "silent unforeseen",
        "the digest of the weights is not recorded beside them, or not checked",
    )
for _name in ("samples", "sweep-record", "scores", "decoded"):
    _know(_DAMAGED.format(_name), "silent unforeseen hang", "JSON records have no digest")
_know(_DAMAGED.format("sample-image"), "silent", "the pixels of a sample are not held to its tokens")

# --- wrong calls ------------------------------------------------------------------------------------

_WRONG = {
    ("hang", "HDF5 loops over a damaged header"): """
        train hang.h5 --out new; decode hang.h5 new; info hang.h5;
        compare samples hang.h5 --out new.png;
        fid hang.h5 --ref stats.npz --out new.json --features vqgan --tokenizer tokenizer""",
}
for (_kinds, _reason), _names in _WRONG.items():
    for _name in _split(_names):
        _know(f"test_wrong_calls.py::test_wrong_call[{_name}]", _kinds, _reason)

# --- hostile files ----------------------------------------------------------------------------------

_HOSTILE = "test_hostile_files.py::test_hostile_{}[{}]"
_HDF5 = {
    ("accepted", "links to elsewhere in a file or to other files are followed"): """
        codes-external; labels-external; names-external; done-external; skipped-external; codes-soft;
        labels-soft; names-soft; done-soft; skipped-soft""",
    ("accepted", "attributes of another type or out of range are taken"): """
        complete-no; complete-two; complete-nan; complete-reference; grid-text; grid-wide;
        resolution-zero; resolution-negative; resolution-other; resolution-huge; codebook_size-huge;
        tokenizer-number; tokenizer-list; tokenizer-empty; tokenizer-reference; tokenizer_sha256-short;
        tokenizer_sha256-number; tokenizer_sha256-other; version-list; format-list; class_names-mixed;
        class_names-twice""",
    ("unforeseen", "a group or a shape where a dataset is expected"): """
        codes-group; names-group; trace-group; trace-scalar; trace-1d""",
    ("unforeseen", "attributes that are not what the code takes them for"): """
        codebook_size-infinite; class_names-surrogate; parents-numbers; parents-keys""",
}
for (_kinds, _reason), _names in _HDF5.items():
    for _name in _split(_names):
        _know(_HOSTILE.format("hdf5", _name), _kinds, _reason)
for _line in (
    "info hang.h5",
    "train hang.h5 --out new",
    "decode hang.h5 new",
    "fid samples --ref stats.npz --out new.json --features vqgan --tokenizer tokenizer",
):
    _know(
        f"test_hostile_files.py::test_a_header_in_which_hdf5_loops[{_line}]",
        "hang",
        "HDF5 loops over a damaged header",
    )
for _kind in ("model", "tokenizer", "run", "samples", "sweep", "scores", "decoded"):
    for _name in ("version-true", "version-float"):
        _know(_HOSTILE.format("file", f"{_kind}-{_name}"), "accepted", "true and 1.0 pass for version 1")
    for _name in ("parents-number", "parents-numbers", "parents-keys"):
        _know(_HOSTILE.format("file", f"{_kind}-{_name}"), "accepted unforeseen", "parents are not checked")
_FILES = {
    ("accepted", "a record with nothing but a format is described"): """
        samples-bare; scores-bare; decoded-bare""",
    ("accepted", "text that is no Unicode is taken"): "model-class-surrogate",
    ("unforeseen", "sizes are not checked against the tensors before memory is taken"): """
        tokenizer-multipliers-large""",
    ("unforeseen", "values of another type in a record"): """
        model-sizes-list; model-network-list; model-network-object; model-class-numbers;
        tokenizer-multipliers-many; state-sha256-zero;
        state-sha256-null; state-sha256-list; state-step-null; state-step-text""",
    ("unnamed", "the file is not named"): "model-sampler-steps; tensors-integers",
}
for (_kinds, _reason), _names in _FILES.items():
    for _name in _split(_names):
        _know(_HOSTILE.format("file", _name), _kinds, _reason)
