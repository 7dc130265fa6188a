"""Every artifact, damaged at random: a reader gives the same data or one clear error, and nothing else."""

from collections import Counter

import pytest

from faults.artifacts import ARTIFACTS
from faults.fuzz import read_all
from faults.mutate import MUTATIONS, mutated
from faults.verdict import Finding, judge

# Cases of the quick set: 100, or what shows rare faults, or what takes its time.
CASES = {"tokens": 130, "sample-image": 60, "manifest": 24, "yaml": 60, "statistics": 150}
ACCEPTED = {"same", "refused", "other"}


@pytest.mark.parametrize("name", ARTIFACTS)
def test_damaged(name, place, seeds, tmp_path, request):
    readings = read_all(name, place.workshop, tmp_path, seeds.take(CASES.get(name, 100)))
    print(name, dict(Counter(reading.outcome for reading in readings)))
    findings = [
        Finding(reading.outcome, f"{name}, seed {reading.seed}: {reading.damage}", reading.detail)
        for reading in readings
        if reading.outcome not in ACCEPTED
    ]
    judge(request, findings, len(readings))


def test_damage_follows_from_its_seed():
    data = bytes(range(256)) * 40
    done = [mutated(data, str(seed)) for seed in range(200)]
    assert done == [mutated(data, str(seed)) for seed in range(200)]
    assert {words.split()[0] for _, words in done} == set(MUTATIONS)
    assert sum(changed != data for changed, _ in done) > 190
    assert mutated(b"", "0")[0] is not None
