"""docs/training.md: its tables of sizes and of the recipe `small` are those of the package."""

import re

import pytest
from documents import CODE, ROOT, Document

from maskgit_cli.cli.options import fields_of
from maskgit_cli.config.base import option
from maskgit_cli.config.recipes import FROM_STEPS, RECIPES
from maskgit_cli.config.sizes import ASSUMED, tokenizer_table, transformer_table
from maskgit_cli.config.training import TrainConfig

PAGE = Document(ROOT / "docs" / "training.md")


@pytest.mark.parametrize(
    ("anchor", "table"),
    [("sizes-of-tokenizers", tokenizer_table), ("sizes-of-transformers", transformer_table)],
)
def test_named_sizes(anchor, table):
    rows = [tuple(cell.strip("`") for cell in row) for row in PAGE.tables[anchor][0]]
    assert rows == table()


def test_what_the_table_of_transformers_assumes():
    text = "\n".join(PAGE.prose)
    wanted = "{codebook_size:,} codes, {classes:,} classes and {grid}×{grid} tokens".format(**ASSUMED)
    assert wanted in text


def test_the_recipe_small():
    rows = {CODE.findall(row[0])[0]: row for row in PAGE.rows("small-data")}
    options = {option(name): name for name in fields_of(TrainConfig)}
    assert rows.keys() <= options.keys()
    for head, column in zip(PAGE.tables["small-data"][0][0][2:4], (2, 3), strict=True):
        images = int("".join(re.findall(r"\d", head)))
        for flag, row in rows.items():
            value = getattr(RECIPES["small"](images), options[flag])
            shown = f"{value:,}" if isinstance(value, int | float) else value
            assert row[column] in ("", shown), flag


def test_settings_that_follow_from_the_steps():
    listed = {flag for row in PAGE.rows("more-steps") for flag in re.findall(r"--[a-z-]+", row[0])}
    derived = {option(name) for names in FROM_STEPS.values() for name in names}
    assert derived | {"--decay-steps", "--adversarial-start"} <= listed
