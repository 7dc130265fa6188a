"""Damage to a file as a function of a seed: what disks, networks and cut transfers do to bytes, and worse."""

import random
from collections.abc import Callable

# Damage at the start of a file hits its header, where parsers are; half of all does.
HEADER = 4096
LENGTHS = (1, 1, 1, 2, 4, 8, 64, 256, 512, 4096)


def mutated(data: bytes, seed: str) -> tuple[bytes, str]:
    """Damaged bytes, and what was done to them in words."""
    source = random.Random(seed)
    kind = source.choice(list(MUTATIONS))
    changed, where = MUTATIONS[kind](data, source)
    return changed, f"{kind} {where}"


def _place(size: int, source: random.Random) -> int:
    return source.randrange(max(1, min(size, HEADER) if source.random() < 0.5 else size))


def _flip(data: bytes, source: random.Random) -> tuple[bytes, str]:
    at, bit = _place(len(data), source), source.randrange(8)
    changed = bytearray(data)
    if data:
        changed[at] ^= 1 << bit
    return bytes(changed), f"bit {bit} of byte {at}"


def _set(data: bytes, source: random.Random) -> tuple[bytes, str]:
    at, length, value = _place(len(data), source), source.choice((1, 2, 8)), source.choice((0, 1, 0x7F, 0xFF))
    length = min(length, len(data) - at)
    return data[:at] + bytes([value]) * length + data[at + length :], f"{length} bytes at {at} to {value}"


def _zero(data: bytes, source: random.Random) -> tuple[bytes, str]:
    at = _place(len(data), source)
    length = min(source.choice(LENGTHS), len(data) - at)
    return data[:at] + bytes(length) + data[at + length :], f"{length} bytes at {at}"


def _swap(data: bytes, source: random.Random) -> tuple[bytes, str]:
    length = min(source.choice(LENGTHS), len(data) // 2)
    first = _place(max(1, len(data) - 2 * length), source)
    second = source.randrange(first + length, max(first + length + 1, len(data) - length + 1))
    parts = data[second : second + length], data[first + length : second], data[first : first + length]
    return data[:first] + b"".join(parts) + data[second + length :], f"{length} bytes at {first} and {second}"


def _truncate(data: bytes, source: random.Random) -> tuple[bytes, str]:
    size = _place(len(data), source)
    return data[:size], f"to {size} of {len(data)} bytes"


def _insert(data: bytes, source: random.Random) -> tuple[bytes, str]:
    at, more = _place(len(data), source), source.randbytes(source.choice(LENGTHS))
    return data[:at] + more + data[at:], f"{len(more)} random bytes at {at}"


def _delete(data: bytes, source: random.Random) -> tuple[bytes, str]:
    at, length = _place(len(data), source), source.choice(LENGTHS)
    return data[:at] + data[at + length :], f"{length} bytes at {at}"


def _duplicate(data: bytes, source: random.Random) -> tuple[bytes, str]:
    at, length = _place(len(data), source), source.choice(LENGTHS)
    return data[: at + length] + data[at:], f"{length} bytes at {at}"


MUTATIONS: dict[str, Callable[[bytes, random.Random], tuple[bytes, str]]] = {
    "flip": _flip,
    "set": _set,
    "zero": _zero,
    "swap": _swap,
    "truncate": _truncate,
    "insert": _insert,
    "delete": _delete,
    "duplicate": _duplicate,
}
