"""Import networks of published sizes with random weights: parameters, seconds, and the memory it takes.

For each name of `maskgit pull --list`, files are written in the published containers, `maskgit import` makes
a model directory of them in a separate process, and prints a row of a table. Resident memory includes the
pages of the mapped files, which the system takes back when it needs memory; private memory does not. The
last column is the highest private memory, less that of importing torch alone, over the size of the files.
Linux only. Up to 7 GB of disk and 5 GB of memory.

python examples/full_size_import.py maskgit-256 halton-256-base google-256
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgpack
import torch
from torch import Tensor, nn

from maskgit_cli.config.catalogue import CATALOGUE, CatalogueEntry
from maskgit_cli.config.networks import (
    TOKENIZERS,
    TRANSFORMERS,
    GoogleConfig,
    GoogleVQGANConfig,
    HaltonConfig,
    TransformerConfig,
    VQGANConfig,
)
from maskgit_cli.networks.registry import build
from maskgit_cli.reports.inspecting import describe
from maskgit_cli.weights.exporting import v1_model_yaml
from maskgit_cli.weights.names import PUBLISHED_NETWORKS, renamed

# Of Halton-MaskGIT: width, depth, heads, features of a head, hidden features of an MLP.
HALTON = {
    "tiny": (384, 6, 6, 64, 1024),
    "small": (512, 12, 6, 85, 1536),
    "base": (768, 12, 12, 64, 2048),
    "large": (1024, 24, 16, 64, 2816),
}
TOKENIZER_SIZES = {
    "maskgit": ("vqgan", VQGANConfig()),
    "halton": ("llamagen", VQGANConfig(codebook_size=16384, embed_dim=8)),
    "google": ("google_vqgan", GoogleVQGANConfig()),
}

# The system keeps the highest resident memory of a process, but not the highest private one, which is
# sampled every 5 ms. Both are printed last, in kB.
MEASURE = """
import atexit, sys, threading, time

def memory(key):
    with open("/proc/self/status") as file:
        return int(file.read().split(key + ":")[1].split()[0])

def watch():
    while True:
        highest[0] = max(highest[0], memory("RssAnon"))
        time.sleep(0.005)

highest = [0]
threading.Thread(target=watch, daemon=True).start()
atexit.register(lambda: print(max(highest[0], memory("RssAnon")), memory("VmHWM")))
"""
IMPORT = f"{MEASURE}\nfrom maskgit_cli.cli import main\nmain(sys.argv[1:])"


def transformer_sizes(model: CatalogueEntry) -> Any:
    """Sizes of a published model's transformer."""
    grid = model.resolution // 16
    if model.family == "halton":
        return HaltonConfig(*HALTON[model.name.rsplit("-", 1)[1]], 16384, 1000, grid)
    kind = GoogleConfig if model.family == "google" else TransformerConfig
    return kind(768, 24, 16, 3072, 1024, 1000, grid)


def published_tensors(network: nn.Module, family: str, sizes: Any) -> dict[str, Tensor]:
    """Tensors of a network under their published names."""
    names = next(n for n in PUBLISHED_NETWORKS if n.network == family).names(sizes)
    backwards = [(native, published) for published, native in names]
    return {renamed(name, backwards) or "": tensor for name, tensor in network.state_dict().items()}


def write_torch(path: Path, tensors: dict[str, Tensor], key: str, rest: int) -> None:
    """A PyTorch checkpoint with ``rest`` bytes in addition to the weights, as of optimizers and losses."""
    others = {
        "optimizer_state_dict": {"state": {0: {"exp_avg": torch.zeros(max(rest, 0), dtype=torch.uint8)}}}
    }
    torch.save({"iter": 300_000, "global_epoch": 100, key: tensors, **others}, path)


def as_flax(name: str, tensor: Tensor, heads: int) -> Tensor:
    """A tensor in flax's layout: the outputs of a layer are its last side, heads have a side of their own."""
    if name.endswith("/kernel"):
        tensor = tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor.T
    if re.search(r"self_attention/(query|key|value)/", name):
        tensor = tensor.unflatten(-1, (heads, -1))
    elif name.endswith("self_attention/out/kernel"):
        tensor = tensor.unflatten(0, (heads, -1))
    return tensor.contiguous()


def write_flax(path: Path, tensors: dict[str, Tensor], heads: int) -> None:
    """A msgpack file of nested maps, an array in it an extension of type 1."""
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        array = as_flax(name, tensor, heads).numpy()
        place[last] = msgpack.ExtType(1, msgpack.packb((array.shape, str(array.dtype), array.tobytes())))
    path.write_bytes(msgpack.packb({"params": tree}))


def write_files(model: CatalogueEntry, folder: Path) -> list[Path]:
    """The published files of a model, with random weights."""
    torch.manual_seed(0)
    paths = [folder / model.weights.name, folder / model.tokenizer[0].name]
    tokenizer, sizes_of_tokenizer = TOKENIZER_SIZES[model.family]
    sizes = transformer_sizes(model)
    networks = (
        (TRANSFORMERS[model.family], model.family, sizes),
        (TOKENIZERS[tokenizer], tokenizer, sizes_of_tokenizer),
    )
    for path, file, (entry, family, own) in zip(
        paths, (model.weights, model.tokenizer[0]), networks, strict=True
    ):
        network = build(entry, own)
        tensors = published_tensors(network, family, own)
        if model.family == "google":
            write_flax(path, tensors, sizes.heads)
            continue
        if family == "halton":
            tensors["head.weight"] = tensors["tok_emb.weight"]
        key = {"vqgan": "state_dict", "llamagen": "model"}.get(family, "model_state_dict")
        write_torch(path, tensors, key, (file.bytes or 0) - 4 * sum(t.numel() for t in network.parameters()))
    if model.family == "maskgit":
        paths.append(folder / "model.yaml")
        paths[-1].write_text(v1_model_yaml(sizes_of_tokenizer, {}))
    return paths


def measured(program: str, *arguments: str) -> tuple[float, int, int]:
    """Seconds that a program takes in a new process, its highest private and resident memory in bytes."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with status {done.returncode}")
    private, resident = (int(kilobytes) * 1024 for kilobytes in done.stdout.split()[-2:])
    return time.monotonic() - began, private, resident


def main(names: list[str]) -> None:
    """Print a row for each model."""
    _, alone, _ = measured(f"{MEASURE}\nimport torch")
    print("| name | transformer | tokenizer | files | seconds | resident | private | torch | rest / files |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            files = write_files(CATALOGUE[name], Path(folder))
            out = Path(folder) / "model"
            arguments = ("import", *map(str, files), str(out), "--quiet")
            seconds, private, resident = measured(IMPORT, *arguments)
            size = sum(file.stat().st_size for file in files)
            counts = [describe(path)["parameters"] / 1e6 for path in (out, out / "tokenizer")]
        cells = [f"{count:.3f} M" for count in counts]
        cells += [
            f"{size / 1e9:.2f} GB",
            f"{seconds:.1f}",
            f"{resident / 1e9:.2f} GB",
            f"{private / 1e9:.2f} GB",
            f"{alone / 1e9:.2f} GB",
        ]
        print(f"| `{name}` | {' | '.join(cells)} | {(private - alone) / size:.2f} |", flush=True)


main(sys.argv[1:] or list(CATALOGUE))
