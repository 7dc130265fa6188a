"""Options, places and the summary of the tests of faults.

``pytest tests/faults`` takes a sample of a few minutes. ``--fault-runs N`` takes N times as many random
cases, and every place at which a process can be killed. ``--fault-seed S`` repeats a single random case.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_hub import serving

from faults import workshop
from faults.known import KNOWN
from faults.stages import STAGES, Place
from faults.undisturbed import Undisturbed
from faults.verdict import name_of

HERE = Path(__file__).parent
# Processes are forked after everything is imported, and limited in memory, which other systems do not allow.
collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer/config.json", "tokenizer/model.safetensors")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption(
        "--fault-runs",
        type=int,
        default=1,
        metavar="N",
        help="Take N times as many random cases, and all kill points.",
    )
    group.addoption("--fault-seed", type=int, metavar="S", help="Repeat the random case of this seed.")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse marks of tests that are not there any more."""
    names = {name_of(item) for item in items if item.path.parent == HERE}
    whole = {Path(word).resolve() for word in config.args if "::" not in word} & {HERE, *HERE.parents}
    unmet = KNOWN.keys() - names
    if config.getoption("fault_runs", 1) > 1:  # a test of many cases has no limit of its own
        for item in (item for item in items if item.path.parent == HERE):
            item.add_marker(pytest.mark.timeout(0))
    if whole and unmet and not collect_ignore_glob:
        raise pytest.UsageError(f"tests/faults/known.py marks tests that are not there: {sorted(unmet)}")


def pytest_terminal_summary(terminalreporter) -> None:
    """Cases, findings and seconds of each file."""
    cases, findings, seconds, tests = (defaultdict(float) for _ in range(4))
    reports = (r for group in terminalreporter.stats.values() for r in group)
    for report in (r for r in reports if isinstance(r, pytest.TestReport)):
        part = report.nodeid.split("::")[0].rpartition("/")[2]
        if "/faults/" not in f"/{report.nodeid}":
            continue
        seconds[part] += report.duration
        if report.when == "call":
            found = dict(report.user_properties)
            tests[part] += 1
            cases[part] += found.get("cases", 1)
            findings[part] += found.get("findings", 0)
    if cases:
        terminalreporter.section("faults")
        terminalreporter.write_line(f"{'part':<28}{'tests':>7}{'cases':>8}{'findings':>10}{'seconds':>9}")
        for part in sorted(cases):
            terminalreporter.write_line(
                f"{part:<28}{tests[part]:>7.0f}{cases[part]:>8.0f}{findings[part]:>10.0f}{seconds[part]:>9.1f}"
            )


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Place]:
    """The workshop, one for all workers, and a hub that has its models."""
    root = tmp_path_factory.getbasetemp()
    given = workshop.make((root if worker_id == "master" else root.parent) / "workshop")
    with serving() as hub:
        for name, model in (("tiny", "model"), ("other", "other-model")):
            hub.files |= {f"user/{name}/{file}": (given / model / file).read_bytes() for file in MODEL_FILES}
        yield Place(given, hub.url)


class Seeds:
    """The random cases of a test: numbers from which everything in a case follows."""

    def __init__(self, config: pytest.Config) -> None:
        self.runs: int = config.getoption("fault_runs", 1)
        self.only: int | None = config.getoption("fault_seed", None)

    def take(self, count: int) -> list[int]:
        """The seeds of a test that has ``count`` of them in the quick set."""
        return list(range(count * self.runs)) if self.only is None else [self.only]

    def some(self, things: list, count: int) -> list:
        """``count`` of the things, the first and last among them; all of them in a longer run."""
        if self.runs > 1 or len(things) <= count:
            return things
        return [things[i * (len(things) - 1) // (count - 1)] for i in range(count)]


@pytest.fixture(scope="session")
def seeds(pytestconfig: pytest.Config) -> Seeds:
    """How many random cases to take."""
    return Seeds(pytestconfig)


class _Results(dict[str, Undisturbed]):
    """Undisturbed results by stage, made when they are first asked for."""

    def __init__(self, place: Place, factory: pytest.TempPathFactory) -> None:
        super().__init__()
        self.place, self.factory = place, factory

    def __missing__(self, name: str) -> Undisturbed:
        self[name] = Undisturbed(STAGES[name], self.place, self.factory.mktemp(name))
        return self[name]


@pytest.fixture(scope="session")
def results(place: Place, tmp_path_factory: pytest.TempPathFactory) -> _Results:
    """Undisturbed results by stage."""
    return _Results(place, tmp_path_factory)
