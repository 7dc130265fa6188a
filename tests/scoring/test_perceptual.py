"""Perceptual distances: which is taken, and the published weights of ST-LPIPS where they are installed."""

import importlib.metadata

import pytest
import torch

from maskgit_cli.errors import ConfigError, WeightsError
from maskgit_cli.networks.st_lpips import STLPIPS
from maskgit_cli.runtime import pretrained
from maskgit_cli.runtime.pretrained import ST_LPIPS, packaged
from maskgit_cli.scoring import perceptual
from maskgit_cli.scoring.perceptual import load_perceptual, st_lpips

CPU = torch.device("cpu")
# Of the package's own code, version 0.0.2, with its weights.
PUBLISHED = (0.2585937976837158, 0.495340496301651)


def installed() -> bool:
    try:
        return bool(importlib.metadata.files(ST_LPIPS.package))
    except importlib.metadata.PackageNotFoundError:
        return False


class Found:
    """A file of a distribution."""

    def __init__(self, path):
        self.path, self.name = path, path.name

    def locate(self):
        return self.path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The path of a file of the package, and a function that writes it; any bytes are the published ones."""
    path = tmp_path / ST_LPIPS.name

    def holds(value):
        torch.save(value, path)
        monkeypatch.setattr(pretrained, "difference", lambda *arguments: None)
        monkeypatch.setattr(importlib.metadata, "files", lambda name: [Found(path)])

    return path, holds


def images(side=64):
    row = torch.arange(side, dtype=torch.float32)
    waves = [torch.sin(row[:, None] * a + row * b) for a, b in ((0.2, 0.1), (0.05, 0.3), (0.4, 0.02))]
    return torch.stack(waves)[None].repeat(2, 1, 1, 1)


@pytest.mark.skipif(not installed(), reason="stlpips-pytorch is not installed")
def test_published_weights():
    """Distances that the package's own code computed of the same images."""
    found = load_perceptual("st-lpips", 64, CPU)
    assert (found.name, found.key) == ("st-lpips", "st_lpips")
    noise = torch.sin(torch.arange(2 * 3 * 64 * 64, dtype=torch.float64) * 1.37).reshape(2, 3, 64, 64).float()
    given = images()
    others = torch.stack([given[0] * 0.5, (given[1] + 0.5 * noise[1]).clamp(-1, 1)])
    assert found.distance(given, given).tolist() == [0, 0]
    assert found.distance(given, others).tolist() == pytest.approx(PUBLISHED, abs=1e-5)


def test_the_package_is_named_where_it_is_absent(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(WeightsError, match="pip install stlpips-pytorch"):
        st_lpips(CPU)
    monkeypatch.setattr(importlib.metadata, "files", lambda name: None)
    with pytest.raises(WeightsError, match=ST_LPIPS.name):
        packaged(ST_LPIPS)


def test_other_bytes_are_refused(package, monkeypatch):
    path, _ = package
    path.write_bytes(b"other")
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [Found(path)])
    with pytest.raises(WeightsError, match=ST_LPIPS.sha256):
        packaged(ST_LPIPS)


def test_weights_of_another_network_are_refused(package):
    path, holds = package
    for value in ({"net.slice1.0.weight": torch.zeros(3)}, [1], {"x": 1}):
        holds(value)
        with pytest.raises(WeightsError, match=path.name):
            st_lpips(CPU)


def test_weights_are_loaded_from_the_file(package):
    _, holds = package
    torch.manual_seed(0)
    network = STLPIPS()
    holds(network.state_dict())
    given, others = images(24), images(24).flip(-1)
    with torch.no_grad():
        wanted = network(given, others)
    assert torch.allclose(load_perceptual("st-lpips", 24, CPU).distance(given, others), wanted, atol=1e-6)


def test_auto_takes_the_first_and_names_both_where_there_is_none(monkeypatch):
    asked = []

    def absent(device, reporter, download):
        asked.append(download)
        raise WeightsError("absent")

    def present(device, reporter, download):
        return lambda a, b: (a - b).abs().mean((1, 2, 3))

    monkeypatch.setitem(perceptual.NETWORKS, "lpips", perceptual._Network(absent, 16))
    monkeypatch.setitem(perceptual.NETWORKS, "st-lpips", perceptual._Network(present, 18))
    assert load_perceptual("auto", 18, CPU, download=False).name == "st-lpips"
    assert asked == [False]
    with pytest.raises(WeightsError, match=r"lpips: absent; st-lpips: .*16 px"):
        load_perceptual("auto", 16, CPU)
    with pytest.raises(ConfigError, match="--perceptual st-lpips: images of 16 px"):
        load_perceptual("st-lpips", 16, CPU)
