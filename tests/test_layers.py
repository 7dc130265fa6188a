"""The architecture, read off the sources: who may import whom, names, lengths, docstrings."""

import ast
import graphlib
import statistics
import sys
from pathlib import Path

import pytest

import maskgit_cli

ROOT = Path(maskgit_cli.__file__).parent
FILES = {p.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): p for p in ROOT.rglob("*.py")}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}

# From the bottom up. A module imports from the layers below its own; folders are named by their package.
LAYERS = [
    {"errors"},
    {"settings"},
    {"config"},
    {"published_config", "sampler_config", "inpaint_config", "unpickling", "mapped_file"},
    {"schedules", "noise", "progress", "models", "imagenet", "catalogue", "torch_files", "flax_msgpack"},
    {"artifacts", "distributed"},
    {"interrupts"},
    {"data", "labels", "grids", "sheets", "windows", "optim", "perceptual"},
    {"samplers", "metrics", "fetching"},
    {"inference", "reconstruction", "hub", "regions"},
    {"sweep_points"},
    {"features", "drawing", "sweep_plots", "tracing", "image_sets", "convert", "sharing", "starting"},
    {"extraction", "published_sizes", "manifests", "inpaint_sheets", "painting"},
    {
        "tokenizing", "vqgan_training", "training", "sampling", "inpainting", "decoding", "scoring",
        "exporting", "importing", "inspecting", "benching", "comparing",
    },
    {"pulling", "sweeping"},  # made of stages: an import after fetching its files, samples with their scores
    {"cli"},
]  # fmt: skip
# What commands may import before they run.
LIGHT = {"config", "sampler_config", "inpaint_config", "settings", "errors", "catalogue", "__init__"}
# What begins the package: its version, and the public names, which are imported when first used.
ROOTS = {"__init__", "__main__"}


def imports(tree, name):
    """The modules a module imports, at its top or in a function: ours by short name, others in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}".removeprefix("maskgit_cli.")
                yield inside if inside in FILES else node.module.removeprefix("maskgit_cli.")


IMPORTS = {name: set(imports(tree, name)) for name, tree in TREES.items()}


def package(name):
    return name.split(".")[0]


def layer(name):
    return next((i for i, names in enumerate(LAYERS) if package(name) in names), None)


def ours(name):
    return {m for m in IMPORTS[name] if package(m) in {package(f) for f in FILES} - ROOTS}


@pytest.mark.parametrize("name", sorted(FILES.keys() - ROOTS))
def test_imports_go_one_way(name):
    assert layer(name) is not None, f"place {name} in LAYERS"
    for other in ours(name):
        below = layer(other) < layer(name)
        assert below or package(other) == package(name) in ("artifacts", "models", "cli"), f"{name} → {other}"


def test_nothing_imports_the_command_line_but_the_entry():
    assert {name for name in FILES if any(package(m) == "cli" for m in IMPORTS[name])} <= {
        "__main__", *(name for name in FILES if package(name) == "cli")
    }  # fmt: skip


def test_there_are_no_circles():
    graphlib.TopologicalSorter({name: ours(name) - {name} for name in FILES}).prepare()


def test_click_and_rich_are_for_the_command_line():
    for name, modules in IMPORTS.items():
        if package(name) != "cli":
            assert not {package(m) for m in modules} & {"click", "rich"}, name


def test_commands_import_nothing_heavy_until_they_run():
    """``--help`` is quick because a command's module imports the library inside its body only."""
    heavy = {"torch", "torchvision", "numpy", "h5py", "PIL", "accelerate", "matplotlib", "safetensors"}
    for name, tree in TREES.items():
        if package(name) == "cli" or name in ROOTS | {"config", "settings", "errors"}:
            at_top = ast.Module(
                [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], []
            )
            for module in imports(at_top, name):
                assert package(module) not in heavy, f"{name} → {module}"
                if module in FILES and package(module) != "cli":
                    allowed = (
                        "config",
                        "sampler_config",
                        "inpaint_config",
                        "settings",
                        "errors",
                        "catalogue",
                        "__init__",
                    )
                    assert module in allowed, f"{name} → {module}"


def test_nothing_is_unpickled_and_no_error_is_swallowed():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                unpickles = node.value.id == "pickle" and node.attr in ("load", "loads", "Unpickler")
                assert not unpickles, f"{name}:{node.lineno}"
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{name}:{node.lineno}: a bare except"
                broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
                idle = all(isinstance(statement, ast.Pass) for statement in node.body)
                assert not (broad and idle), f"{name}:{node.lineno}: swallows everything"
            if isinstance(node, ast.keyword) and node.arg == "weights_only":
                assert ast.literal_eval(node.value) is True, f"{name}:{node.value.lineno}"


# --- names ------------------------------------------------------------------------------------------


def test_no_module_is_named_like_one_of_pythons_own():
    names = {name.split(".")[-1] for name in FILES} - ROOTS
    assert not names & set(sys.stdlib_module_names)


def test_no_public_name_is_that_of_a_module():
    modules = {part for name in FILES for part in name.split(".")}
    for name, tree in TREES.items():
        public = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assert not public & modules, name


def test_public_names_are_there_and_exact():
    for name in maskgit_cli.__all__:
        assert getattr(maskgit_cli, name) is not None
    assert dir(maskgit_cli) == sorted(maskgit_cli.__all__)
    assert len(set(maskgit_cli.__all__)) == len(maskgit_cli.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'tokenise'"):
        _ = maskgit_cli.tokenise


# --- style ------------------------------------------------------------------------------------------


def functions(tree, public_only=True):
    """Functions and methods of a module; those of private classes and inside others are not public."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node
        if isinstance(node, ast.ClassDef) and not (public_only and node.name.startswith("_")):
            yield from (n for n in node.body if isinstance(n, ast.FunctionDef))


@pytest.mark.parametrize("name", sorted(FILES))
def test_what_is_public_is_documented_and_annotated(name):
    assert ast.get_docstring(TREES[name]), "the module has no docstring"
    for node in TREES[name].body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
    for function in functions(TREES[name]):
        if function.name.startswith("_"):
            continue
        assert ast.get_docstring(function), f"{function.name} has no docstring"
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare, f"{function.name}: {bare} not annotated"
        assert function.returns is not None, f"{function.name}: what it returns is not annotated"


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_and_functions_are_short(name):
    limit = 300 if package(name) == "models" else 500
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) < limit
    for function in functions(TREES[name], public_only=False):
        assert function.end_lineno - function.lineno < 80, function.name
    if name.startswith("cli.cmd_"):
        command = next(n for n in TREES[name].body if getattr(n, "name", "") == "command")
        body = command.body[1:]  # without the docstring
        assert body[-1].end_lineno - body[0].lineno < 25


def test_most_functions_are_very_short():
    lengths = [f.end_lineno - f.lineno + 1 for tree in TREES.values() for f in functions(tree, False)]
    # Their docstrings included.
    assert statistics.median(lengths) <= 16
