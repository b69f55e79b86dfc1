"""Two score tables: rows that changed, labels and confidences that drifted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from clftask.cli.main import app
from clftask.commands.compare_tables import compare_tables
from clftask.components.score_table import ScoreColumns, TopK, write_part
from clftask.errors import ConfigError, DataError
from clftask.scoring.manifest import Counts, Manifest, PartEntry, ScorePlan
from clftask.scoring.table_store import ScoreTableStore

NAMES = ("cpp", "java", "python")


def write(
    folder: Path,
    rows: dict[Any, list[str]],
    task: str = "multilabel",
    names: tuple[str, ...] = NAMES,
    confidence: float = 0.75,
    num_parts: int = 2,
    has_id: bool = True,
    is_complete: bool = True,
) -> str:
    """Write a score table whose rows have these labels."""
    store, keys = ScoreTableStore(str(folder)), list(rows)
    columns = ScoreColumns(task, names, TopK(k=1))
    parts = []
    folder.mkdir(exist_ok=True)
    for i in range(num_parts := min(num_parts, len(keys))):
        own = keys[i::num_parts]
        decided = np.array([[n in rows[key] for n in names] for key in own]).reshape(-1, len(names))
        probabilities = np.where(decided, np.float32(confidence), np.float32(0.1))
        origin = pa.table({"doc": pa.array(own)})
        if not has_id:
            places = [key.split("#") for key in own]
            origin = pa.table(
                {"_file": [f for f, _ in places], "_row": [int(r) for _, r in places]}
            )
        Path(store.part(i)).write_bytes(
            write_part(columns.table(origin, probabilities, decided), {})
        )
        parts.append(PartEntry(name=f"part-{i:05d}.parquet", num_rows=len(own), sha256=""))
    settings = {"input.id": "doc" if has_id else None}
    plan = ScorePlan(fingerprint="", settings=settings, files=(), shards=(), columns="")
    manifest = Manifest(
        fingerprint="",
        bundle="",
        task=task,
        label_names=names,
        counts=Counts(rows_in=len(keys), rows_scored=len(keys)),
        parts=tuple(parts),
        seconds=1.0,
    )
    (folder / "_plan.json").write_text(json.dumps(plan.dump()))
    if is_complete:
        (folder / "_manifest.json").write_text(json.dumps(manifest.dump()))
    return str(folder)


BEFORE = {"a": ["cpp"], "b": ["java", "python"], "c": [], "d": ["python"]}
AFTER = {"d": ["python"], "c": ["java"], "b": ["python", "java"], "a": []}


def test_a_table_is_the_same_as_itself(tmp_path):
    a = write(tmp_path / "a", BEFORE)
    found = compare_tables(a, a, ["changed<=0", "label_drift<=0", "confidence_drift<=0"])
    assert (found.rows_a, found.rows_b, found.rows) == (4, 4, 4)
    assert (found.changed, found.label_drift, found.confidence_drift) == (0, 0, 0)
    assert found.passed
    assert found.examples == []
    assert all(row["low"] == row["high"] == 0 for row in found.per_label)


def test_rows_are_found_again_in_another_order_and_in_other_parts(tmp_path):
    """c gained java, a lost cpp; b has the same two labels."""
    a = write(tmp_path / "a", BEFORE)
    b = write(tmp_path / "b", AFTER, num_parts=3)
    found = compare_tables(a, b, [])
    assert (found.rows, found.changed) == (4, 0.5)
    labels = {row["label"]: row for row in found.per_label}
    assert {n: (r["gained"], r["lost"]) for n, r in labels.items()} == {
        "cpp": (0, 1),
        "java": (1, 0),
        "python": (0, 0),
        "(no label)": (1, 1),
    }
    java = labels["java"]
    assert (java["share_a"], java["share_b"], java["difference"]) == (0.25, 0.5, 0.25)
    margin = 1.96 * np.sqrt((1 / 4 - (1 / 4) ** 2) / 4)
    assert (java["low"], java["high"]) == (
        pytest.approx(0.25 - margin),
        pytest.approx(0.25 + margin),
    )
    assert {e["key"]: (e["a"]["labels"], e["b"]["labels"]) for e in found.examples} == {
        "a": (["cpp"], []),
        "c": ([], ["java"]),
    }


def test_label_drift_is_the_jensen_shannon_distance(tmp_path):
    a = write(tmp_path / "a", {i: ["cpp"] for i in range(4)})
    b = write(tmp_path / "b", {i: ["java"] for i in range(10, 14)}, confidence=0.25)
    c = write(tmp_path / "c", {i: ["cpp" if i % 2 else "java"] for i in range(4)})
    apart = compare_tables(a, b, [])
    assert (apart.rows, apart.changed) == (0, None)
    assert apart.label_drift == pytest.approx(1.0)
    assert apart.confidence_drift == 1.0
    p, q = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    m = (p + q) / 2
    divergence = (np.log2(1 / m[0]) + 0.5 * np.log2(0.5 / m[0]) + 0.5 * np.log2(0.5 / m[1])) / 2
    found = compare_tables(a, c, [])
    assert found.label_drift == pytest.approx(np.sqrt(divergence))
    assert found.confidence_drift == 0
    margin = 1.96 * np.sqrt(0.25 / 4)
    wide = compare_tables(a, write(tmp_path / "e", {i: [NAMES[i % 2]] for i in range(4, 8)}), [])
    cpp = next(row for row in wide.per_label if row["label"] == "cpp")
    assert (cpp["low"], cpp["high"]) == (
        pytest.approx(-0.5 - margin),
        pytest.approx(-0.5 + margin),
    )


def test_multiclass_tables_with_abstentions_and_other_labels(tmp_path):
    places = {f"f.csv#{i}": ["cpp"] for i in range(3)}
    a = write(tmp_path / "a", places, "multiclass", has_id=False)
    other = {"f.csv#0": ["cpp"], "f.csv#1": [], "f.csv#2": ["rust"]}
    b = write(tmp_path / "b", other, "multiclass", ("rust", "cpp"), has_id=False)
    found = compare_tables(a, b, [])
    assert found.changed == pytest.approx(2 / 3)
    assert {r["label"]: (r["gained"], r["lost"]) for r in found.per_label} == {
        "cpp": (0, 2),
        "rust": (1, 0),
        "(no label)": (1, 0),
    }


def test_keys_that_repeat_tell_no_row(tmp_path):
    a = write(tmp_path / "a", BEFORE)
    part = tmp_path / "a" / "part-00000.parquet"  # a and c; once more under the keys of b and d
    shutil.copy(part, tmp_path / "a" / "part-00001.parquet")
    found = compare_tables(a, a, [])
    assert (found.rows_a, found.rows, found.changed) == (4, 0, None)
    b = write(tmp_path / "b", {"a": ["cpp"], "z": []})
    assert compare_tables(b, a, []).rows == 0


def test_empty_tables(tmp_path):
    a, b = write(tmp_path / "a", {}), write(tmp_path / "b", {})
    with pytest.raises(DataError, match="contains no rows"):
        compare_tables(a, b, [])


def test_what_cannot_be_compared_is_refused(tmp_path, tiny_bundle):
    a = write(tmp_path / "a", BEFORE)
    half = write(tmp_path / "half", BEFORE, is_complete=False)
    classes = write(tmp_path / "classes", {"a": ["cpp"]}, "multiclass")
    far = write(tmp_path / "far", {"z": ["cpp"]})
    with pytest.raises(DataError, match="is incomplete"):
        compare_tables(a, half, [])
    with pytest.raises(DataError, match=r"must be a score table.*clftask compare A B TABLE"):
        compare_tables(tiny_bundle, a, [])
    with pytest.raises(DataError, match="is multiclass"):
        compare_tables(a, classes, [])
    with pytest.raises(DataError, match="no rows in common"):
        compare_tables(a, far, ["changed<=0.1"])
    with pytest.raises(ConfigError, match="lower changed is better"):
        compare_tables(a, a, ["changed>=0.1"])
    with pytest.raises(ConfigError, match="Allowed: changed"):
        compare_tables(a, a, ["macro_f1>=0"])


def test_command_compares_tables_and_a_gate_decides(tmp_path):
    a, b = write(tmp_path / "a", BEFORE), write(tmp_path / "b", AFTER)
    gates = ["--gate", "changed<=0.6", "--gate", "label_drift<=0.01"]
    found = CliRunner().invoke(app, ["compare", a, b, *gates, "--json"])
    assert found.exit_code == 1
    result = json.loads(found.stdout.splitlines()[-1])
    assert [gate["passed"] for gate in result["gates"]] == [True, False]
    assert "4 rows in both: 50.00% have different predictions" in found.stderr
    assert "gate label_drift<=0.01" in found.stderr
    assert CliRunner().invoke(app, ["compare", a, b]).exit_code == 0
