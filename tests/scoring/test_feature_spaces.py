"""Feature extractors of other networks, EfficientNet-Lite0, DINOv2 and CLIP, by their libraries' numbers."""

import hashlib
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from local_hub import serving
from PIL import Image

from maskgit_cli.config.features import EFFICIENTNET_SHA256, EXTRACTORS
from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.errors import ConfigError, WeightsError
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.networks.efficientnet import EfficientNetLite0
from maskgit_cli.runtime.pretrained import HubFile, pretrained_from_hub
from maskgit_cli.scoring import vision
from maskgit_cli.scoring.features import Resources, clip, dinov2, efficientnet, load_extractor
from maskgit_cli.scoring.features.dinov2 import positions_of
from maskgit_cli.scoring.stages import fid_stats, score
from maskgit_cli.scoring.vision import bicubic_square

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}


def random_images(n, height, width=None, seed=0):
    """Smooth images, whose resizing is not all about noise."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (n, 3, 5, 5), generator=generator).float()
    large = torch.nn.functional.interpolate(small, (height, width or height), mode="bilinear")
    return large.round().to(torch.uint8)


def random_files(folder, n, seed):
    folder.mkdir()
    for i, image in enumerate(random_images(n, 20, seed=seed)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return folder


def alone(extractor, images):
    return np.concatenate([extractor(image[None]).features for image in images])


# --- EfficientNet-Lite0 -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier_file(tmp_path_factory):
    """Random weights under the names of the published file."""
    torch.manual_seed(0)
    state = EfficientNetLite0().state_dict()
    names = {name: ".".join(p if p.isdigit() else f"_{p}" for p in name.split(".")[:-1]) for name in state}
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save({f"{names[name]}.{name.split('.')[-1]}": tensor for name, tensor in state.items()}, path)
    return path


def test_classifier_features_are_batch_invariant(classifier_file):
    extractor = load_extractor("efficientnet-lite0", Resources(weights=classifier_file))
    images = random_images(3, 224)
    result = extractor(images)
    assert result.features.shape == (3, 1280)
    assert result.logits.shape == (3, 1000)
    assert np.array_equal(result.features, alone(extractor, images))
    assert extractor.sha256 == sha256_file(classifier_file)


def test_scores_with_other_weights_name_them(classifier_file, tmp_path):
    sides = [random_files(tmp_path / name, 6, seed) for seed, name in enumerate("ab")]
    config = ScoreConfig(features="efficientnet-lite0", metrics=("fid", "is", "cmmd"), splits=2)
    record = score(*sides, config, out=tmp_path / "s.json", weights=classifier_file, device="cpu").record
    ending = f"_efficientnet-lite0_{sha256_file(classifier_file)[:8]}"
    names = ("frechet", "classifier_score", "classifier_score_std")
    assert set(record["metrics"]) == {name + ending for name in names}
    assert set(record["left_out"]) == {"cmmd"}
    assert not any("Inception" in text for text in record["warnings"])


def test_the_published_classifier(tmp_path):
    pytest.importorskip(efficientnet.PACKAGE)
    extractor = load_extractor("efficientnet-lite0", Resources())
    assert extractor.sha256 == EFFICIENTNET_SHA256
    logits = extractor(random_images(4, 224)).logits
    assert logits.std() > 0.5  # a trained classifier's


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(WeightsError, match=r"maskgit-cli\[offline\]"):
        load_extractor("efficientnet-lite0", Resources())


def test_another_file_in_the_package_is_refused(monkeypatch, tmp_path):
    (tmp_path / "package_of_weights" / "models").mkdir(parents=True)
    (tmp_path / "package_of_weights" / "__init__.py").touch()
    (tmp_path / "package_of_weights" / efficientnet.FILE).write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(efficientnet, "PACKAGE", "package_of_weights")
    with pytest.raises(WeightsError, match=EFFICIENTNET_SHA256):
        load_extractor("efficientnet-lite0", Resources())


@pytest.mark.parametrize("content", [None, {}, [1], {"_fc.weight": torch.ones(3)}, b"not a checkpoint"])
def test_files_that_are_not_the_classifier(tmp_path, content):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=str(path)):
        load_extractor("efficientnet-lite0", Resources(weights=path))


# --- vision transformers ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Directories of tiny networks as the library writes them, by the extractor's name."""
    transformers = pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    configs = {
        "dinov2": transformers.Dinov2Config(**SIZES, image_size=70, initializer_range=0.2),
        "clip": transformers.CLIPVisionConfig(
            **SIZES, image_size=42, intermediate_size=32, projection_dim=8, initializer_factor=5.0
        ),
    }
    made = {
        "dinov2": transformers.Dinov2Model(configs["dinov2"]),
        "clip": transformers.CLIPVisionModelWithProjection(configs["clip"]),
    }
    for name, network in made.items():
        network.save_pretrained(root / name)
    return {name: (root / name, network.eval()) for name, network in made.items()}


def as_pillow(image, side):
    """An image resized by Pillow, as float64 (3, side, side)."""
    resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).double()


@pytest.mark.parametrize("shape", [(64, 64), (300, 300), (60, 90), (91, 64)])
def test_resizing_is_pillows(shape):
    images = random_images(2, *shape)
    height, width = shape
    short = min(shape)
    top, left = (height - short) // 2, (width - short) // 2
    for image, own in zip(images, bicubic_square(images, 224), strict=True):
        expected = as_pillow(image[:, top : top + short, left : left + short], 224)
        assert (own.round().clamp(0, 255).double() - expected).abs().max() <= 1


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_features_are_the_librarys_own(networks, name):
    """Against the library's network and its usual preprocessing, written out."""
    folder, network = networks[name]
    extractor = load_extractor(name, Resources(weights=folder))
    side = 224 if name == "dinov2" else 42
    images = random_images(3, side)
    if name == "dinov2":
        mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    else:
        mean = np.array([0.48145466, 0.4578275, 0.40821073])
        deviation = np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = (images.permute(0, 2, 3, 1).numpy() / 255 - mean) / deviation
    with torch.no_grad():
        out = network(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
    if name == "clip":
        expected = out.image_embeds / out.image_embeds.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(extractor(images).features, expected, atol=1e-5)
    else:
        # The library interpolates positions without the published network's offset, a small difference.
        features = extractor(images).features
        assert np.abs(features - out.pooler_output.numpy()).max() < 0.1
        positions = extractor.network.embeddings.position_embeddings
        network.embeddings.position_embeddings, before = positions, network.embeddings.position_embeddings
        with torch.no_grad():
            expected = network(torch.from_numpy(pixels).permute(0, 3, 1, 2).float()).pooler_output
        network.embeddings.position_embeddings = before
        np.testing.assert_allclose(features, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["dinov2", "clip"])
@pytest.mark.parametrize("threads", [1, 2])
def test_features_are_batch_invariant_at_any_size(networks, name, threads):
    extractor = load_extractor(name, Resources(weights=networks[name][0]))
    images = random_images(4, 30, 40)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    result = extractor(images)
    torch.set_num_threads(before)
    assert result.features.shape == (4, extractor.dimension)
    assert result.logits is None
    assert np.array_equal(result.features, alone(extractor, images))


def test_positions_keep_a_linear_field():
    """The interpolated grid samples the same field as the old one, with the offset, except at the border.

    Without the offset, the last of these places would be off by 0.2.
    """
    old, new = 20, 8
    rows = torch.arange(old).float()[:, None].expand(old, old)
    field = torch.stack([rows, rows.T], dim=2).reshape(1, old * old, 2)
    positions = positions_of(torch.cat([torch.full((1, 1, 2), 7.0), field], dim=1), new)
    assert positions.shape == (1, 1 + new * new, 2)
    assert positions[0, 0].tolist() == [7.0, 7.0]
    grid = positions[0, 1:].reshape(new, new, 2)
    centers = (torch.arange(new) + 0.5) * old / (new + 0.1) - 0.5
    np.testing.assert_allclose(grid[1:-1, 3, 0], centers[1:-1], atol=0.06)
    np.testing.assert_allclose(grid[3, 1:-1, 1], centers[1:-1], atol=0.06)


def test_names_and_files_of_the_published_clip(networks, tmp_path):
    """Its file is a pickle of both encoders, and its config nests the settings of this one."""
    folder, network = networks["clip"]
    state = {**network.state_dict(), "text_model.final_layer_norm.weight": torch.ones(3)}
    torch.save(state | {"logit_scale": torch.tensor(1.0)}, tmp_path / "pytorch_model.bin")
    own = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "clip", "projection_dim": 8, "vision_config": own})
    )
    a, b = (load_extractor("clip", Resources(weights=path)) for path in (folder, tmp_path))
    images = random_images(2, 42)
    assert np.array_equal(a(images).features, b(images).features)
    assert a.sha256 == sha256_file(folder / "model.safetensors") != b.sha256
    file = load_extractor("clip", Resources(weights=tmp_path / "pytorch_model.bin"))
    assert file.sha256 == b.sha256


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_weights_that_do_not_fit(networks, name, tmp_path):
    folder, network = networks[name]
    state = network.state_dict()
    first = next(key for key in state if state[key].ndim > 1)
    cases = {
        "missing": {key: x for key, x in state.items() if key != first},
        "shape": {**state, first: torch.ones(2, 2)},
        "nan": {**state, first: torch.full_like(state[first], float("nan"))},
        "other": {"x": torch.ones(2)},
        "list": [1, 2],
    }
    for case, content in cases.items():
        (tmp_path / case).mkdir()
        (tmp_path / case / "config.json").write_bytes((folder / "config.json").read_bytes())
        torch.save(content, tmp_path / case / "pytorch_model.bin")
        with pytest.raises(WeightsError, match=r"pytorch_model\.bin"):
            load_extractor(name, Resources(weights=tmp_path / case))
    (tmp_path / "missing" / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_extractor(name, Resources(weights=tmp_path / "missing"))


def test_published_settings_are_of_the_published_files():
    """Their weights have the bytes of the files; what is left are names, shapes and a list of positions."""
    transformers = pytest.importorskip("transformers")
    sizes = dinov2.ARCHITECTURE.settings, clip.ARCHITECTURE.settings
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "projection_dim": 768}
    both = {"text_config": {**text, "num_attention_heads": 12}, "vision_config": dict(sizes[1])}
    with torch.device("meta"):
        networks = {
            dinov2.ARCHITECTURE.file: transformers.Dinov2Model(transformers.Dinov2Config(**sizes[0])),
            clip.ARCHITECTURE.file: transformers.CLIPModel(
                transformers.CLIPConfig(**both, projection_dim=768)
            ),
        }
    for file, network in networks.items():
        overhead = file.size - sum(4 * x.numel() for x in network.parameters())
        assert 0 < overhead < 250_000, file


def test_paths_without_weights(networks, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(WeightsError, match=str(path)):
            load_extractor("clip", Resources(weights=path))


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_a_missing_library_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(WeightsError, match=r"maskgit-cli\[vision\]"):
        load_extractor(name, Resources())


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_without_weights_and_network(networks, monkeypatch, tmp_path, name):
    monkeypatch.setenv("MASKGIT_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"MASKGIT_OFFLINE.*--weights"):
        load_extractor(name, Resources())


# --- the hub ----------------------------------------------------------------------------------------

DATA = b"weights" * 1000
FILE = HubFile("user/name", "model.safetensors", hashlib.sha256(DATA).hexdigest(), len(DATA))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    for name in ("MASKGIT_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.files["user/name/model.safetensors"] = DATA
        yield server


def test_downloaded_once_and_found_offline(hub, monkeypatch):
    assert pretrained_from_hub(FILE).read_bytes() == DATA
    monkeypatch.setenv("MASKGIT_OFFLINE", "1")
    assert pretrained_from_hub(FILE).read_bytes() == DATA
    assert len(hub.fetched("user/name/model.safetensors")) == 1


def test_other_bytes_on_the_hub_are_not_downloaded(hub):
    with pytest.raises(WeightsError, match="user/name"):
        pretrained_from_hub(FILE._replace(sha256="0" * 64))
    assert hub.fetched("user/name/model.safetensors") == []


def test_another_file_in_the_cache_is_refused(hub):
    path = pretrained_from_hub(FILE)
    with pytest.raises(WeightsError, match=str(path)):
        pretrained_from_hub(FILE._replace(sha256="0" * 64))


def test_published_weights_come_from_the_hub(hub, networks, monkeypatch):
    """With the settings of the published network, and its digest as the space's."""
    folder, network = networks["dinov2"]
    data = (folder / "model.safetensors").read_bytes()
    hub.files["user/name/model.safetensors"] = data
    file = HubFile("user/name", "model.safetensors", hashlib.sha256(data).hexdigest(), len(data))
    tiny = vision.Architecture("DINOv2", file, "Dinov2Model", "Dinov2Config", {**SIZES, "image_size": 70})
    loaded, digest = vision.load_network(tiny, Resources())
    assert digest == file.sha256
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])


# --- scores -----------------------------------------------------------------------------------------


def test_cmmd_is_a_score_of_clip(networks, tmp_path, monkeypatch):
    folder, _ = networks["clip"]
    sides = [random_files(tmp_path / name, 6, seed) for seed, name in enumerate("ab")]
    config = ScoreConfig(features="clip", metrics=("fid", "cmmd"))
    stored = fid_stats(
        [sides[1]], tmp_path / "b.npz", config, weights=folder, with_features=True, device="cpu"
    )
    digest = sha256_file(folder / "model.safetensors")
    record = score(sides[0], stored, config, out=tmp_path / "s.json", weights=folder, device="cpu").record
    assert set(record["metrics"]) == {f"frechet_clip_{digest[:8]}", f"mmd_clip_{digest[:8]}"}
    assert record["left_out"] == {}
    monkeypatch.setitem(EXTRACTORS, "clip", replace(EXTRACTORS["clip"], sha256=digest))
    named = score(sides[0], stored, config, out=tmp_path / "t.json", weights=folder, device="cpu").metrics
    assert named["cmmd"] == record["metrics"][f"mmd_clip_{digest[:8]}"] > 0


def test_weights_are_refused_where_they_have_no_effect(networks, tmp_path):
    folder, _ = networks["clip"]
    sides = [random_files(tmp_path / name, 3, seed) for seed, name in enumerate("ab")]
    with pytest.raises(ConfigError, match=str(folder)):
        score(*sides, ScoreConfig(features="vqgan"), weights=folder, device="cpu")
