"""Devices, precision, and several processes."""

import contextlib
import os

import pytest
import torch
from tiny_training import in_processes

from maskgit_cli.errors import ConfigError, OutputError
from maskgit_cli.runtime import distributed
from maskgit_cli.runtime.distributed import (
    World,
    autocast,
    barrier,
    broadcast_object,
    check_shared_disk,
    gather_objects,
    join,
    make_accelerator,
    plain_attention,
    resolve_device,
    resolve_dtype,
    world,
)

CPU = torch.device("cpu")


def test_one_process_needs_no_launcher():
    assert world() == World(0, 1)
    assert world().main
    assert gather_objects("x") == ["x"]
    assert broadcast_object("x") == "x"
    barrier()


def _join():
    place = world()
    assert place.size == 2
    assert place.main == (place.rank == 0)
    assert gather_objects({"rank": place.rank}) == [{"rank": 0}, {"rank": 1}]
    assert gather_objects([place.rank]) == [[0], [1]]
    assert broadcast_object(f"of {place.rank}") == "of 0"
    barrier()
    accelerator = make_accelerator(CPU, torch.float32)
    assert accelerator.num_processes == 2
    assert accelerator.reduce(torch.tensor(place.rank + 1.0)).item() == 3


def test_two_processes_join():
    in_processes(2, _join)


# --- waiting, and several nodes ---------------------------------------------------------------------


def _wait():
    assert join(2.5).size == 2
    backend = torch.distributed.distributed_c10d._get_default_group()._get_backend(CPU)
    assert backend.options._timeout.total_seconds() == 150
    assert world() == join(99)  # the group stays


def test_ranks_wait_as_long_as_asked():
    in_processes(2, _wait)


def test_one_process_waits_for_no_one():
    assert join(5) == World(0, 1)


def _nodes(root, shared):
    """Two ranks, each on a node of its own, with the same disk or another one."""
    os.environ["LOCAL_WORLD_SIZE"] = "1"
    distributed.VISIBLE_WITHIN = 0.0
    place = root / ("both" if shared else os.environ["RANK"])
    place.mkdir(exist_ok=True)
    os.chdir(place)
    output = distributed.Path("runs") / "new"
    if shared:
        check_shared_disk(output)
    else:
        with pytest.raises(OutputError, match=r"new: ranks 1 of 2 "):
            check_shared_disk(output)
    barrier()
    assert not (place / "runs").exists() or os.listdir(place / "runs") == []


@pytest.mark.parametrize("shared", [True, False])
def test_nodes_need_a_shared_disk(tmp_path, shared):
    in_processes(2, _nodes, tmp_path, shared)


def test_processes_of_one_node_share_its_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "gather_objects", lambda _: pytest.fail("asked the other ranks"))
    check_shared_disk(tmp_path / "new")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    check_shared_disk(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


# --- devices and precision --------------------------------------------------------------------------


def test_devices_by_name(monkeypatch):
    assert resolve_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert resolve_device("auto") == torch.device("cuda", 1)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="--device cuda:2"):
        resolve_device("cuda:2")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert resolve_device("auto") == CPU


@pytest.mark.parametrize("name", ["abacus", "cuda:x", "", "meta", "xpu"])
def test_unknown_devices(name):
    with pytest.raises(ConfigError, match=f"--device {name}: "):
        resolve_device(name)


def test_a_missing_gpu_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device cuda"):
        resolve_device("cuda")


def test_precision_by_name(monkeypatch):
    gpu = torch.device("cuda")
    assert [resolve_dtype(name, CPU) for name in ("auto", "fp32", "bf16")] == [
        torch.float32, torch.float32, torch.bfloat16
    ]  # fmt: skip
    assert resolve_dtype("fp16", gpu) == torch.float16
    with pytest.raises(ConfigError, match=r"--dtype fp8: .*bf16"):
        resolve_dtype("fp8", CPU)
    with pytest.raises(ConfigError, match="--dtype fp16"):
        resolve_dtype("fp16", CPU)


def test_auto_is_bf16_where_the_chosen_gpu_has_it(monkeypatch):
    """A Turing GPU next to an Ampere one: each is asked itself, and emulation does not count."""
    current = [0]

    @contextlib.contextmanager
    def device(chosen):
        before, current[0] = current[0], chosen.index
        yield
        current[0] = before

    def is_bf16_supported(including_emulation=True):
        return including_emulation or current[0] == 1

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert resolve_dtype("auto", torch.device("cuda", 0)) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda", 1)) == torch.bfloat16
    assert current == [0]


def test_products_run_at_the_requested_precision():
    a = torch.randn(4, 4)
    for dtype in (torch.float32, torch.bfloat16):
        with autocast(CPU, dtype):
            assert (a @ a).dtype == dtype


def test_a_script_may_train_twice_at_different_precision():
    for dtype, name in [(torch.float32, "no"), (torch.bfloat16, "bf16"), (torch.float32, "no")]:
        assert make_accelerator(CPU, dtype).mixed_precision == name


def test_processes_without_gpus_join_without_a_word_of_the_launcher(monkeypatch):
    """torchrun on a machine without GPUs sets WORLD_SIZE and nothing else."""
    asked = []

    class State:
        process_index, num_processes = 1, 2

        def __init__(self, cpu):
            asked.append(cpu)

    monkeypatch.setattr("accelerate.PartialState", State)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    for available, forced in [(False, ""), (True, ""), (True, "true")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        monkeypatch.setenv("ACCELERATE_USE_CPU", forced)
        assert distributed.world() == World(1, 2)
    assert asked == [True, False, True]


# --- attention --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tokens", "plain"),
    [(torch.bfloat16, 64, True), (torch.bfloat16, 1024, False), (torch.float32, 64, False)],
)
def test_short_sequences_attend_plainly_in_bf16_on_a_cpu(dtype, tokens, plain):
    def state():
        switches = torch.backends.cuda
        return switches.flash_sdp_enabled(), switches.fp16_bf16_reduction_math_sdp_allowed()

    before = state()
    bf16 = dtype == torch.bfloat16
    with plain_attention(CPU, bf16, tokens):
        assert state() == ((False, True) if plain else before)
    with pytest.raises(ValueError, match="on its way"), plain_attention(CPU, bf16, tokens):
        raise ValueError("on its way")
    assert state() == before
    with plain_attention(torch.device("cuda"), True, 64):
        assert state() == before


def test_plain_attention_is_attention():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 65, 16, dtype=torch.bfloat16) for _ in range(3))
    wanted = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double())
    with plain_attention(CPU, True, 64):
        found = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=0.02)
