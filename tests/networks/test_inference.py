"""Batch-invariant inference: results do not depend on the rest of the batch or on threads."""

from pathlib import Path

import pytest
import torch
from tiny_models import CODES, make_model, make_tokenizer, tiny_transformer

from maskgit_cli.config.samplers import ConfidenceConfig
from maskgit_cli.errors import ArtifactError
from maskgit_cli.networks import inference
from maskgit_cli.networks.inference import apply_to_rows, decode_tokens
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.runtime.progress import SILENT
from maskgit_cli.sampling import model
from maskgit_cli.sampling.model import load_pipeline, predictor
from maskgit_cli.sampling.samplers.confidence import confidence_sampler

CPU = torch.device("cpu")


@pytest.fixture
def threads():
    """torch.set_num_threads, restored afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_samples_are_the_same_bits_for_every_batch_size_and_number_of_threads(threads):
    predict = predictor(tiny_transformer(), CPU, torch.float32)
    config = ConfidenceConfig(steps=5)

    def sample(batch):
        sampled, logits = [], []
        for rows in torch.arange(8).split(batch):
            blank = torch.full((len(rows), 4, 4), CODES)
            logits.append(predict(blank, rows % 3, torch.zeros(len(rows), dtype=torch.bool)))
            sampled.append(confidence_sampler(predict, blank, rows % 3, rows, config, 0, CODES))
        return torch.cat(sampled), torch.cat(logits)

    threads(1)
    tokens, logits = sample(8)
    for count, batch in [(1, 1), (1, 3), (2, 1), (2, 3), (2, 8)]:
        threads(count)
        assert all(torch.equal(a, b) for a, b in zip(sample(batch), (tokens, logits), strict=True))


def test_decoded_images_are_the_same_bits(threads, tmp_path):
    tokenizer = load_tokenizer(make_tokenizer(tmp_path / "t"))
    tokens = torch.arange(6 * 16).view(6, 4, 4) % CODES
    threads(1)
    whole = decode_tokens(tokenizer, tokens, CPU)
    assert whole.dtype == torch.uint8
    assert whole.shape == (6, 3, 16, 16)
    threads(2)
    assert torch.equal(torch.cat([decode_tokens(tokenizer, part, CPU) for part in tokens.split(4)]), whole)


def test_threads_are_restored_and_errors_are_raised(threads):
    threads(2)
    assert apply_to_rows(lambda x: x + torch.get_num_threads(), (torch.zeros(5, 2),), CPU, 4).eq(1).all()
    assert torch.get_num_threads() == 2

    def fail(x):
        raise ArtifactError("no")

    with pytest.raises(ArtifactError, match="no"):
        apply_to_rows(fail, (torch.zeros(3, 1),), CPU, 4)
    assert torch.get_num_threads() == 2


def test_every_call_on_a_gpu_has_the_same_shape():
    """On the meta device: only shapes matter."""
    shapes = []

    def note(x):
        shapes.append(tuple(x.shape))
        return x * 2

    apply_to_rows(note, (torch.empty(7, 3, device="meta"),), torch.device("meta"), 4)
    assert shapes == [(4, 3), (4, 3)]
    assert inference._fill(torch.tensor([[1], [2]]), 4).tolist() == [[1], [2], [1], [1]]


def test_bf16_is_used_on_request():
    network = tiny_transformer()
    inputs = torch.full((2, 4, 4), CODES), torch.tensor([0, 1]), torch.tensor([False, True])
    exact = predictor(network, CPU, torch.float32)(*inputs)
    rough = predictor(network, CPU, torch.bfloat16)(*inputs)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert torch.allclose(exact, network(*inputs), atol=1e-4)


def test_the_tokenizer_must_be_the_models_own(tmp_path):
    model = make_model(tmp_path / "m")
    assert load_pipeline(model, "ema", "cpu", "fp32").model.class_names == ["cat", "dog", "owl"]
    other = make_tokenizer(tmp_path / "other", seed=1)
    (other / "model.safetensors").replace(model / "tokenizer" / "model.safetensors")
    with pytest.raises(ArtifactError, match="tokenizer"):
        load_pipeline(model, "ema", "cpu", "fp32")


def test_the_default_model_of_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    messages = []
    monkeypatch.setattr(type(SILENT), "info", lambda self, text: messages.append(text))
    assert model.choose_model(tmp_path / "mine", SILENT) == tmp_path / "mine"
    assert model.choose_model(Path("builtin"), SILENT) == model.builtin_model()
    assert messages == []
    assert model.choose_model(None, SILENT) == model.builtin_model()
    assert "built-in" in messages[0]
    monkeypatch.setattr(model, "newest_run", lambda: tmp_path / "runs" / "a")
    assert model.choose_model(None, SILENT) == tmp_path / "runs" / "a"
    assert str(tmp_path / "runs" / "a") in messages[1]
