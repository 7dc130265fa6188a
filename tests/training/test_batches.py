"""The thread that prepares batches while the steps before them run."""

import threading

import pytest
import torch

from maskgit_cli.config.training import TrainConfig
from maskgit_cli.formats.tokens import open_tokens
from maskgit_cli.training import batches
from maskgit_cli.training.batches import Batches, make_batch

CPU = torch.device("cpu")
CONFIG = TrainConfig(batch_size=8, steps=9, drop_label=0.1)


@pytest.fixture
def data(tokens):
    return open_tokens(tokens)


def take(data, steps):
    """The batches of these steps, in this order."""
    with Batches(data, CONFIG, CPU) as coming:
        return [coming.take(step) for step in steps]


@pytest.mark.parametrize("steps", [[1, 2, 3, 9], [5, 6, 2, 3, 3, 9, 1]])
def test_any_order_of_steps_has_the_batches_of_these_steps(data, steps):
    for step, batch in zip(steps, take(data, steps), strict=True):
        for found, wanted in zip(batch, make_batch(step, data, CONFIG, CPU), strict=True):
            assert torch.equal(found, wanted)


def test_the_next_steps_are_prepared_meanwhile(data, monkeypatch):
    made, ready, whole = [], threading.Event(), batches.host_batch

    def counted(step, *others):
        batch = whole(step, *others)
        made.append(step)
        if step == 6:
            ready.set()
        return batch

    monkeypatch.setattr(batches, "host_batch", counted)
    with Batches(data, CONFIG, CPU) as coming:
        coming.take(4)
        assert ready.wait(20)
        assert made == [4, 5, 6]
        coming.take(9)
    assert made[-1] <= 9, "there is no step after the last one"


def test_an_error_of_the_thread_surfaces_at_its_step(data, monkeypatch):
    whole = batches.host_batch

    def failing(step, *others):
        if step == 3:
            raise OSError("the disk is gone")
        return whole(step, *others)

    monkeypatch.setattr(batches, "host_batch", failing)
    with Batches(data, CONFIG, CPU) as coming:
        for step in (1, 2):
            coming.take(step)
        with pytest.raises(OSError, match="gone"):
            coming.take(3)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_thread_ends_with_its_context(data, error):
    def fail():
        with Batches(data, CONFIG, CPU) as coming:
            coming.take(1)
            raise error

    before = threading.active_count()
    with pytest.raises(error):
        fail()
    assert threading.active_count() == before
