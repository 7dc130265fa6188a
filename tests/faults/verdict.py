"""What a test finds, held against the faults that are known."""

from typing import NamedTuple

import pytest

from faults.known import KNOWN
from faults.processes import Outcome

# Within so many seconds a call that is refused has ended. What is known not to end is not waited for as long.
SECONDS, SECONDS_IF_KNOWN = 10.0, 1.5


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


def judge(request: pytest.FixtureRequest, findings: list[Finding], cases: int = 1) -> None:
    """End a test: passed without findings, expected to fail with those that are known, failed with others.

    A known fault that was not found fails too: it is cured, and its mark is to be removed. With
    ``--fault-seed``, which asks to see one case, nothing is known.

    Args:
        request: of the test.
        findings: what must not have happened.
        cases: how many were tried.
    """
    request.node.user_properties += [("cases", cases), ("findings", len(findings))]
    name, one = name_of(request.node), request.config.getoption("fault_seed", None) is not None
    known = None if one else KNOWN.get(name)
    new = [finding for finding in findings if known is None or finding.kind not in known.kinds]
    if new:
        text = "\n".join(f"{f.kind}: {f.case}\n    {f.detail}" for f in new[:40])
        pytest.fail(f"{len(new)} findings in {cases} cases, less what is known:\n{text}", pytrace=False)
    if known is not None and findings:
        pytest.xfail(f"{len(findings)} findings in {cases} cases: {known.reason}")
    if known is not None and known.strict:
        pytest.fail(f"cured: remove {name!r} from tests/faults/known.py ({known.reason})", pytrace=False)


def limit(request: pytest.FixtureRequest) -> float:
    """Seconds that a call of a test may take."""
    known = KNOWN.get(name_of(request.node))
    return SECONDS_IF_KNOWN if known and "hang" in known.kinds else SECONDS


def refusal(case: str, outcome: Outcome, named: tuple[str, ...]) -> list[Finding]:
    """What is wrong with how a call was refused: it ends with 1 or 2, in two lines at most, and names why.

    Args:
        case: how to repeat it.
        outcome: of the call, under ``PLAIN``.
        named: texts of which one must be in what it says.
    """
    lines = [text for text in outcome.stderr.splitlines() if text.strip()]
    last = " ".join(" ".join(lines[-2:]).split())
    if outcome.status is None:
        return [Finding("hang", case, str(outcome))]
    if outcome.status not in (1, 2):
        return [Finding("accepted" if outcome.status == 0 else "crash", case, str(outcome))]
    if "--debug" in last or "Traceback" in outcome.stderr:
        return [Finding("unforeseen", case, str(outcome))]
    if outcome.status == 1 and len([text for text in lines if not text.startswith("warning: ")]) > 2:
        return [Finding("lines", case, f"{len(lines)} lines: {outcome.stderr[-600:]}")]
    if not any(text in last for text in named):
        return [Finding("unnamed", case, f"none of {named} in: {last}")]
    return []
