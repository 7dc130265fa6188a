"""Checkpoints are read without running anything: gadgets do nothing, damage is refused in one line."""

import argparse
import builtins
import collections
import functools
import importlib
import operator
import os
import pickle
import re
import runpy
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from maskgit_cli.errors import InputError
from maskgit_cli.formats.torch_files import StandIn, read_checkpoint


def container(path: Path, pickled: bytes, **entries: bytes) -> Path:
    """A checkpoint of these bytes, as torch would write one."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n", **entries}.items():
            archive.writestr(f"archive/{name}", data)
    return path


def text(value: str) -> bytes:
    """A pickle's opcode for a text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    """The opcode that names something, as protocol 2 does."""
    return f"c{module}\n{attribute}\n".encode()


# --- what checkpoints hold --------------------------------------------------------------------------

VALUES = {
    "complex": torch.ones(2, dtype=torch.complex64),
    "half": torch.arange(6.0).half().reshape(2, 3),
    "brain": torch.linspace(-1, 1, 5, dtype=torch.bfloat16),
    "double": torch.randn(3, dtype=torch.float64),
    "bytes": torch.arange(7, dtype=torch.uint8)[2:5],
    "long": torch.tensor(3),
    "bool": torch.tensor([True, False]),
    "empty": torch.empty(0, 4),
    "turned": torch.arange(12).reshape(3, 4).t()[1:],
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "plain": [1, -(2**70), 2.5, None, True, "é", (), (1,), {"a": {"b": []}}],
    "set": {1, 2},
    "size": torch.Size([3, 4]),
    "ordered": collections.OrderedDict(b=1, a=2),
    7: "a number as a key",
    ("a", (1, None)): "a tuple as a key",
}


def same(a, b):
    if isinstance(b, torch.Tensor):
        return type(a) is type(b) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_and_plain_containers_come_back(tmp_path, zipped):
    path = tmp_path / "plain.pt"
    torch.save(VALUES, path, _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(path)
    assert list(found) == list(VALUES)
    for key, value in VALUES.items():
        assert same(found[key], value), key
    assert list(found["ordered"]) == ["b", "a"]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_protocols(tmp_path, protocol):
    """torch.save writes protocol 2; of the others torch reads what it can, or the file is refused."""
    value = {"a": [1, (2, 3, 4, 5)], "c": {"d": 8.5}, "e": "é" * 300}
    path = container(tmp_path / "x.pt", pickle.dumps(value, protocol))
    if protocol == 2:
        assert read_checkpoint(path) == value
    else:
        assert read_or_refuse(path) in (value, None)


def test_views_of_one_storage_share_it(tmp_path):
    whole = torch.arange(10.0)
    torch.save({"a": whole, "b": whole[5:]}, tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    assert found["a"][5:].data_ptr() == found["b"].data_ptr()


def resident() -> int:
    """Bytes of memory that this process has now, mapped files aside."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux reports it")
def test_tensors_are_mapped(tmp_path):
    """Neither reading nor using tensors takes memory that the system could not reclaim."""
    size = 2**26
    torch.save({"a": torch.ones(size // 4)}, tmp_path / "x.pt")
    before = resident()
    checkpoint = read_checkpoint(tmp_path / "x.pt")
    assert checkpoint["a"].sum() == size // 4
    assert resident() - before < size / 4


def test_other_objects_are_stand_ins(tmp_path):
    value = {"args": argparse.Namespace(lr=0.1), "path": Path("a"), "x": torch.ones(2)}
    torch.save(value, tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    assert isinstance(found["args"], StandIn)
    assert not vars(found["args"])
    assert isinstance(found["path"], StandIn)
    assert torch.equal(found["x"], torch.ones(2))


# --- gadgets ----------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function, *arguments, state=None, items=None):
        self.how = (function, arguments, state, iter(items) if items else None)

    def __reduce__(self):
        return self.how


class Trap:
    """Anything that is done with it is noticed: the pickles below name it where it is defined."""

    noticed: list[str] = []  # noqa: RUF012

    def __new__(cls, *arguments, **keywords):
        cls.noticed.append("new")
        return super().__new__(cls)

    def __init__(self, *arguments, **keywords):
        self.noticed.append("init")

    def __setstate__(self, state):
        self.noticed.append("setstate")

    def __setitem__(self, key, value):
        self.noticed.append("setitem")

    def append(self, value):
        self.noticed.append("append")

    extend = append

    def __hash__(self):
        self.noticed.append("hash")
        return 0


def trap(*arguments):
    Trap.noticed.append("called")


HERE = __name__
TRAP, MADE = name(HERE, "Trap"), name(HERE, "Trap") + b")\x81"
TOUCH = "touch pwned"

# As opcodes, where no object pickles so. All begin in protocol 2; {} stands for nothing.
OPCODES = {
    "reduce": name(HERE, "trap") + b")R.",
    "global": f"c{HERE}\ntrap\n".encode() + b")R.",
    "inst": f"(i{HERE}\nTrap\n".encode() + b".",
    "inst with arguments": b"(" + text(TOUCH) + b"ios\nsystem\n.",
    "obj": b"(" + TRAP + b"o.",
    "newobj": MADE + b".",
    "newobj_ex": TRAP + b")" + b"}" + text("a") + b"K\x01s\x92.",
    "build": MADE + b"}" + text("a") + b"K\x01sb.",
    "build with slots": MADE + b"N}" + text("a") + b"K\x01s\x86b.",
    "build on a list": b"]}" + text("__class__") + TRAP + b"sb.",
    "setitem": MADE + text("a") + b"K\x01s.",
    "setitems": MADE + b"(" + text("a") + b"K\x01u.",
    "append": MADE + b"K\x01a.",
    "appends": MADE + b"(K\x01e.",
    "additems": MADE + b"(K\x01\x90.",
    "key of a dict": b"}" + MADE + b"K\x01s.",
    "member of a set": b"\x8f(" + MADE + b"\x90.",
    "extension 1": b"\x82\x01.",
    "extension 2": b"\x83\x01\x02)R.",
    "extension 4": b"\x84\x01\x00\x00\x00)R.",
    "dotted name": name(HERE, "trap.__globals__.__getitem__") + text("trap") + b"\x85R)R.",
    "getattr chain": (
        name("builtins", "getattr") + name(HERE, "Trap") + text("mro") + b"\x86R)R."  # Trap.mro()
    ),
    "memoised function": name(HERE, "trap") + b"\x940h\x00)R.",
    "call of a call": name("functools", "partial") + name(HERE, "trap") + b"\x85R)R.",
    "import": name("builtins", "__import__") + text("gadget_module") + b"\x85R.",
    "import by name": name("gadget_module", "anything") + b".",
    "a builder's arguments": name("collections", "OrderedDict") + MADE + b"\x85R.",
    "a builder made of a trap": name("torch._utils", "_rebuild_tensor_v2") + b"(" + MADE + b"K\x00)))tR.",
    "persistent id in text": b"P0\n.",
    "persistent id of a trap": MADE + b"Q.",
    "storage type of a trap": b"(" + text("storage") + MADE + text("0") + text("cpu") + b"K\x01tQ0N.",
    "out-of-band buffer": b"\x97.",
}

OBJECTS = {
    "os.system": Call(os.system, TOUCH),
    "subprocess": Call(subprocess.check_output, ["touch", "pwned"]),
    "eval": Call(eval, f"__import__('os').system({TOUCH!r})"),
    "exec": Call(exec, f"import os; os.system({TOUCH!r})"),
    "open": Call(open, "pwned", "w"),
    "getattr": Call(getattr, Call(__import__, "os"), "system"),
    "partial": Call(functools.partial(os.system, TOUCH)),
    "importlib": Call(importlib.import_module, "gadget_module"),
    "runpy": Call(runpy.run_path, "gadget_module.py"),
    "map": Call(list, Call(map, os.system, [TOUCH])),
    "methodcaller": Call(operator.methodcaller("mkdir"), Path("pwned")),
    "attrgetter": Call(operator.attrgetter("system")),
    "pathlib": Call(Path.touch, Path("pwned")),
    "shutil": Call(shutil.copyfile, "gadget_module.py", "pwned"),
    "nested pickle": Call(pickle.loads, pickle.dumps(Call(os.system, TOUCH))),
    "torch.load": Call(torch.load, "inner.pt"),
    "torch's storage loader": Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.system, TOUCH))),
    "numpy.load": Call(np.load, "inner.npy", None, True),
    "numpy reconstruct": np.array([Call(os.system, TOUCH)], dtype=object),
    "from_file": Call(torch.from_file, "pwned", True, 8),
    "state": Call(argparse.Namespace, state={"x": Call(os.system, TOUCH)}),
    "items": Call(collections.deque, items=[Call(os.system, TOUCH)]),
    "key": {Call(os.system, TOUCH): 1},
}


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A folder to be in, with a module that must not be imported; afterwards nothing has happened."""
    (tmp_path / "gadget_module.py").write_text("open('pwned', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Trap, "noticed", [])
    before = set(sys.modules)
    yield tmp_path
    assert not (tmp_path / "pwned").exists()
    assert not Trap.noticed
    assert "gadget_module" not in sys.modules
    assert {m for m in set(sys.modules) - before if not m.startswith(("torch", "encodings"))} == set()


def read_or_refuse(path: Path) -> object:
    """What a file holds, or None where it is refused."""
    try:
        return read_checkpoint(path)
    except InputError:
        return None


@pytest.mark.parametrize("gadget", OPCODES)
def test_opcodes_do_nothing(watched, gadget):
    pickled = b"\x80\x02" + OPCODES[gadget]
    value = read_or_refuse(container(watched / "x.pt", pickled))
    inert = isinstance(value, type) and issubclass(value, StandIn)
    assert value is None or inert or isinstance(value, StandIn | list | dict | set)


@pytest.mark.parametrize(
    "gadget", ["reduce", "inst", "obj", "newobj", "newobj_ex", "build", "setitem", "append"]
)
def test_these_opcodes_would_do_something(watched, monkeypatch, gadget):
    """The tests above would notice: Python's own unpickler falls for them."""
    pickle.loads(b"\x80\x04" + OPCODES[gadget])
    assert Trap.noticed
    monkeypatch.setattr(Trap, "noticed", [])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("gadget", OBJECTS)
def test_gadgets_do_nothing(watched, gadget, zipped):
    path = watched / "x.pt"
    weight = torch.arange(3.0)
    torch.save({"weight": weight, "gadget": OBJECTS[gadget]}, path, _use_new_zipfile_serialization=zipped)
    value = read_or_refuse(path)
    if value is not None:  # inert: the weights next to it are whole
        assert torch.equal(value["weight"], weight)
        assert isinstance(value["gadget"], StandIn | dict)


def test_the_files_of_gadgets_would_do_something(watched):
    torch.save(OBJECTS["os.system"], watched / "x.pt")
    with zipfile.ZipFile(watched / "x.pt") as archive:
        pickle.loads(archive.read("x/data.pkl"))
    assert (watched / "pwned").exists()
    (watched / "pwned").unlink()


def test_nothing_is_imported(watched, monkeypatch):
    torch.save({"gadget": OBJECTS["importlib"], "x": torch.ones(2)}, watched / "x.pt")
    real = builtins.__import__

    def spy(module, *rest, **more):
        assert module != "gadget_module"
        return real(module, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", spy)
    assert isinstance(read_checkpoint(watched / "x.pt")["gadget"], StandIn)


# --- bombs ------------------------------------------------------------------------------------------


def tensor(shape, stride, offset=0, count=4) -> bytes:
    """Opcodes of a tensor over a storage of 4 numbers that is called 0."""
    numbers = [b"(" + b"".join(pickle.dumps(n, 2)[2:-1] for n in side) + b"t" for side in (shape, stride)]
    storage = (
        b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu")
        + pickle.dumps(count, 2)[2:-1] + b"tQ"
    )  # fmt: skip
    parts = storage + pickle.dumps(offset, 2)[2:-1] + numbers[0] + numbers[1] + b"\x89}"
    return b"\x80\x02" + name("torch._utils", "_rebuild_tensor_v2") + b"(" + parts + b"tR."


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "count"),
    [
        ((5,), (1,), 0, 4),
        ((2,), (4,), 0, 4),
        ((4,), (1,), 1, 4),
        ((10**12,), (0,), 0, 4),  # a few bytes that stand for terabytes
        ((2, 2), (1,), 0, 4),
        ((2**70,), (1,), 0, 4),
        ((0, 2**70), (1, 1), 0, 4),
        ((-1,), (1,), 0, 4),
        ((4,), (-1,), 3, 4),
        ((4,), (1,), -1, 4),
        ((5,), (1,), 0, 5),
        ((1,), (1,), 0, 2**62),
        ((1,), (1,), 0, -1),
    ],
)
def test_tensors_stay_inside_their_numbers(tmp_path, shape, stride, offset, count):
    path = container(tmp_path / "x.pt", tensor(shape, stride, offset, count), **{"data/0": b"\0" * 16})
    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(path)


def test_the_same_tensor_inside_its_numbers_is_read(tmp_path):
    numbers = np.arange(4, dtype=np.float32).tobytes()
    path = container(tmp_path / "x.pt", tensor((2, 2), (1, 2)), **{"data/0": numbers})
    assert torch.equal(read_checkpoint(path), torch.tensor([[0.0, 2.0], [1.0, 3.0]]))


def test_a_deep_or_circular_value_is_no_harm(tmp_path):
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    assert isinstance(read_checkpoint(container(tmp_path / "deep.pt", deep)), list)
    round_ = b"\x80\x02}q\x00" + text("me") + b"h\x00s."
    value = read_checkpoint(container(tmp_path / "round.pt", round_))
    assert value["me"] is value
    key = b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s."  # its hash would overflow the stack
    read_or_refuse(container(tmp_path / "key.pt", key))  # and this process lives on


# --- damage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_cut_anywhere_is_refused(tmp_path, zipped):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(40), "b": [torch.ones(3)]}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for length in [0, 1, 2, 30, *range(40, len(data) - 1, 97)]:
        path.write_bytes(data[:length])
        assert read_or_refuse(path) is None, length


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_bytes_that_were_changed_do_no_harm(watched):
    """Whatever one byte is turned into: something is read, or the file is refused."""
    path = watched / "x.pt"
    good = pickle.dumps({"a": [1, 2.5, "x", (3,)], "b": argparse.Namespace(c=4)}, 2)
    random = np.random.default_rng(0)
    for _ in range(600):
        data = bytearray(good)
        data[random.integers(len(data))] = random.integers(256)
        read_or_refuse(container(path, bytes(data)))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a PyTorch checkpoint"),
        (b"<html>404</html>", "not a PyTorch checkpoint"),
        (b"PK\x03\x04 but no zip", "cannot be read"),
        (pickle.dumps({"a": 1}), "cannot be read"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1002, 2), "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path, data, says):
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=says):
        read_checkpoint(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.pt"):
        with pytest.raises(InputError, match="cannot be read"):
            read_checkpoint(path)


def test_zips_that_torch_would_not_write_are_refused(tmp_path):
    good = pickle.dumps({}, 2)
    with pytest.raises(InputError, match=r"no data\.pkl"):
        read_checkpoint(_renamed(tmp_path / "b.pt"))
    with zipfile.ZipFile(tmp_path / "d.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", good * 100)
    with pytest.raises(InputError, match="compressed"):
        read_checkpoint(tmp_path / "d.pt")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_records_of_one_name_are_refused(tmp_path):
    path = container(tmp_path / "x.pt", tensor((4,), (1,)), **{"data/0": bytes(16)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", b"\1" * 16)
    with pytest.raises(InputError, match=r"x\.pt.*one name"):
        read_checkpoint(path)


def test_a_changed_bit_in_any_record_is_noticed(tmp_path):
    """Torch reads on; the zip's checksum shows it."""
    path = tmp_path / "x.pth"
    torch.save({"model": {"a": torch.arange(40.0), "b": torch.ones(7)}}, path)
    good = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = [record for record in archive.infolist() if record.file_size]
    assert len(records) > 4
    for record in records:
        begin = record.header_offset + 30 + sum(struct.unpack_from("<HH", good, record.header_offset + 26))
        data = bytearray(good)
        data[begin + record.file_size // 2] ^= 8
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"x\.pth is damaged: .*{re.escape(record.filename)}"):
            read_checkpoint(path)


def _renamed(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"")
    return path


def test_numbers_that_are_missing_or_cut_short_are_refused(tmp_path):
    for entries in ({}, {"data/0": b"\0" * 15}):
        with pytest.raises(InputError, match="cannot be read"):
            read_checkpoint(container(tmp_path / "x.pt", tensor((4,), (1,)), **entries))


def test_numbers_at_odd_places_are_read(tmp_path):
    numbers = np.arange(4, dtype=np.float32).tobytes()
    for pad in range(4):
        path = container(tmp_path / "x.pt", tensor((4,), (1,)), **{"pad": b"x" * pad, "data/0": numbers})
        assert torch.equal(read_checkpoint(path), torch.arange(4.0))


# --- out of proportion ------------------------------------------------------------------------------

NESTED = b"".join(b"q\x01h\x01\x86" for _ in range(60))  # each tuple holds the one before it twice

OUT_OF_PROPORTION = {
    "bytearray": b"c__builtin__\nbytearray\n\x8a\x05" + (10**11).to_bytes(5, "little") + b"\x85R.",
    "a tensor's class": b"ctorch\nFloatTensor\n\x8a\x05" + (10**11).to_bytes(5, "little") + b"\x85R.",
    "a sparse tensor": b"ctorch._utils\n_rebuild_sparse_tensor\n.",
    "a key that is hashed for ever": b"}N" + NESTED + b"K\x01s.",
    "a key that overflows the stack": b"})" + b"\x85" * 1_000_000 + b"K\x01s.",
    "classes": b"(" + b"".join(b"cm%d\nx\n" % i for i in range(1001)) + b"t.",
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("case", OUT_OF_PROPORTION)
def test_no_memory_or_time_out_of_proportion(tmp_path, case, zipped):
    """A few bytes that torch.load would follow into a crash, or for ever."""
    pickled = b"\x80\x02" + OUT_OF_PROPORTION[case]
    path = tmp_path / "x.pt"
    if zipped:
        container(path, pickled)
    else:
        head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(x, 2) for x in head) + pickled + pickle.dumps([], 2))
    with pytest.raises(InputError, match=r"it (names|has a tuple)") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("value", [range(3), frozenset([1]), slice(1, 2)], ids=lambda v: type(v).__name__)
def test_builtins_have_stand_ins(tmp_path, value, zipped):
    """Protocol 2 names them as Python 2 did."""
    path = tmp_path / "x.pt"
    torch.save({"x": value, "w": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(path)
    assert isinstance(found["x"], StandIn)
    assert torch.equal(found["w"], torch.ones(2))


def test_what_torch_cannot_build_is_named(tmp_path):
    torch.save({"x": collections.defaultdict(list, a=[1])}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"collections\.defaultdict"):
        read_checkpoint(tmp_path / "x.pt")
    torch.save({"x": 2**3000}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="LONG4"):
        read_checkpoint(tmp_path / "x.pt")
