"""``import``: what is recognized, what is assumed and reported, what is refused, and what is written."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from published import DATA, FAMILIES, GOOGLE, HALTON, V1, flax_array, golden, rewritten, rewritten_flax
from resigned import rewrite_record
from safetensors.torch import load_file, save
from test_torch_files import OBJECTS, TOUCH

from maskgit_cli.config.networks import (
    GoogleConfig,
    GoogleVQGANConfig,
    HaltonConfig,
    TransformerConfig,
    VQGANConfig,
)
from maskgit_cli.errors import ArtifactError, ConfigError, InputError, OutputError, WeightsError
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.formats.tensors import write_tensors
from maskgit_cli.formats.tokens import open_tokens
from maskgit_cli.formats.torch_files import read_checkpoint
from maskgit_cli.networks.halton import HaltonMaskGIT
from maskgit_cli.networks.loading import load_model, load_tokenizer
from maskgit_cli.runtime.progress import SILENT
from maskgit_cli.weights.importing import import_weights
from maskgit_cli.weights.names import PUBLISHED_NETWORKS, renamed
from maskgit_cli.weights.shapes import check_model_yaml


class Heard:
    """A reporter that keeps its messages."""

    def __init__(self):
        self.text = self.warned = ""

    def task(self, description, total, done=0, unit="images"):
        return SILENT.task(description, total)

    def info(self, text):
        self.text += text + "\n"

    def warn(self, text):
        self.warned += text + "\n"


def take(family, out, **options):
    return import_weights(
        [family.transformer], out, tokenizer=family.tokenizer, heads=family.heads, **options
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The three families, imported."""
    root = tmp_path_factory.mktemp("models")
    return {name: take(family, root / name) for name, family in FAMILIES.items()}


# --- what names and shapes determine -----------------------------------------------------------------

SIZES = {
    "maskgit": (
        TransformerConfig(48, 3, 4, 96, 48, 10, 8),
        VQGANConfig(32, 32, (1, 1, 2), 1, (8,), 16, 16, 48),
    ),
    "halton": (
        HaltonConfig(48, 2, 4, 12, 256, 64, 10, 8, registers=1),
        VQGANConfig(32, 32, (1, 1, 2), 2, (8,), 32, 8, 64),
    ),
    "google": (GoogleConfig(48, 2, 4, 96, 64, 10, 8), GoogleVQGANConfig(32, 32, (1, 1, 2), 1, 32, 64)),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_read_off_the_shapes(models, name):
    transformer, tokenizer = SIZES[name]
    model, native_tokenizer = load_model(models[name]), load_tokenizer(models[name])
    assert (model.config, native_tokenizer.config) == (transformer, tokenizer)
    assert model.resolution == 32
    assert model.tokenizer_sha256 == native_tokenizer.sha256


def test_a_vqgan_needs_no_yaml_for_what_shapes_tell(models, tmp_path):
    path = import_weights([V1.transformer, V1.tokenizer[0]], tmp_path / "model", heads=4)
    assert load_tokenizer(path).config == SIZES["maskgit"][1]
    assert load_tokenizer(path).sha256 == load_tokenizer(models["maskgit"]).sha256


def test_order_and_place_of_the_files_do_not_matter(models, tmp_path):
    files = [*reversed(V1.tokenizer), V1.transformer]
    other = import_weights(files, tmp_path / "model", heads=4)
    for name in ("config.json", "model.safetensors", "tokenizer/config.json", "tokenizer/model.safetensors"):
        native, published = ((path / name).read_bytes() for path in (other, models["maskgit"]))
        if name == "config.json":  # files and tokenizer stand in the same places of the record
            assert json.loads(native) == json.loads(published)
        else:
            assert native == published


def test_a_folder_of_published_files_is_a_tokenizer(models, tmp_path):
    folder = DATA / "maskgit_v1" / "VQGAN"
    path = import_weights([V1.transformer], tmp_path / "model", tokenizer=[folder], heads=4)
    assert load_tokenizer(path).sha256 == load_tokenizer(models["maskgit"]).sha256


def test_wrappers_prefixes_are_taken_off(models, tmp_path):
    def wrap(content):
        state = content["model_state_dict"]
        content["model_state_dict"] = {f"module._orig_mod.{key}": value for key, value in state.items()}

    file = rewritten(HALTON.transformer, tmp_path / "wrapped.pth", wrap)
    path = import_weights([file], tmp_path / "model", tokenizer=HALTON.tokenizer, heads=4)
    assert load_model(path).sha256 == load_model(models["halton"]).sha256


def test_a_bare_state_dict_is_taken(models, tmp_path):
    torch.save(torch.load(V1.transformer, weights_only=True)["model_state_dict"], tmp_path / "bare.pth")
    path = import_weights([tmp_path / "bare.pth"], tmp_path / "model", tokenizer=V1.tokenizer, heads=4)
    assert load_model(path).sha256 == load_model(models["maskgit"]).sha256
    assert load_model(path).step is None


def test_the_number_of_heads_is_the_published_one_and_reported(tmp_path):
    heard = Heard()
    path = import_weights([V1.transformer], tmp_path / "v1", tokenizer=V1.tokenizer, reporter=heard)
    assert "using 16, as published" in heard.text
    assert load_model(path).config.heads == 16
    heard = Heard()
    take(GOOGLE, tmp_path / "google", reporter=heard)
    assert "number of heads" not in heard.text
    heard = Heard()
    take(V1, tmp_path / "four", reporter=heard)
    assert "number of heads" not in heard.text


def widened(width, inner):
    """A Halton-MaskGIT of this width as its authors would publish it, with weights of no meaning."""
    family = next(f for f in PUBLISHED_NETWORKS if f.network == "halton")
    network = HaltonMaskGIT(HaltonConfig(width, 1, 1, inner, 8, 64, 10, 8))
    backwards = [(right, left) for left, right in family.names(network.config)]
    return {renamed(name, backwards): value for name, value in network.state_dict().items()}


@pytest.mark.parametrize(("width", "inner", "heads"), [(512, 510, 6), (512, 512, 8), (384, 384, 6)])
def test_haltons_heads_go_by_the_width(tmp_path, width, inner, heads):
    torch.save({"model_state_dict": widened(width, inner)}, tmp_path / "x.pth")
    path = import_weights([tmp_path / "x.pth"], tmp_path / "model", tokenizer=HALTON.tokenizer)
    config = load_model(path).config
    assert (config.heads, config.heads * config.head_width) == (heads, inner)


def test_heads_that_cannot_be_are_refused(tmp_path):
    refused = {
        (V1, 5): "--heads 5: must be a divisor of the width 48",
        (V1, 0): "--heads 0: must be 1 or more",
        (HALTON, 7): "--heads 7: must be a divisor of the 48",
        (HALTON, None): "48.*--heads",
        (GOOGLE, 3): "--heads 3: .*4",
    }
    for (family, heads), says in refused.items():
        with pytest.raises(ConfigError, match=says):
            take(family._replace(heads=heads), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# --- what is written --------------------------------------------------------------------------------


def test_a_model_names_what_it_was_made_from(models):
    for name, family in FAMILIES.items():
        record = json.loads((models[name] / "config.json").read_text())
        assert record["network"] == name
        assert record["parents"] == [
            {"kind": "published", "name": path.name, "sha256": sha256_file(path)}
            for path in (family.transformer, family.tokenizer[0])
        ]
        assert record["tokenizer_sha256"] == sha256_file(models[name] / "tokenizer" / "model.safetensors")
        native_tokenizer = json.loads((models[name] / "tokenizer" / "config.json").read_text())
        assert native_tokenizer["parents"] == record["parents"][1:]
        assert native_tokenizer["network"] == {"maskgit": "vqgan", "halton": "llamagen"}.get(
            name, "google_vqgan"
        )
    assert load_model(models["maskgit"]).step == 12345
    assert load_model(models["google"]).step is None


def test_a_thousand_classes_are_imagenets(models, tmp_path):
    assert load_model(models["halton"]).class_names == []

    def grow(content):
        state = content["model_state_dict"]
        state["cls_emb.weight"] = torch.zeros(1001, 48)

    file = rewritten(HALTON.transformer, tmp_path / "x.pth", grow)
    names = load_model(take(HALTON._replace(transformer=file), tmp_path / "model")).class_names
    assert (len(names), names[1]) == (1000, "goldfish")


def test_a_tokenizer_alone_becomes_a_tokenizer_directory(tmp_path):
    heard = Heard()
    path = import_weights(HALTON.tokenizer, tmp_path / "codec", reporter=heard)
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "model.safetensors"]
    native_tokenizer = load_tokenizer(path)
    assert native_tokenizer.config.resolution == 256
    assert "256 px, as published" in heard.text
    io = golden("halton/vqgan_io.npz")
    assert torch.equal(native_tokenizer.network.encode(io["images"]), io["indices"])
    assert load_tokenizer(import_weights(V1.tokenizer, tmp_path / "v1")).config.resolution == 32


def test_a_tokenizer_directory_may_stand_for_its_file(models, tmp_path):
    native_tokenizer = import_weights(HALTON.tokenizer, tmp_path / "codec")
    for place in (native_tokenizer, models["halton"]):
        out = tmp_path / f"with-{place.name}"
        model = load_model(import_weights([HALTON.transformer], out, tokenizer=[place], heads=4))
        assert model.tokenizer_sha256 == load_tokenizer(native_tokenizer).sha256
        kinds = [p["kind"] for p in json.loads((out / "config.json").read_text())["parents"]]
        assert kinds == ["published", "tokenizer"]


def test_streamed_tensors_are_the_bytes_that_safetensors_writes(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "é.b": torch.randn(3, 4),
        "a": torch.randn(2, 2, 2).half(),
        "c": torch.arange(5),
        "turned": torch.randn(4, 3).t(),
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "empty": torch.empty(0, 3),
        "bool": torch.tensor([True, False]),
    }
    write_tensors(tmp_path / "x.safetensors", tensors)
    plain = {name: tensor.contiguous() for name, tensor in sorted(tensors.items())}
    assert (tmp_path / "x.safetensors").read_bytes() == save(plain)
    assert torch.equal(load_file(tmp_path / "x.safetensors")["turned"], tensors["turned"])


# --- averaged weights -------------------------------------------------------------------------------


def both(path):
    def change(content):
        content["ema"] = {key: value * 2 for key, value in content["model"].items()}

    return rewritten(HALTON.tokenizer[0], path, change)


def test_averaged_weights_are_preferred(tmp_path):
    file = both(tmp_path / "both.pt")
    plain = load_tokenizer(import_weights(HALTON.tokenizer, tmp_path / "plain"))
    raw = load_tokenizer(import_weights([file], tmp_path / "raw", weights="raw"))
    ema = load_tokenizer(import_weights([file], tmp_path / "ema"))
    assert raw.sha256 == plain.sha256
    name = "encoder.conv_in.weight"
    assert torch.equal(ema.network.state_dict()[name], 2 * plain.network.state_dict()[name])
    settings = [json.loads((c.path / "config.json").read_text())["settings"] for c in (plain, ema)]
    assert settings == [{"weights": "raw"}, {"weights": "ema"}]


def test_raw_weights_that_are_not_there_are_not_replaced(tmp_path):
    file = rewritten(both(tmp_path / "both.pt"), tmp_path / "ema.pt", lambda content: content.pop("model"))
    assert load_tokenizer(import_weights([file], tmp_path / "ema")).sha256
    with pytest.raises(InputError, match="--weights raw"):
        import_weights([file], tmp_path / "raw", weights="raw")


# --- what is refused, with nothing written ----------------------------------------------------------


@pytest.fixture
def refused(tmp_path):
    """Import a family whose transformer or tokenizer was changed; nothing may be left behind."""

    def check(family, says, error=WeightsError, **options):
        out = tmp_path / "out" / "model"
        with pytest.raises(error, match=says) as caught:
            take(family, out, **options)
        assert "\n" not in str(caught.value)
        assert not out.parent.exists()

    return check


def v1_with(path, change):
    file = rewritten(V1.transformer, path, lambda content: change(content["model_state_dict"]))
    return V1._replace(transformer=file)


@pytest.mark.parametrize("family", [V1, HALTON], ids=["maskgit", "halton"])
def test_any_tensor_that_is_missing_is_named(tmp_path, refused, family):
    names = list(torch.load(family.transformer, weights_only=True)["model_state_dict"])
    for name in sorted({*names} - {"head.weight"})[::5]:
        file = rewritten(
            family.transformer, tmp_path / "x.pth", lambda c, n=name: c["model_state_dict"].pop(n)
        )
        refused(family._replace(transformer=file), rf"1 key missing: {name}")


def test_any_array_of_flax_that_is_missing_is_named(tmp_path, refused):
    def change(content):
        del content["params"]["TransformerLayer_1"]["Mlp_0"]["layer_output"]["bias"]
        content["params"]["extra"] = {"kernel": flax_array(np.zeros((2, 2), np.float32))}
        content["params"]["MlmLayer_0"]["mlm_bias"]["bias"] = flax_array(np.zeros(74, np.float32))

    file = rewritten_flax(GOOGLE.transformer, tmp_path / "x", change)
    says = (
        r"missing: TransformerLayer_1/Mlp_0/layer_output/bias; .*unexpected: extra/kernel; "
        r".*shape: MlmLayer_0/mlm_bias/bias \(74,\) for \(75,\)"
    )
    refused(GOOGLE._replace(transformer=file), says)


def test_tensors_that_are_extra_misshapen_or_not_finite_are_named(tmp_path, refused):
    def change(state, name, value):
        state[name] = value

    for name, value, says in (
        ("x.weight", torch.ones(2), r"unexpected: x\.weight"),
        ("last_layer.2.bias", torch.ones(47), r"last_layer\.2\.bias \(47,\) for \(48,\)"),
        ("pos_emb", torch.ones(65, 48), r"pos_emb has shape \(65, 48\)"),
        ("last_layer.2.bias", torch.full((48,), torch.nan), r"NaN, infinity .*: last_layer\.2\.bias"),
        ("module.pos_emb", torch.ones(1), "two tensors 'pos_emb'"),
    ):
        error = InputError if "two tensors" in says else WeightsError
        refused(v1_with(tmp_path / "x.pth", lambda s, n=name, v=value: change(s, n, v)), says, error)


def test_tensors_of_a_tokenizer_are_as_strict(tmp_path, refused):
    path = V1.tokenizer[0]
    state = dict(_state(path))
    del state["decoder.up.2.block.1.conv2.bias"]
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    family = V1._replace(tokenizer=(tmp_path / "x.ckpt", V1.tokenizer[1]))
    refused(family, r"missing: decoder\.up\.2\.block\.1\.conv2\.bias")


def _state(path):
    return read_checkpoint(path)["state_dict"]


def test_transformer_and_tokenizer_belong_together(tmp_path, refused):
    refused(HALTON._replace(tokenizer=V1.tokenizer), "64 .*48", ConfigError)
    big = rewritten(HALTON.tokenizer[0], tmp_path / "big.pt", _many_codes)
    refused(V1._replace(tokenizer=(big,)), "100", ConfigError)


def test_another_kind_of_tokenizer_is_taken_with_a_warning(tmp_path):
    """Somebody may have trained so; but shapes alone would let a slip through."""
    native_tokenizer = import_weights(HALTON.tokenizer, tmp_path / "codec")
    for i, tokenizer in enumerate((HALTON.tokenizer, [native_tokenizer])):
        heard = Heard()
        import_weights([GOOGLE.transformer], tmp_path / str(i), tokenizer=tokenizer, reporter=heard)
        assert "Google's tokenizer" in heard.warned
    heard = Heard()
    take(GOOGLE, tmp_path / "model", reporter=heard)
    assert heard.warned == ""


def _many_codes(content):
    content["model"]["quantize.embedding.weight"] = torch.ones(100, 8)


def test_a_yaml_file_that_says_otherwise_is_refused(tmp_path, refused):
    text = V1.tokenizer[1].read_text()
    for old, new, says in (
        ("n_embed: 48", "n_embed: 49", "n_embed 49, but .* 48"),
        ("num_res_blocks: 1", "num_res_blocks: 2", "num_res_blocks 2"),
        ("resolution: 32", "resolution: 64", r"attn_resolutions \[8\], but .*\[16\]"),
        ("double_z: false", "double_z: true", "double_z True"),
    ):
        (tmp_path / "x.yaml").write_text(text.replace(old, new))
        refused(V1._replace(tokenizer=(V1.tokenizer[0], tmp_path / "x.yaml")), says)
    bad = ("model: [", "model: 3", "a: !!python/object/apply:os.system ['true']")
    for text in (*bad, "a: 2001-99-99", "a: !!int ''", "a: !!bool x", "a: !!timestamp x"):
        (tmp_path / "x.yaml").write_text(text)
        refused(V1._replace(tokenizer=(V1.tokenizer[0], tmp_path / "x.yaml")), "YAML|yaml", InputError)
    refused(HALTON._replace(tokenizer=(*HALTON.tokenizer, V1.tokenizer[1])), "is for a VQGAN", ConfigError)


def test_calls_that_make_no_sense_are_refused(tmp_path, refused):
    with pytest.raises(ConfigError, match="needs the tokenizer"):
        import_weights([V1.transformer], tmp_path / "out")
    with pytest.raises(ConfigError, match="second transformer"):
        import_weights([V1.transformer, HALTON.transformer], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--tokenizer .*: this is the paper's transformer"):
        import_weights(V1.tokenizer, tmp_path / "out", tokenizer=[V1.transformer])
    with pytest.raises(ConfigError, match="no weights were given"):
        import_weights([V1.tokenizer[1]], tmp_path / "out")
    with pytest.raises(InputError, match="does not exist"):
        import_weights([tmp_path / "none.pth"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no weights"):
        import_weights([tmp_path / "empty"], tmp_path / "out")
    torch.save({"some": {"network.weight": torch.ones(1)}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not a supported checkpoint"):
        import_weights([tmp_path / "other.pth"], tmp_path / "out")
    native_tokenizer = import_weights(HALTON.tokenizer, tmp_path / "codec")
    with pytest.raises(ConfigError, match="directory of this package already"):
        import_weights([native_tokenizer], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"model\.yaml"):
        import_weights(
            [HALTON.transformer, V1.tokenizer[1]], tmp_path / "out", tokenizer=[native_tokenizer], heads=4
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html>", "is a web page"),
        (b'\x80\0\0\0\0\0\0\0{"bias":{}}', "is a safetensors file"),
        (b"\x89HDF\r\n\x1a\n", "not a weights file"),
        (b"hello", "not a weights file"),
        (V1.transformer.read_bytes()[:9999], "cannot be read"),
        (GOOGLE.transformer.read_bytes()[:9999], "cannot be read"),
    ],
)
def test_files_that_are_taken_for_weights(tmp_path, data, says):
    path = tmp_path / "MaskGIT_ImageNet_256.pth"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"^{path} .*{says}"):
        import_weights([path], tmp_path / "out")


def test_a_folder_of_files_beside_others(tmp_path):
    """Google's files have no suffix; a foreign config.json does not make a native directory."""
    folder = tmp_path / "google"
    folder.mkdir()
    for path in (GOOGLE.transformer, *GOOGLE.tokenizer):
        shutil.copy(path, folder)
    (folder / "config.json").write_text('{"by": "them"}')
    (folder / "README").write_text("about")
    model = import_weights([folder], tmp_path / "model")
    assert load_model(model).sha256 == load_model(take(GOOGLE, tmp_path / "one by one")).sha256


def test_nothing_is_replaced_unasked(tmp_path):
    out = take(GOOGLE, tmp_path / "model")
    before = sha256_file(out / "model.safetensors")
    with pytest.raises(OutputError, match="exists"):
        take(V1, out)
    assert sha256_file(out / "model.safetensors") == before
    take(V1, out, overwrite=True)
    assert load_model(out).config == SIZES["maskgit"][0]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(OutputError, match="--overwrite does not replace it"):
        take(V1, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "diary.txt").exists()


def test_a_fault_leaves_an_old_model_as_it_was(tmp_path):
    out = take(V1, tmp_path / "model")
    before = {p: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    broken = v1_with(tmp_path / "x.pth", lambda state: state.pop("bias"))
    with pytest.raises(WeightsError):
        take(broken, out, overwrite=True)
    assert {p: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()} == before


def test_a_network_that_is_not_known_is_an_error(models, tmp_path):
    path = take(GOOGLE, tmp_path / "model")
    for file, read in ((path / "config.json", load_model), (path / "tokenizer/config.json", load_tokenizer)):
        rewrite_record(file, network="diffusion")
        with pytest.raises(ArtifactError, match="names network 'diffusion'"):
            read(path)


# --- foreign code -----------------------------------------------------------------------------------


@pytest.mark.parametrize("gadget", ["eval", "importlib", "state"])
def test_objects_next_to_the_weights_have_no_effect(models, tmp_path, monkeypatch, gadget):
    assert TOUCH == "touch pwned"
    monkeypatch.chdir(tmp_path)
    content = torch.load(V1.transformer, weights_only=True)
    torch.save({"first": OBJECTS[gadget], **content, "optimizer_state_dict": OBJECTS[gadget]}, "x.pth")
    if gadget == "state":  # holds a call of os.system, a module that torch allows in no circumstances
        with pytest.raises(InputError, match="os"):
            take(V1._replace(transformer=tmp_path / "x.pth"), tmp_path / "model")
    else:
        path = take(V1._replace(transformer=tmp_path / "x.pth"), tmp_path / "model")
        assert load_model(path).sha256 == load_model(models["maskgit"]).sha256
    assert not (tmp_path / "pwned").exists()


def test_an_object_in_place_of_a_tensor_is_a_missing_tensor(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    gadget = OBJECTS["eval"]
    family = v1_with(tmp_path / "x.pth", lambda state: state.update({"last_layer.0.bias": gadget}))
    refused(family, r"missing: last_layer\.0\.bias")
    assert not (tmp_path / "pwned").exists()


def test_attention_resolutions_are_a_set(tmp_path):
    """Published configs list them in any order."""
    sizes = dataclasses.replace(load_tokenizer(import_weights(V1.tokenizer, tmp_path / "t")).config)
    config = {"ddconfig": {"attn_resolutions": list(reversed(sizes.attention_resolutions))}}
    several = dataclasses.replace(sizes, attention_resolutions=(16, 8))
    check_model_yaml(several, {"ddconfig": {"attn_resolutions": [8, 16]}}, "model.yaml")
    check_model_yaml(sizes, config, "model.yaml")
    with pytest.raises(WeightsError, match="attn_resolutions"):
        check_model_yaml(several, {"ddconfig": {"attn_resolutions": [8]}}, "model.yaml")


# --- the stages take what was imported --------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_every_stage_takes_it(models, images, tmp_path, maskgit, name):
    model = models[name]
    made = maskgit("sample", model, "--n", 2, "--labels", "1", "--steps", 2, "--out", tmp_path / "samples")
    assert made.status == 0, made.stderr
    picture = tmp_path / "samples" / "images" / "000000.png"
    calls = (
        ("inpaint", picture, model, "--box", "0,0,16,16", "--label", 2, "--out", tmp_path / "inpainted"),
        ("tokenize", images, tmp_path / "tokens.h5", "--tokenizer", model, "--res", 32),
        ("decode", tmp_path / "tokens.h5", tmp_path / "decoded", "--tokenizer", model),
        ("export", model, tmp_path / "exported", "--half"),
        ("sample", tmp_path / "exported", "--n", 1, "--steps", 2, "--out", tmp_path / "again"),
    )
    for words in calls:
        done = maskgit(*words)
        assert done.status == 0, done.stderr
    assert open_tokens(tmp_path / "tokens.h5").meta.codebook_size == load_model(model).config.codebook_size
    facts = json.loads(maskgit("info", model, "--json").stdout)
    assert facts["network"] == name
    assert facts["parameters"] == sum(p.numel() for p in load_model(model).network.parameters())
    facts = json.loads(maskgit("info", model / "tokenizer", "--json").stdout)
    assert facts["network"] in facts


def test_googles_network_is_sampled_without_guidance(models, tmp_path, maskgit):
    done = maskgit("sample", models["google"], "--n", 1, "--steps", 2, "--out", tmp_path / "a")
    assert done.status == 0, done.stderr
    settings = json.loads((tmp_path / "a" / "settings.json").read_text())["settings"]
    assert settings["sampler"]["cfg"] == 0
    for words in (("--cfg", 2), ("--preset", "showcase")):
        done = maskgit("sample", models["google"], "--n", 1, *words, "--out", tmp_path / "b")
        assert (done.status, done.stderr.count("\n")) == (1, 1)
        assert "--cfg" in done.stderr


def test_the_command_says_what_it_made(tmp_path, maskgit):
    out = tmp_path / "model"
    words = ("import", GOOGLE.transformer, out, "--tokenizer", *GOOGLE.tokenizer)
    done = maskgit(*words)
    assert (done.status, done.stdout) == (0, f"{out}\n")
    assert "Google's transformer, 0.047 M parameters" in done.stderr
    again = maskgit(*words)
    assert (again.status, again.stdout) == (0, f"{out}\n")
    assert "already complete" in again.stderr
    done = maskgit(*words, "--overwrite", "--json", "--quiet")
    assert (json.loads(done.stdout), done.stderr) == ({"path": str(out)}, "")
    done = maskgit("import", V1.transformer, tmp_path / "x")
    assert (done.status, done.stderr.count("\n")) == (1, 1)
    assert "--tokenizer" in done.stderr
