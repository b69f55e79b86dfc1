"""A bundle whose numbered labels have names: evaluate, decide, compare, predict."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import AutoConfig

import clftask
from clftask.commands.compare_bundles import compare_bundles
from clftask.commands.evaluate import decide_bundle, evaluate_bundle
from clftask.models import bundle

NAMES = {"sound": "Ton", "graphics": "Bild", "network": "Netz"}


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def trained(train_bundle: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle whose labels have new names, and a table of raw values."""
    override = f"data.labels.names={NAMES}"
    folder = tmp_path_factory.mktemp("names")
    path, test, _ = train_bundle(folder, "multiclass", override)
    return path, test


def test_a_bundle_keeps_the_names(trained: tuple[Path, Path]) -> None:
    names = tuple(NAMES.values())
    meta = bundle.read_meta(str(trained[0]))
    assert meta.label_names == names
    assert list(meta.job["data"]["labels"]["names"].items()) == list(NAMES.items())
    assert AutoConfig.from_pretrained(trained[0]).id2label == dict(enumerate(names))
    assert set(clftask.load(str(trained[0])).predict(["shader pixel"]).labels) <= set(names)
    assert "| Ton |" in (trained[0] / "README.md").read_text()


def test_tables_have_raw_values_or_names(trained: tuple[Path, Path], tmp_path: Path) -> None:
    path, raw = trained
    renamed = tmp_path / "renamed.parquet"
    table = pd.read_parquet(raw)
    table.assign(label=table["label"].map(NAMES)).to_parquet(renamed)
    found = [evaluate_bundle(str(path), str(file), silent) for file in (raw, renamed)]
    assert [row["label"] for row in found[0].per_label] == list(NAMES.values())
    assert found[0].rows == found[1].rows == 24
    assert found[0].metrics == found[1].metrics
    compared = compare_bundles(str(path), str(path), str(raw), [], silent)
    assert (compared.rows, compared.changed) == (24, 0)
    copy = shutil.copytree(path, tmp_path / "copy")
    assert decide_bundle(str(copy), str(raw), [], None, silent).rows == 24
    assert bundle.read_meta(str(copy)).label_names == tuple(NAMES.values())
