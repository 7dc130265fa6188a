"""JSON that may come from anywhere: nesting, numbers and text that would fail later are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from maskgit_cli.errors import ArtifactError


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in bytes of UTF-8.

    Args:
        data: the bytes.
        path: of their file, for messages.

    Raises:
        ArtifactError: they are not a JSON object, are nested too deeply, or hold a number of thousands of
            digits or text that is not Unicode.
    """
    try:
        value = json.loads(data.decode())
        json.dumps(value, ensure_ascii=False).encode()  # an escaped half of a surrogate pair is no text
    except RecursionError:
        raise ArtifactError(f"{path} cannot be read as JSON: it is nested too deeply") from None
    except ValueError as error:  # not UTF-8, bad JSON, an endless integer, or half a surrogate pair
        raise ArtifactError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} does not hold a JSON object")
    return value
