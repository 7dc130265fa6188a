"""What a test finds, held against the faults that are known."""

from typing import NamedTuple

import pytest

from faults.known import KNOWN


class Finding(NamedTuple):
    """Something that must not happen and did.

    Attributes:
        kind: a word: ``lost``, ``stray``, ``silent`` ...
        case: how to repeat it.
        detail: what was seen.
    """

    kind: str
    case: str
    detail: str


def name_of(item: pytest.Item) -> str:
    """The name of a test in the list of known faults: its file and what follows."""
    path, _, rest = item.nodeid.partition("::")
    return f"{path.rpartition('/')[2]}::{rest}"


def judge(
    request: pytest.FixtureRequest, findings: list[Finding], cases: int = 1, known_as: str | None = None
) -> None:
    """End a test: passed without findings, expected to fail with those that are known, failed with others.

    A known fault that was not found fails too: it is cured, and its mark is to be removed. With
    ``--fault-seed``, which asks to see one case, nothing is known.

    Args:
        request: of the test.
        findings: what must not have happened.
        cases: how many were tried.
        known_as: another test, whose known faults may show in this one or not.
    """
    request.node.user_properties += [("cases", cases), ("findings", len(findings))]
    name = known_as or name_of(request.node)
    known = None if request.config.getoption("fault_seed", None) is not None else KNOWN.get(name)
    kinds = set(known.kinds) if known else set()
    new = [finding for finding in findings if finding.kind not in kinds]
    if new:
        text = "\n".join(f"{f.kind}: {f.case}\n    {f.detail}" for f in new[:8])
        pytest.fail(f"{len(new)} of {cases} cases failed, not counting what is known:\n{text}", pytrace=False)
    if findings and known:
        pytest.xfail(f"{len(findings)} of {cases}: {known.reason}")
    if known and known_as is None:
        pytest.fail(f"cured: remove {name!r} from tests/faults/known.py ({known.reason})", pytrace=False)
