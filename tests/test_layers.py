"""The import direction: a module imports from rooms below its own, and from its own."""

import ast
from pathlib import Path

import maskgit_cli

ROOT = Path(maskgit_cli.__file__).parent
ROOMS = "errors config formats runtime,figures,networks data sampling,scoring training,reports weights cli"
RANK = {room: rank for rank, rooms in enumerate(ROOMS.split()) for room in rooms.split(",")}


def test_imports_point_one_way():
    for path in ROOT.glob("*/**/*.py"):
        room = path.relative_to(ROOT).parts[0]
        nodes = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        names = [n.module if isinstance(n, ast.ImportFrom) else a.name for n in nodes for a in n.names]
        for other in {name.split(".")[1] for name in names if name.startswith("maskgit_cli.")} - {room}:
            assert RANK[other] < RANK[room], f"{path} imports maskgit_cli.{other}"
