"""`clftask prevalence`: a score table and an audit give shares; what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

import clftask
from clftask.cli.main import app
from clftask.commands import corpus_sums
from clftask.components.score_table import Lists, ScoreColumns, TopK, Wide, write_part
from clftask.errors import ConfigError, DataError
from clftask.evaluation.prevalence import shares
from clftask.io import storage
from clftask.scoring.manifest import Counts, Manifest, PartEntry, ScorePlan
from clftask.scoring.table_store import ScoreTableStore

NAMES = ("cpp", "java", "python")
NUM_ROWS = 3_000


class World:
    """A score table of a classifier that errs, and the truth."""

    def __init__(self, place: str, task: str = "multilabel", layout: Any = None, has_id=True):
        random = np.random.default_rng(5)
        self.place, self.task = place, task
        q = random.beta([0.3, 0.5, 1.0], [0.7, 2.0, 1.0], (NUM_ROWS, 3))
        if task == "multiclass":
            q = q / q.sum(1, keepdims=True)
            best = (random.random((NUM_ROWS, 1)) > q.cumsum(1)).sum(1).clip(0, 2)
            self.y = np.arange(3) == best[:, None]
        else:
            self.y = random.random(q.shape) < q
        self.p = (q * [0.6, 0.9, 0.8]).astype(np.float32)
        self.decided = self.p > 0.5
        if task == "multiclass":
            self.decided &= self.p == self.p.max(1, keepdims=True)
        self.source = np.array(["news", "web", "forum"])[
            random.choice(3, NUM_ROWS, p=[0.2, 0.7, 0.1])
        ]
        self.write(layout or Wide(), has_id)

    def write(self, layout: Any, has_id: bool) -> None:
        store, parts = ScoreTableStore(self.place), []
        columns = ScoreColumns(self.task, NAMES, layout)
        for i, rows in enumerate(np.array_split(np.arange(NUM_ROWS), 4)):
            key = {"doc": rows} if has_id else {"_file": ["f.csv"] * len(rows), "_row": rows}
            origin = pa.table({**key, "source": self.source[rows]})
            table = columns.table(origin, self.p[rows], self.decided[rows])
            storage.put(store.part(i), write_part(table, {}))
            parts.append(PartEntry(name=f"part-{i:05d}.parquet", num_rows=len(rows), sha256=""))
        settings = {
            "input.id": "doc" if has_id else None,
            "input.keep": ["source"],
            "output.layout": layout.dump(),
        }
        bad = [{"id": "bad-1", "file": "f.csv", "row": 4_000, "reason": "blank"}]
        storage.put(store.quarantine(3), (json.dumps(bad[0]) + "\n").encode())
        plan = ScorePlan(fingerprint="", settings=settings, files=(), shards=(), columns="")
        assert store.write_plan(plan)
        store.write_manifest(
            Manifest(
                fingerprint="", bundle="", task=self.task, label_names=NAMES, parts=tuple(parts),
                counts=Counts(rows_in=NUM_ROWS + 1, rows_scored=NUM_ROWS, rows_quarantined=1),
                seconds=1.0,
            )
        )  # fmt: skip

    def audit(self, num: int = 300, **columns: Any) -> pd.DataFrame:
        """Return a random sample, labelled."""
        rows = np.random.default_rng(9).choice(NUM_ROWS, num, replace=False)
        lists = [[NAMES[i] for i in np.flatnonzero(flags)] for flags in self.y[rows]]
        names = ("labels", lists) if self.task == "multilabel" else ("label", [n[0] for n in lists])
        return pd.DataFrame({"doc": rows, names[0]: names[1]} | columns)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path / "scores"))


def of(found: Any, group: str | None = None) -> dict[str, Any]:
    return {row["label"]: row for row in found.shares if row["group"] == group}


def test_shares_are_those_of_the_formula_and_nearer_to_the_truth(world):
    audit = world.audit()
    found = clftask.prevalence(world.place, audit)
    rows = audit["doc"].to_numpy()
    wanted = shares(world.y[rows], world.p[rows], world.p.astype(float).mean(0), NUM_ROWS)
    assert (found.rows, found.audited, found.task) == (NUM_ROWS, 300, "multilabel")
    assert found.rows_to_halve == 624  # of 3,000
    labels = of(found)
    for i, name in enumerate(NAMES):
        row, truth = labels[name], world.y[:, i].mean()
        assert row["naive"] == pytest.approx(world.decided[:, i].mean())
        assert row["share"] == pytest.approx(wanted.powered.share[i], abs=1e-6)
        assert row["low"] == pytest.approx(wanted.powered.low[i], abs=1e-6)
        assert row["sample_high"] == pytest.approx(wanted.sample.high[i])
        assert row["audited"] == world.y[rows, i].sum()
        assert row["low"] < truth < row["high"]
        assert abs(row["naive"] - truth) > 0.05
    assert labels["cpp"]["worth"] > 450
    assert found.warnings == []
    assert found.notes == [
        "the audit is taken as a uniform random sample of the scored rows",
        "1 row is quarantined: the shares are of scored rows",
    ]
    frame = found.to_frame()
    assert frame["label"].tolist() == [row["label"] for row in found.shares]
    assert frame["share"].is_monotonic_decreasing
    assert "300 of 3,000 rows audited" in repr(found)
    assert "<table" in found._repr_html_()


@pytest.mark.parametrize("layout", [Wide(), Lists()], ids=lambda layout: layout.kind)
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_every_table_gives_the_same_shares(task, layout, tmp_path, monkeypatch):
    """Layouts, keys, formats and spellings of labels, in many small batches."""
    monkeypatch.setattr(corpus_sums, "BATCH_VALUES", 1)
    world = World(str(tmp_path / "scores"), task, layout)
    places = World(str(tmp_path / "places"), task, layout, has_id=False)
    audit = world.audit()
    rows, flags = audit["doc"].to_numpy(), world.y[audit["doc"].to_numpy()]
    wanted = clftask.prevalence(world.place, pa.Table.from_pandas(audit)).shares
    assert clftask.prevalence(world.place, pl.from_pandas(audit)).shares == wanted
    by_place = audit.drop(columns="doc").assign(_file="f.csv", _row=rows)
    assert clftask.prevalence(places.place, by_place).shares == wanted
    parquet.write_table(pa.Table.from_pandas(by_place), tmp_path / "audit.parquet")
    assert clftask.prevalence(places.place, str(tmp_path / "audit.parquet")).shares == wanted
    label = audit.columns[1]
    text = audit.assign(truth=audit[label].map("|".join) if label == "labels" else audit[label])
    text.drop(columns=label).to_csv(tmp_path / "audit.csv", index=False)
    named = clftask.prevalence(world.place, str(tmp_path / "audit.csv"), labels="truth")
    assert named.shares == wanted
    by_place.assign(**{label: text["truth"]}).to_csv(tmp_path / "places.csv", index=False)
    assert clftask.prevalence(places.place, str(tmp_path / "places.csv")).shares == wanted
    if task == "multilabel":
        indicators = {"doc": rows} | {n: flags[:, i].astype(int) for i, n in enumerate(NAMES)}
        assert clftask.prevalence(world.place, indicators).shares == wanted
        pd.DataFrame(indicators).to_csv(tmp_path / "flags.csv", index=False)
        assert clftask.prevalence(world.place, str(tmp_path / "flags.csv")).shares == wanted


def test_shares_by_a_kept_column(world):
    audit = world.audit(400)
    found = clftask.prevalence(world.place, audit, by="source")
    rows = audit["doc"].to_numpy()
    sizes = [(g["group"], g["rows"], g["audited"]) for g in found.groups]
    assert sizes == [(None, NUM_ROWS, 400)] + [
        (name, (world.source == name).sum(), (world.source[rows] == name).sum())
        for name in ("web", "news", "forum")
    ]
    assert of(found) == of(clftask.prevalence(world.place, audit))
    own, all_of_it = rows[world.source[rows] == "news"], world.source == "news"
    mean = world.p[all_of_it].astype(float).mean(0)
    wanted = shares(world.y[own], world.p[own], mean, all_of_it.sum())
    for i, name in enumerate(NAMES):
        row = of(found, "news")[name]
        assert row["naive"] == pytest.approx(world.decided[all_of_it, i].mean())
        assert row["share"] == pytest.approx(wanted.powered.share[i], abs=1e-6)
    without = audit[world.source[rows] != "forum"]
    row = of(clftask.prevalence(world.place, without, by="source"), "forum")["cpp"]
    assert (row["share"], row["low"], row["worth"], row["audited"]) == (None, None, None, 0)


def test_an_audit_that_does_not_fit_well_is_warned_of(world):
    audit = world.audit(40)
    odd = pd.DataFrame(
        {"doc": [5_000, 5_001, *(rows := [r for r in range(40, 44) if r not in set(audit["doc"])])],
         "labels": [["cpp"], [], ["Python"], ["pyhton", "cpp"], *[None] * (len(rows) - 2)]}
    )  # fmt: skip
    found = clftask.prevalence(world.place, pd.concat([audit, odd]))
    assert found.audited == 42
    without, unknown, missing, few = found.warnings
    assert without.startswith(f"{len(rows) - 2} audited rows without a label left out")
    assert "Python (1 row) Did you mean python?; pyhton (1 row) Did you mean python?" in unknown
    assert missing == "2 audited rows are not in the score table, and not used: 5000, 5001"
    assert few == "only 42 audited rows: the intervals are wide, and rough; label 300 or more"


def test_quarantined_rows_and_predictions_in_place_of_labels_are_named(tmp_path):
    world = World(str(tmp_path / "scores"), "multiclass")
    audit = world.audit(200)
    rows = audit["doc"].to_numpy()
    predicted = [None if not f.any() else NAMES[f.argmax()] for f in world.decided[rows]]
    copied = audit.assign(doc=audit["doc"].astype(str), label=predicted).dropna()
    found = clftask.prevalence(
        world.place, pd.concat([copied, pd.DataFrame({"doc": ["bad-1"], "label": ["cpp"]})])
    )
    assert any("(1 of them quarantined), and not used: bad-1" in w for w in found.warnings)
    assert any("they must be true labels" in w for w in found.warnings)
    assert any("the bundle abstains on" in note for note in found.notes)
    assert sum(row["naive"] for row in found.shares) < 1


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        clftask.prevalence(*arguments, **options)
    return str(error.value)


def test_what_cannot_be_estimated_is_refused(world, tmp_path):
    audit = world.audit()
    twice = pd.concat([audit, audit[:2]])
    assert "doc must be distinct; 2 values occur several times" in refused(world.place, twice)
    assert "contains no rows" in refused(world.place, audit[:0])
    unlabelled = audit.assign(labels=pd.Series([None] * 300, dtype=object))
    assert "contains no labelled rows" in refused(world.place, unlabelled)
    lost = audit.assign(doc=audit["doc"] + 10**6)
    assert "contains no row of the score table; rows are found by doc" in refused(world.place, lost)
    both = refused(world.place, audit.rename(columns={"doc": "id", "labels": "truth"}))
    assert "AUDIT: must be a column of the audit: it identifies the rows" in both
    assert "Name another with --labels. Available columns: id, truth." in both
    assert "Did you mean labels?" in refused(world.place, audit, labels="label")
    assert "doc is missing" in refused(world.place, audit.assign(doc=None))
    assert "must be a path, a DataFrame" in refused(world.place, 3)
    assert "kept: source" in refused(world.place, audit, by="lang")
    assert "must be a score table" in refused(str(tmp_path), audit)
    assert "no file found" in refused(world.place, str(tmp_path / "none.csv"))
    top = World(str(tmp_path / "top"), layout=TopK(k=2))
    assert "must have the layout wide or list" in refused(top.place, audit)
    (tmp_path / "top" / "_manifest.json").unlink()
    assert "is incomplete" in refused(top.place, audit)
    part = tmp_path / "scores" / "part-00001.parquet"
    table = parquet.read_table(part)
    place = table.column_names.index("p_java")
    holes = pa.array([None, *table["p_java"].to_pylist()[1:]], pa.float32())
    parquet.write_table(table.set_column(place, "p_java", holes), part)
    assert "part-00001.parquet: cannot be read: a probability is missing" in refused(
        world.place, audit
    )
    part.write_bytes((tmp_path / "scores" / "part-00000.parquet").read_bytes())
    several = refused(world.place, audit)
    assert "occurs in several rows of the score table" in several


def test_another_delimiter_is_refused_until_it_is_named(world, tmp_path):
    audit = world.audit()
    wanted = clftask.prevalence(world.place, audit).shares
    row = next(i for i, labels in enumerate(audit["labels"]) if len(labels) > 1)
    for delimiter in (",", "; ", " "):
        text = audit.assign(labels=[delimiter.join(labels) for labels in audit["labels"]])
        message = refused(world.place, text)
        assert f"AUDIT, row {row}: must be one label; these are labels with" in message
        assert f"Set --delimiter {delimiter[:1]!r}." in message
        assert repr(text["labels"][row]) in message or text["labels"][row] in message
        found = clftask.prevalence(world.place, text, delimiter=delimiter[:1])
        assert (found.shares, found.warnings) == (wanted, [])
    joined = audit.assign(labels=[[",".join(names)] if names else [] for names in audit["labels"]])
    assert "Make each an item of the list." in refused(world.place, joined)
    with pytest.raises(ConfigError, match="is for a column of text with several labels in a row"):
        clftask.prevalence(world.place, audit, delimiter=",")
    path = tmp_path / "audit.csv"
    text.to_csv(path, index=False)
    arguments = ["prevalence", world.place, str(path)]
    assert CliRunner().invoke(app, arguments).exit_code == 2
    assert CliRunner().invoke(app, [*arguments, "--delimiter", " "]).exit_code == 0


def test_several_labels_in_a_row_of_a_multiclass_audit_are_refused(tmp_path):
    world = World(str(tmp_path / "scores"), "multiclass")
    audit = world.audit(100)
    audit.loc[7, "label"] = "cpp|java"
    assert "AUDIT, row 7: must be one label" in (found := refused(world.place, audit))
    assert "Write one label." in found


def test_a_column_with_too_many_values_is_refused(world, monkeypatch):
    monkeypatch.setattr(corpus_sums, "MAX_GROUPS", 2)
    assert "at most 2 different values" in refused(world.place, world.audit(), by="source")


def test_the_command_prints_tables_and_json(world, tmp_path):
    path = tmp_path / "audit.parquet"
    world.audit(299).to_parquet(path)
    arguments = ["prevalence", world.place, str(path), "--by", "source"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "299 of 3,000 rows audited" in shown.stdout
    assert "source web: " in shown.stdout
    assert "note: the audit is taken as a uniform random sample" in shown.stdout
    assert "more audited rows would halve the intervals" in " ".join(shown.stdout.split())
    found = CliRunner().invoke(app, [*arguments, "--json"])
    result = json.loads(found.stdout.splitlines()[-1])
    assert (result["rows"], result["audited"], len(result["shares"])) == (NUM_ROWS, 299, 12)
    assert {"naive", "sample", "share", "low", "high", "worth"} < result["shares"][0].keys()
    wrong = CliRunner().invoke(app, ["prevalence", world.place, str(path), "--by", "x"])
    assert wrong.exit_code == 2


def test_a_table_on_s3(s3, world):
    """The same bytes there."""
    place = f"{s3.bucket}/prevalence"
    storage.upload(world.place, place)
    audit = world.audit()
    wanted = clftask.prevalence(world.place, audit, by="source").shares
    assert clftask.prevalence(place, audit, by="source").shares == wanted
