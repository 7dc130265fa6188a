"""Reading the documents: their code blocks, and their tables as specifications of files."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")


class Block(NamedTuple):
    """A fenced block: its language, "" for none, and the number of its first line."""

    language: str
    text: str
    line: int


class Document:
    """A Markdown file's fenced blocks, headings, and tables by the anchor of their heading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blocks: list[Block] = []
        self.prose: list[str] = []
        self.tables: dict[str, list[list[list[str]]]] = {"": []}
        fence, anchor, above = None, "", ""
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.startswith("```"):
                if fence is None:
                    fence = (line[3:].strip(), number + 1, [])
                else:
                    self.blocks.append(Block(fence[0], "\n".join(fence[2]) + "\n", fence[1]))
                    fence = None
                continue
            if fence is not None:
                fence[2].append(line)
                continue
            self.prose.append(line)
            if line.startswith("#"):
                anchor = slug(line.lstrip("# "))
                assert anchor not in self.tables, f"{path.name} has two headings {anchor}"
                self.tables[anchor] = []
            if line.startswith("|"):
                if not above.startswith("|"):
                    self.tables[anchor].append([])
                cells = [cell.strip() for cell in line.strip()[1:-1].split("|")]
                if not set(line) <= set("|-: "):
                    self.tables[anchor][-1].append(cells)
            above = line
        assert fence is None, f"{path.name}: the block of line {fence[1]} has no end"

    def rows(self, anchor: str, table: int = 0) -> list[list[str]]:
        """The cells of a table, without its heading."""
        return self.tables[anchor][table][1:]

    def column(self, anchor: str, column: int = 0, table: int = 0) -> list[str]:
        """Everything in backticks in one column of a table."""
        return [name for row in self.rows(anchor, table) for name in CODE.findall(row[column])]

    def links(self) -> list[str]:
        return LINK.findall("\n".join(self.prose))


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# --- tables as specifications -----------------------------------------------------------------------


def _is_list(of):
    return lambda value: isinstance(value, list) and all(map(of, value))


def _is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value):
    return isinstance(value, str)


KINDS = {
    "integer": _is_integer,
    "number": lambda value: _is_integer(value) or isinstance(value, float),
    "text": _is_text,
    "boolean": lambda value: isinstance(value, bool),
    "sha256": lambda value: _is_text(value) and re.fullmatch("[0-9a-f]{64}", value) is not None,
    "object": lambda value: isinstance(value, dict),
    "list of text": _is_list(_is_text),
    "list of integer": _is_list(_is_integer),
    "list of number": _is_list(lambda value: _is_integer(value) or isinstance(value, float)),
    "list": lambda value: isinstance(value, list),
    "list of point": _is_list(lambda value: isinstance(value, dict)),
    "list of best": _is_list(lambda value: isinstance(value, dict)),
    "list of parent": _is_list(lambda value: isinstance(value, dict)),
    "null": lambda value: value is None,
    "int64": lambda value: isinstance(value, np.int64),
    "float64": lambda value: isinstance(value, np.float64),
    "bool": lambda value: isinstance(value, np.bool_),
}


@dataclass(frozen=True)
class Field:
    """A row of a table of keys."""

    name: str
    kinds: list[str]
    optional: bool
    below: str | None  # anchor of the table that specifies the object, or each object of the list

    @classmethod
    def of(cls, row: list[str]) -> "Field":
        (name,) = CODE.findall(row[0])
        link = LINK.search(row[1])
        words = LINK.sub(lambda found: found[0][1:].split("]")[0], row[1])
        words = words.split(", see ")[0].removeprefix("JSON text, ")
        kinds = re.split(r",? or ", words.replace(", optional", ""))
        assert set(kinds) <= KINDS.keys(), f"{name}: unknown type {kinds}"
        return cls(name, kinds, "optional" in row[1], link[1].removeprefix("#") if link else None)

    def names(self, key: str) -> bool:
        """Whether this row is that of a key; ``NAME`` is any."""
        return re.fullmatch(re.escape(self.name).replace("NAME", ".+"), key) is not None


class Specification:
    """Compares records with a document's tables, and remembers which rows it has seen."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.met: dict[str, set[str]] = {}

    def fields(self, anchor: str) -> list[Field]:
        return [Field.of(row) for row in self.document.rows(anchor)]

    def check(self, record: dict[str, Any], anchor: str) -> None:
        """Every key of a record is in the table, with its type, and every required row is a key."""
        fields = self.fields(anchor)
        met = self.met.setdefault(anchor, set())
        here = set(self._walk(record, fields, "", anchor))
        met |= here
        lacking = {field.name for field in fields if not field.optional} - here
        assert not lacking, f"#{anchor} has {lacking}, which the file does not have"

    def _walk(self, record, fields, prefix, anchor):
        for key, value in record.items():
            field = next((field for field in fields if field.names(prefix + key)), None)
            if field is None:
                assert isinstance(value, dict), f"#{anchor} does not have {prefix + key}"
                yield from self._walk(value, fields, f"{prefix}{key}.", anchor)
                continue
            right = any(KINDS[kind](value) for kind in field.kinds)
            assert right, f"#{anchor}: {field.name} is {value!r}, not {field.kinds}"
            if field.below is not None:
                for item in value if isinstance(value, list) else [value]:
                    self.check(item, field.below)
            yield field.name

    def unmet(self) -> dict[str, set[str]]:
        """Rows of the tables used that no record had."""
        named = {anchor: {field.name for field in self.fields(anchor)} for anchor in self.met}
        return {
            anchor: names - self.met[anchor] for anchor, names in named.items() if names - self.met[anchor]
        }


def check_shape(shape: tuple[int, ...], text: str, known: dict[str, int], free: bool = False) -> None:
    """Compare a shape with one in a table, ``(N, 2·k-1)``. A letter that is not known yet becomes known.

    With ``free``, unknown letters match any number.
    """
    wanted = [word.strip() for word in text.strip("()").split(",") if word.strip()]
    assert len(wanted) == len(shape), (shape, text)
    for size, word in zip(shape, wanted, strict=True):
        if word.isidentifier() and word not in known:
            if not free:
                known[word] = size
            continue
        assert size == eval(word.replace("·", "*"), {}, known), (shape, text, known)
