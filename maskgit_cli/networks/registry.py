"""Networks of the entries in :mod:`maskgit_cli.config.networks`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from maskgit_cli.config.networks import NetworkEntry
from maskgit_cli.errors import ArtifactError

E = TypeVar("E", bound=NetworkEntry)


def build(entry: NetworkEntry, config: Any) -> Any:
    """The network of an entry, with initial weights.

    Args:
        entry: of a transformer or a tokenizer.
        config: an instance of ``entry.config``.
    """
    module, name = entry.path.split(":")
    return getattr(import_module(f"maskgit_cli.networks.{module}"), name)(config)


def network_of(record: Mapping[str, Any], entries: Mapping[str, E], default: str, path: Path) -> E:
    """The entry of the network that an artifact's record names; without a name, the ``default``.

    Raises:
        ArtifactError: this package has no such network.
    """
    name = record.get("network", default)
    if not isinstance(name, str) or name not in entries:
        raise ArtifactError(
            f"{path / 'config.json'} names network {name!r}; this package has {', '.join(entries)}"
        )
    return entries[name]
