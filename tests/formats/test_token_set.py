"""Several token files as one."""

import numpy as np
import pytest
from tiny_models import NAMES, make_tokenizer
from tiny_training import write_tokens

from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.token_set import join_tokens
from maskgit_cli.formats.tokens import open_tokens


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("set") / "tokenizer")


def test_rows_of_all_files(tokenizer, tmp_path):
    first = write_tokens(tmp_path / "a.h5", tokenizer)
    second = write_tokens(tmp_path / "b.h5", tokenizer, labels=np.array([2, 1, 0], np.int32))
    files = [open_tokens(path) for path in (first, second)]
    both = join_tokens(files)
    assert (len(both), both.name, both.meta.class_names) == (27, "a+1", NAMES)
    rows = np.array([26, 0, 23, 24])
    wanted = np.stack(
        [files[1].codes[2, 0], files[0].codes[0, 0], files[0].codes[23, 0], files[1].codes[0, 0]]
    )
    assert np.array_equal(both.take(rows, np.zeros(4, np.int64)), wanted)
    assert both.labels[rows].tolist() == [0, files[0].labels[0], files[0].labels[23], 2]
    assert both.view_counts(rows).tolist() == [1, 1, 1, 1]


def test_files_without_labels_join_others(tokenizer, tmp_path):
    named = write_tokens(tmp_path / "a.h5", tokenizer)
    plain = write_tokens(tmp_path / "b.h5", tokenizer, labels=np.full(3, -1, np.int32), class_names=[])
    both = join_tokens([open_tokens(plain), open_tokens(named)])
    assert both.meta.class_names == NAMES


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"tokenizer_sha256": "1" * 64}, "tokenizer_sha256"), ({"class_names": ["x", "y", "z"]}, "class_names")],
)
def test_files_that_differ_are_refused(tokenizer, tmp_path, changes, name):
    paths = [
        write_tokens(tmp_path / "a.h5", tokenizer),
        write_tokens(tmp_path / "b.h5", tokenizer, **changes),
    ]
    with pytest.raises(ConfigError, match=rf"b\.h5: its {name}"):
        join_tokens([open_tokens(path) for path in paths])


def test_a_file_is_given_once(tokenizer, tmp_path):
    path = write_tokens(tmp_path / "a.h5", tokenizer)
    with pytest.raises(ConfigError, match="twice"):
        join_tokens([open_tokens(path)] * 2)
