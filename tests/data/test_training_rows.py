"""Texts that a bundle was trained on are recognised, whatever their case and blanks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from clftask.data import training_rows
from clftask.data.training_rows import NAME, add_decided, count_known, text_hashes, warning, write
from clftask.errors import DataError


def texts(*rows, pairs=None):
    columns = {"text": pa.array(rows, pa.large_string())}
    return pa.table(columns if pairs is None else {**columns, "text_pair": pairs})


def written(folder, **splits):
    """Write the hashes of the texts of each split."""
    parts = [
        pa.table({"text_hash": text_hashes(texts(*rows)), "split": [split] * len(rows)})
        for split, rows in splits.items()
    ]
    write(folder, pa.concat_tables(parts))
    return folder


def test_case_blanks_and_compatibility_forms_do_not_matter():
    same = text_hashes(texts("Straße  ﬁn", " STRASSE fin\n", "strasse\u00a0fin")).to_pylist()
    assert len(set(same)) == 1
    assert len(set(text_hashes(texts("a b", "ab", "a  b.", "b a")).to_pylist())) == 4


def test_hashes_are_the_same_on_every_machine():
    assert text_hashes(texts("a text")).to_pylist() == [5830437876521264211]


def test_a_pair_is_another_row_than_its_texts():
    pairs = text_hashes(texts("a", "a", "a b", pairs=["b", "c", ""])).to_pylist()
    assert len({*pairs, *text_hashes(texts("a", "a b", "ab")).to_pylist()}) == 6


def test_rows_are_counted_by_split_each_once(tmp_path):
    folder = written(tmp_path, train=["a", "b", "c"], validation=["c", "d"], test=["e"])
    table = texts("A", "a", "c", "d", "e", "f")
    assert count_known(folder, table) == {"train": 3, "validation": 1}
    assert count_known(folder, texts("e", "f")) == {}
    assert count_known(folder, texts()) == {}


def test_a_bundle_without_hashes_knows_no_rows(tmp_path):
    assert count_known(tmp_path, texts("a")) == {}
    add_decided(tmp_path, tmp_path, texts("a"))
    assert list(tmp_path.iterdir()) == []


def test_rows_of_a_decision_are_known_until_the_next_one(tmp_path):
    folder = written(tmp_path, train=["a"])
    for rows in (("b", "c"), ("d",)):
        add_decided(folder, folder, texts(*rows))
    assert count_known(folder, texts("a", "b", "c", "d")) == {"train": 1, "decision": 1}


def test_a_row_takes_eight_bytes(tmp_path):
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 100_000, np.uint64)
    write(tmp_path, pa.table({"text_hash": hashes, "split": ["train"] * len(hashes)}))
    assert (tmp_path / NAME).stat().st_size < 8 * len(hashes)


@pytest.mark.parametrize("content", [b"", b"PAR1", None])
def test_a_damaged_file_is_named(tmp_path, content):
    if content is None:
        pa.parquet.write_table(pa.table({"other": [1]}), tmp_path / NAME)
    else:
        (tmp_path / NAME).write_bytes(content)
    with pytest.raises(DataError, match=rf"{NAME}: is damaged. Delete it"):
        count_known(tmp_path, texts("a"))


def test_the_warning_says_how_many_of_how_many():
    assert warning({"train": 1_000, "validation": 1}, 2_000) == (
        "warning: 1,001 of 2,000 rows were used to train the bundle (1,000 train, 1 validation); "
        "metrics may be too high"
    )
    assert training_rows.warning({"train": 1}, 2).startswith("warning: 1 of 2 rows was used")
