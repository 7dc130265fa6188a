"""The thread that stores tokens, and the line on what tokenizing waits for."""

import threading
import time

import numpy as np
import pytest

from maskgit_cli.data.writing import WAITING, BackgroundWriter, Times
from maskgit_cli.errors import OutputError


class Recorder:
    """A writer that remembers its calls, and may wait or fail at the first of them."""

    def __init__(self, error=None, held=False):
        self.calls, self.error = [], error
        self.entered, self.free = threading.Event(), threading.Event()
        if not held:
            self.free.set()

    def write(self, indices, codes):
        self.entered.set()
        assert self.free.wait(20)
        if self.error:
            raise self.error
        self.calls.append((indices.tolist(), codes.tolist()))

    @property
    def rows(self):
        return [row for indices, _ in self.calls for row in indices]


def batch(*rows):
    return np.array(rows), np.array(rows) * 10


def store(writer, count, then=lambda: None):
    """Have so many batches of one row stored, then do something else."""
    with BackgroundWriter(writer) as storing:
        for i in range(count):
            storing.write(*batch(i))
        then()


def interrupted():
    raise KeyboardInterrupt


def test_all_batches_are_stored_at_the_end():
    writer = Recorder()
    with BackgroundWriter(writer) as storing:
        for i in range(3 * WAITING):
            storing.write(*batch(2 * i, 2 * i + 1))
    assert writer.rows == list(range(6 * WAITING))
    assert all(codes == [10 * row for row in rows] for rows, codes in writer.calls)


def test_what_waits_is_stored_together():
    writer = Recorder(held=True)
    with BackgroundWriter(writer) as storing:
        storing.write(*batch(0))
        assert writer.entered.wait(20)
        for i in range(1, 5):
            storing.write(*batch(i))
        writer.free.set()
    assert [rows for rows, _ in writer.calls] == [[0], [1, 2, 3, 4]]


def test_an_error_ends_the_batches():
    writer = Recorder(OutputError("the disk is full"))
    with pytest.raises(OutputError, match="full"):
        store(writer, 10 * WAITING, then=lambda: pytest.fail("all batches were taken"))
    assert writer.calls == []


def test_an_error_of_the_last_batch_surfaces_at_the_end():
    writer = Recorder(OutputError("the disk is full"), held=True)
    with pytest.raises(OutputError, match="full"):
        store(writer, 1, then=writer.free.set)


def test_an_interruption_stores_what_was_encoded():
    writer = Recorder()
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        store(writer, 2, then=interrupted)
    assert writer.rows == [0, 1]
    assert threading.active_count() == before


def test_the_longest_part_is_named():
    times = Times()
    assert list(times.of("decoding", iter([1, 2]))) == [1, 2]
    times.images = 8
    with times.measured("encoding"):
        time.sleep(0.05)
    assert "encoding" in times.bound(2, 4)
    assert "--workers" not in times.bound(2, 4)
    for _ in times.of("decoding", (time.sleep(0.1) or i for i in range(2))):
        pass
    line = times.bound(2, 4)
    assert "decoding" in line
    assert "--workers than 4" in line
    rate = float(line.split()[1])
    assert 16 / 0.25 * 0.2 < rate < 16 / 0.25 * 1.2
