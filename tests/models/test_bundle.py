"""Opening bundles: damaged, changed, copied in part, of another version."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_scorers import MAX_LENGTH, NAMES, TEXTS, expected

import clftask
from clftask.errors import DataError
from clftask.io import storage
from clftask.models import bundle


def test_load_is_part_of_the_package(make_bundle):
    folder = make_bundle("multilabel")
    scorer = clftask.load(folder, device="cpu")
    assert scorer.meta.label_names == NAMES
    np.testing.assert_allclose(
        scorer.predict(TEXTS).probabilities, expected(folder, TEXTS, "multilabel"), atol=0.05
    )


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, clftask; clftask.load; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "clftask" in loaded
    heavy = {"torch", "transformers", "ray", "pandas", "pyarrow", "numpy", "datasets", "boto3"}
    assert loaded & heavy == set()


def test_a_bundle_on_s3_is_opened(make_bundle, s3):
    folder = make_bundle("multilabel")
    bundle.publish(Path(shutil.copytree(folder, f"{folder}-copy")), f"{s3.bucket}/bundles/one")
    found = clftask.load(f"{s3.bucket}/bundles/one/", "cpu", "fp32").predict(TEXTS)
    wanted = expected(folder, TEXTS, "multilabel")
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-5)


def test_a_local_bundle_is_used_where_it_lies(make_bundle, tmp_path):
    folder, meta = bundle.fetch(make_bundle(), str(tmp_path))
    assert folder == make_bundle()
    assert list(tmp_path.iterdir()) == []
    assert (meta.label_names, meta.max_length) == (NAMES, MAX_LENGTH)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def rewrite(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


CHANGES = {
    "weights": lambda folder: flip(folder / "model.safetensors"),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "tokenizer": lambda folder: rewrite(folder / "tokenizer_config.json", do_lower_case=False),
    "config": lambda folder: rewrite(folder / "config.json", id2label={"0": "x"}),
    "decision": lambda folder: rewrite(folder / "clftask.json", decision={"threshold": 0.1}),
    "names": lambda folder: rewrite(folder / "clftask.json", label_names=["a", "b", "c"]),
    "length": lambda folder: rewrite(folder / "clftask.json", max_length=16),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_bundle_that_was_changed_is_refused(make_bundle, tmp_path, request, where, change):
    folder = Path(shutil.copytree(make_bundle(), tmp_path / "bundle"))
    change(folder)
    path = str(folder)
    if where == "s3":
        path = f"{request.getfixturevalue('s3').bucket}/changed/{tmp_path.name}"
        storage.upload(str(folder), path)
    with pytest.raises(DataError) as caught:
        bundle.fetch(path, str(tmp_path / "scratch"))
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("bundle", path)
    assert problem.allowed.startswith("was changed")
    assert problem.remedy == "Copy the bundle again, or retrain."


def test_card_and_metrics_may_be_edited(make_bundle, tmp_path):
    folder = Path(shutil.copytree(make_bundle(), tmp_path / "bundle"))
    (folder / "README.md").write_text("mine")
    (folder / "metrics.json").unlink()
    (folder / "report.html").write_text("<p>")
    assert bundle.fetch(str(folder), "")[0] == str(folder)


@pytest.mark.parametrize("name", ["", "absent"])
def test_what_is_no_bundle_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="bundle: is not a bundle") as caught:
        clftask.load(str(tmp_path / name))
    assert "clftask.json" in caught.value.problems[0].remedy


def test_a_bundle_of_a_newer_clftask_is_refused(make_bundle, tmp_path):
    folder = Path(shutil.copytree(make_bundle(), tmp_path / "bundle"))
    rewrite(folder / "clftask.json", schema_version=2, unknown=1)
    with pytest.raises(DataError, match=r"bundle: was written by a newer clftask \(found 2\)"):
        bundle.fetch(str(folder), "")


@pytest.mark.parametrize("content", ["{", "[]", '{"task": "multilabel"}'])
def test_damaged_description_of_a_bundle_is_named(tiny_bundle, tmp_path, content):
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (folder / "clftask.json").write_text(content)
    with pytest.raises(DataError, match=r"clftask\.json: is damaged.* Copy the bundle again"):
        bundle.fetch(str(folder), "")
