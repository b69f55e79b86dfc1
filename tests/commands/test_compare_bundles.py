"""Two bundles on the same rows: what changed, how sure that is, and gates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from clftask.cli.main import app
from clftask.commands.compare_bundles import compare_bundles
from clftask.commands.evaluate import decide_bundle


@pytest.fixture(scope="module")
def trained(train_bundle, tmp_path_factory) -> tuple[Path, Path, dict[str, Any]]:
    """A bundle that finds not all: with bce the toy labels are not learned to the end."""
    return train_bundle(tmp_path_factory.mktemp("a"), "multilabel", "loss=bce")


@pytest.fixture(scope="module")
def generous(trained, tmp_path_factory) -> Path:
    """The same bundle with low thresholds."""
    copy = shutil.copytree(trained[0], tmp_path_factory.mktemp("b") / "bundle")
    decide_bundle(str(copy), str(trained[1]), ["decision.threshold=0.05"], None, silent)
    return copy


@pytest.fixture(scope="module")
def narrow(train_bundle, tmp_path_factory) -> Path:
    """A bundle that knows two of the labels, in another order."""
    folder = tmp_path_factory.mktemp("c")
    return train_bundle(folder, "multilabel", "data.labels.names=[sound, graphics]")[0]


def silent(line: str) -> None:
    pass


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, arguments), "--json"])


def test_a_bundle_is_no_better_than_itself(trained):
    folder, test, outcome = trained
    found = compare_bundles(str(folder), str(folder), str(test), ["macro_f1>=0"], silent)
    assert found.rows == 24
    assert found.changed == 0
    assert found.passed
    assert all(row["difference"] == 0 for row in found.metrics.values())
    macro = found.metrics["macro_f1"]
    assert (macro["low"], macro["high"]) == (0, 0)
    assert macro["a"] == pytest.approx(outcome["metrics"]["test"]["macro_f1"], abs=1e-6)
    assert found.examples == {"better": [], "worse": []}


def test_what_low_thresholds_change(trained, generous):
    found = compare_bundles(str(trained[0]), str(generous), str(trained[1]), [], silent)
    recall, precision = (found.metrics[f"micro_{name}"] for name in ("recall", "precision"))
    assert recall["difference"] > 0 > precision["difference"]
    f1 = found.metrics["micro_f1"]
    assert f1["low"] <= f1["difference"] <= f1["high"]
    assert f1["low"] < f1["high"]
    assert 0 < found.changed <= 1
    rows = pd.read_parquet(trained[1]).reset_index(drop=True)
    assert found.examples["worse"]
    for example in found.examples["worse"]:
        assert example["text"] == rows["text"][example["row"]]
        assert set(example["true"]) == set(rows["tags"][example["row"]]) == set(example["a"])
        assert set(example["b"]) != set(example["true"])
    differences = [abs(row["difference"]) for row in found.per_label]
    assert differences == sorted(differences, reverse=True)
    assert sum(row["changed"] for row in found.per_label) > 0


def test_a_label_that_a_bundle_does_not_know_is_one_it_never_gives(trained, narrow):
    found = compare_bundles(str(trained[0]), str(narrow), str(trained[1]), [], silent)
    labels = {row["label"]: row for row in found.per_label}
    assert set(labels) == {"network", "graphics", "sound"}
    assert labels["network"]["f1_b"] == 0
    assert labels["sound"]["f1_b"] > 0
    back = compare_bundles(str(narrow), str(trained[0]), str(trained[1]), [], silent)
    assert {row["label"]: row["f1_a"] for row in back.per_label} == {
        name: row["f1_b"] for name, row in labels.items()
    }


def test_gates_decide_the_exit_code(trained, generous):
    a, test = trained[0], trained[1]
    kept = run(a, generous, test, "--gate", "micro_recall>=0")
    assert kept.exit_code == 0, kept.output
    lost = run(a, generous, test, "--gate", "micro_recall>=0", "--gate", "micro_precision>=-0.001")
    assert lost.exit_code == 1
    found = json.loads(lost.stdout)
    assert [gate["passed"] for gate in found["gates"]] == [True, False]
    assert not found["passed"]
    assert "gate micro_precision>=-0.001" in lost.stderr
    assert "FAILED" in lost.stderr


def test_what_cannot_be_compared_is_refused_before_anything_is_scored(
    trained, train_bundle, tmp_path
):
    other, _, _ = train_bundle(tmp_path, "multiclass", "training.epochs=1")
    found = run(trained[0], other, trained[1])
    assert found.exit_code == 2
    assert "Compare bundles of one task" in found.stdout
    found = run(trained[0], trained[0], trained[1], "--gate", "accuracy>=0")
    assert found.exit_code == 2
    assert "unknown figure" in found.stdout


def test_a_column_that_the_table_lacks_is_named_with_the_bundle_that_reads_it(trained, tmp_path):
    folder, test, _ = trained
    other = shutil.copytree(folder, tmp_path / "other")
    meta = json.loads((other / "clftask.json").read_text())
    meta["job"]["data"]["text"] = ["label"]
    (other / "clftask.json").write_text(json.dumps(meta))
    rows = pd.read_parquet(test)
    for side, column, arguments in (
        ("A", "label", (other, folder)),
        ("B", "label", (folder, other)),
    ):
        rows.drop(columns=[column]).to_parquet(tmp_path / "t.parquet")
        found = run(*arguments, tmp_path / "t.parquet")
        (problem,) = json.loads(found.stdout)["error"]["problems"]
        assert found.exit_code == 2
        assert problem["path"] == f"table (text) of bundle {side}, {other}"
        assert problem["allowed"].startswith("must be a column of ")


@pytest.fixture(scope="module")
def binary(train_bundle, tmp_path_factory) -> tuple[Path, Path]:
    """A bundle with a positive class, and labelled rows of both classes."""
    folder = tmp_path_factory.mktemp("d")
    names = ("data.labels.names=[network, sound]", "data.labels.positive=sound")
    return train_bundle(folder, "multiclass", *names, "training.metric=f1")[:2]


def test_gates_on_the_positive_class(binary):
    folder, test = binary
    found = compare_bundles(str(folder), str(folder), str(test), ["f1>=0", "recall>=-0.1"], silent)
    assert found.passed
    assert [gate["metric"] for gate in found.gates] == ["f1", "recall"]
    assert {"precision", "recall", "f1", "roc_auc"} <= set(found.metrics)
    assert found.metrics["f1"]["low"] == found.metrics["f1"]["high"] == 0


def test_gates_name_any_k_up_to_the_number_of_labels(trained):
    folder, test, _ = trained
    found = compare_bundles(str(folder), str(folder), str(test), ["precision_at_2>=0"], silent)
    assert found.passed
    assert "precision_at_5" not in found.metrics
    done = run(folder, folder, test, "--gate", "precision_at_5>=0")
    assert done.exit_code == 2
    assert "precision_at_3" in done.stdout


def test_a_gate_on_an_undefined_figure_fails(trained, tmp_path):
    """No row has a label: average precision is undefined."""
    folder, test, _ = trained
    rows = pd.read_parquet(test)
    rows["tags"] = [[] for _ in range(len(rows))]
    rows.to_parquet(tmp_path / "empty.parquet")
    done = run(folder, folder, tmp_path / "empty.parquet", "--gate", "map>=0")
    assert done.exit_code == 1

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(done.stdout, parse_constant=refuse)
    assert found["metrics"]["map"] == {"a": None, "b": None, "difference": None}
    assert found["gates"][0]["difference"] is None
    assert "gate map>=0: undefined, FAILED" in done.stderr
