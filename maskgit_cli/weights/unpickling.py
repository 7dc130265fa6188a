"""Reads the pickles in PyTorch's checkpoints without running anything that is in them.

A pickle is a program: it may name any function of any module and have it called. Here its opcodes are
read by :mod:`pickletools` and carried out by a machine that imports nothing and calls nothing but the few
functions below, which build tensors and plain containers. For everything else that is named a
:class:`Placeholder` stands: it keeps the name and what was to be done with it, and does nothing.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from typing import IO, Any, NamedTuple

from torch import Tensor

# Opcodes whose argument is the value they put on the stack.
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}


class Refused(Exception):
    """A file that cannot be read; the text is the reason."""


class Placeholder:
    """Stands for what a pickle names and this package does not build: a class, a function, an object.

    Attributes:
        name: of what was named, ``module.name``.
        arguments: what it was to be called with, or None where it was only named.
        state: what was to be set on it, mostly a dict of attributes.
        items: what was to be put into it.
    """

    __slots__ = ("arguments", "items", "name", "state")

    def __init__(self, name: str, arguments: Any = None) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None
        self.items: list[Any] = []

    def __repr__(self) -> str:
        return f"<placeholder for {self.name}>"


class Storage(NamedTuple):
    """Numbers that tensors are views of; None where they cannot be had, or not yet."""

    numbers: Tensor | None


# persistent id -> what it stands for
Find = Callable[[Any], Storage]


# --- what is built ----------------------------------------------------------------------------------


def whole_numbers(values: Any) -> tuple[int, ...]:
    """A tuple of numbers that are whole and not negative."""
    if not isinstance(values, tuple) or not all(isinstance(v, int) and v >= 0 for v in values):
        raise Refused("a tensor's shape is not a tuple of whole numbers")
    return values


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Any:
    """``torch._utils._rebuild_tensor``: a view of a storage."""
    if not isinstance(storage, Storage):
        raise Refused("a tensor is made of something that is not a storage")
    (start,), shape, stride = whole_numbers((offset,)), whole_numbers(shape), whole_numbers(stride)
    if len(shape) != len(stride):
        raise Refused("a tensor has more sides than strides")
    if storage.numbers is None:
        return Placeholder("tensor")
    count = math.prod(shape)
    last = start + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    # A view may repeat its numbers: a few bytes could then stand for more than any disk holds.
    if count > 0 and (last >= len(storage.numbers) or count > len(storage.numbers)):
        raise Refused(f"a tensor of shape {shape} reaches beyond the numbers that are stored for it")
    try:
        return storage.numbers.as_strided(shape, stride, storage.numbers.storage_offset() + start)
    except (RuntimeError, TypeError, OverflowError):  # an empty one whose other sides are absurd
        raise Refused(f"a tensor of shape {shape} cannot be") from None


def _parameter(data: Any, *rest: Any) -> Any:
    """``torch._utils._rebuild_parameter``: its tensor."""
    return data


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    """``collections.OrderedDict``, whose order every dict keeps."""
    many = isinstance(pairs, list | tuple)
    if not many or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise Refused("an ordered dict is made of something that is not a list of pairs")
    return {_key(key): value for key, value in pairs}


def _set(members: Any = ()) -> set[Any]:
    """``set``."""
    if not isinstance(members, list | tuple):
        raise Refused("a set is made of something that is not a list")
    return {_key(member) for member in members}


def _size(numbers: Any = ()) -> tuple[int, ...]:
    """``torch.Size``."""
    return whole_numbers(tuple(numbers) if isinstance(numbers, list) else numbers)


# The only things that a pickle can have done, and how many arguments each takes.
_BUILDERS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "torch._utils._rebuild_tensor": (_tensor, 4, 4),
    "torch._utils._rebuild_tensor_v2": (_tensor, 6, 7),
    "torch._utils._rebuild_parameter": (_parameter, 3, 3),
    "torch.Size": (_size, 1, 1),
    "collections.OrderedDict": (_ordered, 0, 1),
    "builtins.set": (_set, 0, 1),
    "__builtin__.set": (_set, 0, 1),
}


def _call(function: Any, arguments: Any) -> Any:
    """What a call in a pickle comes to: something built here, or a placeholder."""
    if not isinstance(arguments, tuple):
        raise Refused("something is called with what is no tuple of arguments")
    name = _name(function)
    if isinstance(function, Placeholder) and function.arguments is None and name in _BUILDERS:
        builder, least, most = _BUILDERS[name]
        if least <= len(arguments) <= most:
            return builder(*arguments)
    return Placeholder(name, arguments)


def _name(function: Any) -> str:
    """What is called, in words."""
    return function.name if isinstance(function, Placeholder) else type(function).__name__


def _key(value: Any, depth: int = 4) -> Any:
    """A key of a dict: only what has no code of its own for its hash, nor is nested deep.

    Hashing a tuple of tuples of tuples ... would overflow the stack of the interpreter.
    """
    if isinstance(value, tuple) and depth > 0:
        for part in value:
            _key(part, depth - 1)
    elif not isinstance(value, (str, bytes, int, float, type(None), frozenset, Placeholder)):
        raise Refused(f"a dict or set has a key of type {type(value).__name__}")
    return value


# --- the machine ------------------------------------------------------------------------------------


class _Machine:
    """Carries out the opcodes of one pickle.

    Args:
        stream: the pickle is read from where it stands, to just behind its end.
        find: gives the storage that a persistent id stands for.
    """

    def __init__(self, stream: IO[bytes], find: Find) -> None:
        self.stream = stream
        self.find = find
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # stacks that were set aside by MARK
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value of the pickle."""
        for opcode, argument, _ in pickletools.genops(self.stream):
            if opcode.name in _VALUES:
                self.stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name not in ("PROTO", "FRAME", "STOP"):
                step = getattr(self, f"_{opcode.name.lower()}", None)
                if step is None:
                    raise Refused(f"it has the opcode {opcode.name}, which no checkpoint needs")
                step(argument)
        return self.pop()

    def pop(self) -> Any:
        """Take the uppermost value."""
        if not self.stack:
            raise Refused("its stack runs empty")
        return self.stack.pop()

    def top(self) -> Any:
        """Look at the uppermost value."""
        if not self.stack:
            raise Refused("its stack runs empty")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        """Take all values since the last MARK."""
        if not self.marked:
            raise Refused("it has no mark where it needs one")
        values, self.stack = self.stack, self.marked.pop()
        return values

    def _mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def _pop(self, _: Any) -> None:
        # An empty stretch since the last mark means that the mark itself is taken.
        if self.stack or not self.marked:
            self.pop()
        else:
            self.pop_to_mark()

    def _pop_mark(self, _: Any) -> None:
        self.pop_to_mark()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.top())

    # Memo

    def _put(self, index: int) -> None:
        self.memo[index] = self.top()

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self._put(len(self.memo))

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise Refused("it refers to a value that it has not")
        self.stack.append(self.memo[index])

    _binget = _long_binget = _get

    # Containers

    def _list(self, _: Any) -> None:
        values = self.pop_to_mark()
        self.stack.append(values)

    def _tuple(self, _: Any) -> None:
        values = self.pop_to_mark()
        self.stack.append(tuple(values))

    def _last(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))

    def _tuple1(self, _: Any) -> None:
        self._last(1)

    def _tuple2(self, _: Any) -> None:
        self._last(2)

    def _tuple3(self, _: Any) -> None:
        self._last(3)

    def _frozenset(self, _: Any) -> None:
        values = self.pop_to_mark()
        self.stack.append(frozenset(_key(value) for value in values))

    def _dict(self, _: Any) -> None:
        values = self.pop_to_mark()
        self.stack.append({})
        self._put_items(values)

    def _append(self, _: Any) -> None:
        self._put_values([self.pop()])

    def _appends(self, _: Any) -> None:
        self._put_values(self.pop_to_mark())

    _additems = _appends

    def _setitem(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._put_items([key, value])

    def _setitems(self, _: Any) -> None:
        self._put_items(self.pop_to_mark())

    def _put_values(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, set):
            target.update(_key(value) for value in values)
        elif isinstance(target, Placeholder):
            target.items.extend(values)
        else:
            raise Refused(f"it appends to a {type(target).__name__}")

    def _put_items(self, values: list[Any]) -> None:
        target = self.top()
        if len(values) % 2:
            raise Refused("it has a key without a value")
        pairs = list(zip(values[::2], values[1::2], strict=True))
        if isinstance(target, dict):
            target.update((_key(key), value) for key, value in pairs)
        elif isinstance(target, Placeholder):
            target.items.extend(pairs)
        else:
            raise Refused(f"it sets an item of a {type(target).__name__}")

    # Names, calls and objects: nothing is ever imported, and only the builders above are called

    def _global(self, argument: str) -> None:
        self.stack.append(Placeholder(".".join(argument.split(" ", 1))))

    def _stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Refused("it names something by what is no text")
        self.stack.append(Placeholder(f"{module}.{name}"))

    def _extension(self, code: int) -> None:
        self.stack.append(Placeholder(f"extension {code}"))

    _ext1 = _ext2 = _ext4 = _extension

    def _reduce(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        self.stack.append(_call(function, arguments))

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        keywords, arguments, kind = self.pop(), self.pop(), self.pop()
        self.stack.append(Placeholder(_name(kind), (arguments, keywords)))

    def _inst(self, argument: str) -> None:
        arguments = self.pop_to_mark()
        self.stack.append(_call(Placeholder(".".join(argument.split(" ", 1))), tuple(arguments)))

    def _obj(self, _: Any) -> None:
        values = self.pop_to_mark()
        if not values:
            raise Refused("it makes an object of nothing")
        self.stack.append(_call(values[0], tuple(values[1:])))

    def _build(self, _: Any) -> None:
        state, target = self.pop(), self.top()
        # A plain container's further attributes, like the _metadata of a state dict, are not needed.
        if isinstance(target, Placeholder):
            target.state = state

    def _binpersid(self, _: Any) -> None:
        self.stack.append(self.find(self.pop()))


def load_pickle(stream: IO[bytes], find: Find) -> Any:
    """The value of the pickle that begins where the stream stands."""
    try:
        return _Machine(stream, find).run()
    except (ValueError, OverflowError) as error:  # pickletools on bytes that are no pickle
        raise Refused(f"its pickle is damaged: {error}") from None
