"""The notebook: it runs from top to bottom, and its stored outputs are small and name no machine."""

from pathlib import Path

import nbformat
import pytest
from documents import ROOT
from nbclient import NotebookClient

import maskgit_cli

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
LARGEST_OUTPUT = 100_000


@pytest.fixture(scope="module")
def stored():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook


def outputs(notebook) -> list[list[set[str]]]:
    """The kinds of each code cell's outputs."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[set(output.get("data", {output.output_type: 0})) for output in cell.outputs] for cell in cells]


def test_the_stored_outputs(stored):
    kinds = outputs(stored)
    assert all(len(found) == 1 for found in kinds), "every cell shows its result, and nothing on stderr"
    assert sum("image/png" in found[0] for found in kinds) >= 5
    assert any("text/html" in found[0] for found in kinds), "the table of scores"
    for cell in stored.cells:
        for output in cell.get("outputs", []):
            assert len(str(output)) < LARGEST_OUTPUT
            for text in ("/home/", "/tmp/", "/Users/", "/work/", str(Path.home())):
                assert text not in str(output.get("data", {}).get("text/plain", ""))


def test_it_shows_the_whole_interface(stored):
    source = "\n".join(cell.source for cell in stored.cells if cell.cell_type == "code")
    for name in ("load(", ".sample(", ".inpaint(", ".encode(", ".decode(", "score(", "trace=True"):
        assert name in source


def test_it_runs(stored, tmp_path, monkeypatch):
    """From the first cell to the last, in an empty folder and offline, with outputs of the stored kinds."""
    monkeypatch.setenv("PYTHONPATH", str(Path(maskgit_cli.__file__).parent.parent))
    monkeypatch.setenv("MASKGIT_OFFLINE", "1")
    notebook = nbformat.from_dict(stored)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert outputs(notebook) == outputs(nbformat.read(NOTEBOOK, as_version=4))
    assert not list(tmp_path.iterdir()), "it writes no files"
