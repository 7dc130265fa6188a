"""What holds for every module: names, docstrings, annotations, lengths, and what is never imported."""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import maskgit_cli

ROOT = Path(maskgit_cli.__file__).parent
FILES = {p.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): p for p in ROOT.rglob("*.py")}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
TESTS = Path(__file__).parent
HEAVY = {"torch", "torchvision", "numpy", "h5py", "PIL", "accelerate", "matplotlib", "safetensors"}


def imports(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            yield node.module


def functions(tree, public_only=True):
    """Functions and methods of a module; those of private classes and inside others are not public."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node
        if isinstance(node, ast.ClassDef) and not (public_only and node.name.startswith("_")):
            yield from (n for n in node.body if isinstance(n, ast.FunctionDef))


def test_twelve_rooms():
    entries = {p.name for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert len(entries) == 15, "twelve rooms, errors, __init__, __main__"


def test_click_and_rich_are_for_the_command_line():
    for name, tree in TREES.items():
        modules = {module.split(".")[0] for module in imports(ast.walk(tree))}
        assert name.startswith("cli.") or not modules & {"click", "rich", "rich_click"}, name


def test_commands_and_settings_import_nothing_heavy_at_their_top():
    for name, tree in TREES.items():
        if name.split(".")[0] in ("cli", "config", "errors", "__init__", "__main__"):
            for module in imports(tree.body):
                root, _, inside = module.partition(".")
                assert root not in HEAVY, f"{name} imports {module}"
                allowed = inside.split(".")[0] in ("", "cli", "config", "errors")
                assert root != "maskgit_cli" or allowed, f"{name} imports {module}"


def test_no_broad_handlers_no_unsafe_loading():
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


def test_module_names():
    names = {name.split(".")[-1] for name in FILES} - {"__init__", "__main__"}
    assert not names & set(sys.stdlib_module_names)


def test_public_names_are_exact():
    for name in maskgit_cli.__all__:
        assert getattr(maskgit_cli, name) is not None
    assert dir(maskgit_cli) == sorted(maskgit_cli.__all__)
    assert len(set(maskgit_cli.__all__)) == len(maskgit_cli.__all__)
    with pytest.raises(AttributeError):
        _ = maskgit_cli.tokenise


def test_type_checkers_see_the_public_names():
    """The imports under TYPE_CHECKING are those that happen on first use, each re-exported by `as`."""
    tree = TREES["__init__"]
    checked = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {}
    for node in checked.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.name == alias.asname, f"{alias.name} is not re-exported"
            seen[alias.name] = node.module.removeprefix("maskgit_cli.")
    assert seen == maskgit_cli._HOMES
    assert (ROOT / "py.typed").is_file()


def test_strict_types_of_every_public_name():
    """`mypy --strict` accepts a file that uses all of them, and refuses its mistakes; 15 s of one core."""
    path = TESTS / "typed_use.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert set(maskgit_cli.__all__) <= names
    # As for an installed package: no configuration of this project, and no reports of its own files.
    options = ["--strict", "--follow-imports=silent", "--config-file=", "--cache-dir=/dev/null"]
    command = [sys.executable, "-m", "mypy", *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


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
        assert function.returns is not None, f"{function.name}: its result is not annotated"


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_and_functions_are_short(name):
    limit = 300 if name.startswith("networks.") else 500
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) < limit
    for function in functions(TREES[name], public_only=False):
        assert function.end_lineno - function.lineno < 80, function.name


def test_most_functions_are_very_short():
    lengths = [f.end_lineno - f.lineno + 1 for tree in TREES.values() for f in functions(tree, False)]
    assert statistics.median(lengths) <= 16, "docstrings included"
