"""The faults that are known today, by test. A mark must go when its fault is cured: such a test fails."""

from typing import NamedTuple


class Known(NamedTuple):
    """A fault that is known.

    Attributes:
        reason: what is wrong, in one line.
        kinds: the kinds of findings that it explains.
    """

    reason: str
    kinds: tuple[str, ...]


KNOWN: dict[str, Known] = {}


def _know(name: str, kinds: str, reason: str) -> None:
    assert name not in KNOWN, name
    KNOWN[name] = Known(reason, tuple(kinds.split()))


# --- kills ------------------------------------------------------------------------------------------

_AT_A_CHANGE = "test_kills.py::test_killed_at_a_change_of_the_disk[{}]"
for _stage in ("train", "train-vqgan", "sample", "inpaint", "decode", "sweep"):
    _know(_AT_A_CHANGE.format(f"{_stage}-overwrite"), "lost", "--overwrite removes the old result first")
for _stage in ("fid", "fid-stats", "compare", "export", "pull"):
    _know(_AT_A_CHANGE.format(f"{_stage}-overwrite"), "stray", "temporary files of a kill stay for ever")
    _know(
        _AT_A_CHANGE.format(f"{_stage}-fresh"),
        "stray rerun",
        "temporary files of a kill stay for ever; run again after the last rename, it says that OUT exists",
    )
_know(_AT_A_CHANGE.format("import-fresh"), "rerun", "run again after the last rename, it says that OUT exists")

# --- damaged artifacts ------------------------------------------------------------------------------

_DAMAGED = "test_mutations.py::test_damaged[{}]"
for _name in ("tokens", "traced-tokens"):
    _know(_DAMAGED.format(_name), "hang silent", "no digest: HDF5 loops over a damaged header; data change silently")
for _name in ("model", "tokenizer", "run"):
    _know(_DAMAGED.format(_name), "silent", "the digest of the weights is not recorded beside them, or not checked")
for _name in ("samples", "sweep-record", "scores", "decoded"):
    _know(_DAMAGED.format(_name), "silent unforeseen", "JSON records have no digest")
_know(_DAMAGED.format("sample-image"), "silent", "the pixels of a sample are not held to its tokens")
for _name in ("v1", "halton"):
    _know(_DAMAGED.format(_name), "silent", "the CRC of a zip file is not checked on import")

# --- wrong calls ------------------------------------------------------------------------------------

_WRONG = {
    ("unforeseen", "a number that is too large for the library below"): """
        tokenize .. --res 10^12; tokenize .. --res 10^49; sample .. --n 10^12; sample .. --n 10^49;
        sweep .. --n 10^49; bench .. --res 10^12; bench .. --batch-size 10^12""",
    ("unforeseen hang", "plans all images at once, or reads without end, until memory runs out"): """
        sample .. --n 1000000000; sample .. --labels @/dev/zero""",
    ("hang", "a number without a bound"): """
        inpaint .. --n 10^12; inpaint .. --outpaint left:100000; --procs 1000000000 info missing""",
    ("hang changed", "a number without a bound; leaves a folder"): """
        inpaint .. --feather 1000000000; train-vqgan .. --discriminator-layers 1000000000""",
    ("unforeseen changed", "a number without a bound; leaves a folder"): """
        train-vqgan .. --discriminator-channels 1000000000""",
    ("accepted changed", "a number without a bound"): "fid .. --neighbors 10^12; fid .. --splits 10^12",
    ("hang", "waits for ever for a pipe"): """
        sample .. --labels @fifo; sweep .. --labels @fifo; compare .. --classes @fifo; import .. --tokenizer fifo;
        tokenize fifo.csv new.h5 --tokenizer tokenizer; sample piped --out new; inpaint fifo.csv model --out new;
        fid fifo.npz --ref stats.npz --out new.json --features vqgan --tokenizer tokenizer;
        fid-stats stats.npz fifo.npz new.npz --features vqgan --tokenizer tokenizer; import fifo new;
        import fifo.yaml new; info fifo.npz; info piped; info fifo.csv; info fifo.json; info fifo.safetensors""",
    ("hang", "HDF5 loops over a damaged header"): """
        train hang.h5 --out new; decode hang.h5 new; info hang.h5; compare samples hang.h5 --out new.png;
        fid hang.h5 --ref stats.npz --out new.json --features vqgan --tokenizer tokenizer""",
    ("unforeseen", "a file, a pipe or nothing where a run directory is to be"): """
        train .. --out ''; train .. --out notes.txt; train .. --out fifo; train-vqgan .. --out '';
        train-vqgan .. --out notes.txt; train-vqgan .. --out fifo""",
    ("unnamed", "an empty path is taken for the working directory"): """
        tokenize .. --tokenizer ''; decode .. --tokenizer ''; fid .. --ref ''; fid .. --out ''; compare .. --out '';
        tokenize '' new.h5 --tokenizer tokenizer; tokenize images '' --tokenizer tokenizer; train '' --out new;
        sample '' --out new; decode tokens.h5 '' --tokenizer tokenizer; export run ''; info ''; pull '';
        fid-stats images '' --features vqgan --tokenizer tokenizer""",
    ("unnamed changed", "an empty path is taken for the working directory"): "demo ''",
    ("accepted changed", "an option without an effect is accepted"): """
        fid .. --weights missing; fid .. --weights notes.txt; fid-stats .. --weights missing;
        fid-stats .. --weights notes.txt; export .. --license mit; compare .. --tokenizer missing""",
    ("accepted changed", "a name that readers do not take for what is in the file"): """
        compare .. --out new.txt; fid-stats images new.txt --features vqgan --tokenizer tokenizer""",
    ("lines", "refused only after two warnings"): "fid .. --out notes.txt/new.json",
    ("changed", "leaves the record of a sweep whose reference cannot be read"): """
        sweep .. --ref notes.txt; sweep .. --ref fifo""",
}
for (_kinds, _reason), _names in _WRONG.items():
    for _name in " ".join(_names.split()).split(";"):
        _know(f"test_wrong_calls.py::test_wrong_call[{_name.strip()}]", _kinds, _reason)
