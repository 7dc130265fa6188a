"""Pretrained weights: cached, offline, downloaded from a server on loopback, held to their digest."""

import hashlib

import pytest
import torch
from local_hub import serving
from torch_fidelity import sample_similarity_lpips

from maskgit_cli.config.features import INCEPTION_SHA256
from maskgit_cli.errors import OutputError, WeightsError
from maskgit_cli.runtime import pretrained as module
from maskgit_cli.runtime.download import RemoteFile, ask_server, download_file
from maskgit_cli.runtime.pretrained import INCEPTION, LPIPS_HEADS, VGG16, PretrainedFile, pretrained
from maskgit_cli.scoring import perceptual
from maskgit_cli.scoring.features.inception import inception_weights
from maskgit_cli.scoring.perceptual import lpips

DATA = b"weights" * 1000


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of torch's hub."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for name in ("MASKGIT_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def server():
    with serving() as hub:
        hub.files["files/weights.pth"] = DATA
        yield hub


def file_on(server, **changes) -> PretrainedFile:
    digest = hashlib.sha256(DATA).hexdigest()
    file = PretrainedFile(f"{server.url}/files/weights.pth", "weights.pth", digest, len(DATA), ("other.pth",))
    return file._replace(**changes)


def test_downloaded_once(server, cache):
    file = file_on(server)
    assert pretrained(file).read_bytes() == DATA
    assert pretrained(file) == cache / "weights.pth"
    assert len(server.fetched("files/weights.pth")) == 1
    assert [p.name for p in cache.iterdir() if not p.name.startswith(".")] == ["weights.pth"]


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"size": len(DATA) + 1}])
def test_other_bytes_are_not_kept(server, cache, changes):
    with pytest.raises(WeightsError):
        pretrained(file_on(server, **changes))
    assert not (cache / "weights.pth").exists()


@pytest.mark.parametrize("variable", ["MASKGIT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_uses_the_cache_under_any_of_its_names(server, cache, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(WeightsError, match=variable):
        pretrained(file_on(server))
    (cache / "other.pth").write_bytes(DATA)
    assert pretrained(file_on(server)) == cache / "other.pth"
    assert server.requests == []


def test_a_damaged_cache_is_an_error(server, cache):
    (cache / "weights.pth").write_bytes(DATA[:-1] + b"?")
    with pytest.raises(WeightsError, match="remove it"):
        pretrained(file_on(server))


def test_a_server_that_is_not_there_is_one_line(cache):
    file = PretrainedFile("http://127.0.0.1:9/files/weights.pth", "weights.pth", "0" * 64, 1)
    with pytest.raises(WeightsError) as error:
        pretrained(file)
    assert "\n" not in str(error.value)
    assert "127.0.0.1:9" in str(error.value)


def test_inception_is_the_published_file(cache, monkeypatch, tmp_path):
    assert (INCEPTION.size, INCEPTION.sha256) == (95_628_359, INCEPTION_SHA256)
    assert INCEPTION_SHA256[:8] in INCEPTION.name
    monkeypatch.setenv("MASKGIT_OFFLINE", "1")
    with pytest.raises(WeightsError) as error:
        inception_weights()
    for needed in (INCEPTION.name, INCEPTION_SHA256, str(cache), "--weights", "MASKGIT_OFFLINE"):
        assert needed in str(error.value)
    assert inception_weights(tmp_path / "mine.pth") == tmp_path / "mine.pth"


def test_lpips_is_available_offline_when_its_weights_are_cached(cache, monkeypatch):
    """torch-fidelity is asked only once both files are in the cache, and downloads nothing."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=LPIPS_HEADS.name):
        lpips(torch.device("cpu"))
    for file in (LPIPS_HEADS, VGG16):
        (cache / file.name).write_bytes(DATA)
    with pytest.raises(WeightsError, match="remove it"):  # other bytes than VGG16's
        lpips(torch.device("cpu"))
    monkeypatch.setattr(module, "check_pretrained", lambda file, path: None)
    asked = []

    def network(name):
        asked.append(name)
        return torch.nn.Module()

    monkeypatch.setattr("torch_fidelity.sample_similarity_lpips.SampleSimilarityLPIPS", network)
    lpips(torch.device("cpu"))
    assert asked == ["lpips-vgg16"]


def test_nothing_is_downloaded_where_that_is_not_wanted(server, cache):
    with pytest.raises(WeightsError, match=r"weights\.pth"):
        pretrained(file_on(server), download=False)
    assert server.fetched("files/weights.pth") == []
    (cache / "weights.pth").write_bytes(DATA)
    assert pretrained(file_on(server), download=False) == cache / "weights.pth"


def test_a_whole_partial_file_of_unknown_size(server, tmp_path):
    """Asking for what follows it would fail each time."""
    (tmp_path / "x.incomplete").write_bytes(DATA)
    path = download_file(RemoteFile(f"{server.url}/files/weights.pth", None, None), tmp_path / "x")
    assert path.read_bytes() == DATA


def test_the_disks_errors_are_not_the_servers(server, tmp_path, monkeypatch):
    url = f"{server.url}/files/weights.pth"

    def full(url, file, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maskgit_cli.runtime.download.http_get", full)
    with pytest.raises(OutputError, match="disk is full"):
        download_file(ask_server(url), tmp_path / "x")


def test_names_have_the_first_digits_of_the_digest():
    for file in (INCEPTION, VGG16):
        assert file.sha256.startswith(file.name.removesuffix(".pth").rsplit("-", 1)[1])
    assert LPIPS_HEADS.url == sample_similarity_lpips.URL_VGG16_LPIPS


def test_lpips_of_cached_weights_offline(cache, monkeypatch, capfd):
    """With small numbers in the published shapes; nothing is downloaded, nothing printed."""
    torch.manual_seed(0)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def save(file: PretrainedFile, tensors: dict) -> PretrainedFile:
        torch.save(tensors, cache / file.name)
        data = (cache / file.name).read_bytes()
        return file._replace(sha256=hashlib.sha256(data).hexdigest(), size=len(data))

    widths = (64, 128, 256, 512, 512)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, n, 1, 1) for i, n in enumerate(widths)}
    monkeypatch.setattr(perceptual, "LPIPS_HEADS", save(LPIPS_HEADS, heads))
    monkeypatch.setattr(perceptual, "VGG16", VGG16._replace(name="vgg.pth", sha256="", size=0))
    with pytest.raises(WeightsError, match=r"vgg\.pth .*HF_HUB_OFFLINE"):
        perceptual.lpips(torch.device("cpu"))

    class Small(torch.nn.Module):
        """VGG16's convolutions; its classifier would take 490 MB."""

        def __init__(self):
            super().__init__()
            import torchvision

            self.features = torchvision.models.vgg16(weights=None).features

    monkeypatch.setattr(sample_similarity_lpips, "torchvision_load_pretrained_vgg16", Small)
    monkeypatch.setattr(perceptual, "VGG16", save(VGG16, {}))
    distance = perceptual.lpips(torch.device("cpu"))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert distance(images, images).tolist() == [0, 0]
    assert (distance(images, -images) > 0).all()
    out, err = capfd.readouterr()
    assert "ownload" not in out + err
