"""Comparing the records of two results, for all formats alike."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from maskgit_cli.config.base import option

Record = Mapping[str, Any]
# What does not distinguish results: their writer, and a digest that is known only in the end.
_LABELS = ("format", "version", "created_by", "complete", "weights_sha256")
# Settings that follow from other settings, which are the ones to name where two records differ.
_DERIVED = ("labels_sha256", "edits", "windows", "points")
_DIGEST = re.compile("[0-9a-f]{64}")


def identity(record: Record) -> dict[str, Any]:
    """What equal results have in common: settings by their names, digests of parents by their kinds."""
    values = _flat(record.get("settings", {}))
    kinds: Counter[str] = Counter()
    for source in record.get("parents", []):
        kind = source["kind"]
        kinds[kind] += 1
        values[f"{kind} {kinds[kind]}" if kinds[kind] > 1 else kind] = source["sha256"][:12]
    # The rest mostly follows from these, which are the ones to name where two records differ.
    others = {key: value for key, value in record.items() if key not in (*_LABELS, "settings", "parents")}
    return values | {key: value for key, value in others.items() if key not in values}


def _flat(settings: Record) -> dict[str, Any]:
    """Settings by their names, those of a group (of the sampler, say) among the others."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        values |= value if isinstance(value, dict) else {key: value}
    return values


def record_difference(old: Record, new: Record) -> str | None:
    """The settings and the first parent in which two records differ, as text, or None.

    What follows from them is named only where nothing else differs.
    """
    before, after = identity(old), json.loads(json.dumps(identity(new)))
    keys = [key for key in after | before if before.get(key) != after.get(key)]
    if not keys:
        return None
    settings = {key for record in (old, new) for key in _flat(record.get("settings", {}))}
    asked = [key for key in keys if key in settings and key not in _DERIVED]
    if "method" in asked:  # the other settings of a sampler are its own
        samplers = [group for record in (old, new) for group in _groups(record) if "method" in group]
        asked = [key for key in asked if key == "method" or all(key not in group for group in samplers)]
    parents = [key for key in keys if key not in settings and key not in {**old, **new}]
    named = asked + parents[:1] or sorted(keys, key=lambda key: key in _DERIVED)[:1]
    return "; ".join(_difference(key, key in settings, before, after) for key in named)


def _groups(record: Record) -> list[dict[str, Any]]:
    """The groups of settings of a record."""
    return [value for value in record.get("settings", {}).values() if isinstance(value, dict)]


def _difference(key: str, is_setting: bool, before: Record, after: Record) -> str:
    """How one value differs, under the name of its option if it has one."""
    if key == "labels_sha256":
        return f"other classes in the file of --labels {_shown(after.get('labels'))}"
    name = option("sampler" if key == "method" else key) if is_setting else key
    return _changed(name, before.get(key), after.get(key))


def _changed(name: str, before: object, after: object) -> str:
    """How a value differs; of an object, its first value that differs."""
    if isinstance(before, dict) and isinstance(after, dict):
        key = next(key for key in after | before if before.get(key) != after.get(key))
        return _changed(f"{name}.{key}", before.get(key), after.get(key))
    return f"{name} {_shown(before)}, not {_shown(after)}"


def _shown(value: object) -> str:
    if isinstance(value, list):  # as it is typed: --range 0:64, --box 8,8,16,16
        value = (":" if len(value) == 2 else ",").join(map(str, value))
    text = "none" if value is None else str(value)
    if _DIGEST.fullmatch(text):
        return text[:12]
    return text if len(text) <= 60 else text[:57] + "..."
