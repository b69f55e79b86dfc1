"""A linear model from the job file to the bundle, and all that can be done with the bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import _write_toy_table
from score_world import World
from typer.testing import CliRunner

import clftask
from clftask.cli.main import app
from clftask.config.results import TrainResult
from clftask.config.train import TrainJob
from clftask.distributed.train.driver import train
from clftask.errors import ConfigError, DataError
from clftask.models import bundle
from clftask.training import linear
from clftask.training.run_log import RunLog


def document(folder: Path, **more: Any) -> dict[str, Any]:
    labels = {"kind": "list", "column": "tags"}
    split = {"kind": "column", "column": "split", "group": "source"}
    data = {"train": str(folder / "toy.parquet"), "text": "text", "labels": labels, "split": split}
    run = {"storage": str(folder), "name": "run"}
    model = {"base": "tfidf", "C": 1}
    return {"task": "multilabel", "data": data, "model": model, "run": run, **more}


def trained(source: dict[str, Any], *overrides: str) -> tuple[TrainResult, list[str]]:
    lines: list[str] = []
    found = train(TrainJob.load(source, overrides), lines.append, lambda record: None)
    return found, lines


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, TrainResult, list[str]]:
    """A finished run, and a table of its test rows beside it."""
    folder = tmp_path_factory.mktemp("linear")
    table = _write_toy_table(folder / "toy.parquet", 240)
    rows = pd.read_parquet(table)
    rows[rows["split"] == "test"].to_parquet(folder / "test.parquet")
    return folder, *trained(document(folder))


def run(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_a_run_has_the_files_of_any_run(finished):
    folder, result, lines = finished
    files = {p.relative_to(folder / "run").as_posix() for p in folder.glob("run/**/*")}
    assert files == {
        "job.yaml", "split.parquet", "metrics.jsonl", "log.txt", "bundle", "bundle/README.md",
        "bundle/clftask.json", "bundle/metrics.json", "bundle/model.safetensors",
        "bundle/report.html", "bundle/training_rows.parquet", "bundle/vocabulary.json",
    }  # fmt: skip
    assert "rows: 192 train, 24 validation, 24 test" in lines
    assert result.metrics["test"]["micro_f1"] == 1.0
    assert result.metrics["test"]["micro_f1_majority"] < 0.5
    assert result.metrics["test"]["loss"] > 0
    record = json.loads((folder / "run/metrics.jsonl").read_text())
    assert record["eval_micro_f1"] == 1.0
    assert "done:" in (folder / "run/log.txt").read_text()


def test_card_and_report_say_what_the_model_is(finished):
    place = Path(finished[1].bundle)
    card = (place / "README.md").read_text()
    assert "Linear model of TF-IDF vectors" in card
    assert "Plain transformers cannot open this bundle" in card
    assert "library_name: clftask" in card
    assert "truncated" not in card
    report = (place / "report.html").read_text()
    assert "Linear model of TF-IDF vectors" in report
    assert "No report" not in report


def test_a_finished_run_returns_at_once_and_a_killed_one_starts_again(finished, monkeypatch):
    folder, result, _ = finished
    again, lines = trained(document(folder), "run.resume=true")
    assert again.metrics == result.metrics
    assert any("is finished" in line for line in lines)
    with pytest.raises(ConfigError, match="is taken"):
        trained(document(folder))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(linear, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(document(folder), "run.name=killed")
    found = run("inspect", folder / "killed")
    assert found["state"].startswith("unfinished")
    after, _ = trained(document(folder), "run.name=killed", "run.resume=true")
    assert after.metrics == result.metrics


def test_a_failure_is_in_the_log(finished, monkeypatch):
    folder, lines = finished[0], []
    monkeypatch.setattr(RunLog, "write", lambda self: None)
    monkeypatch.setattr(linear, "fit", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained(document(folder), "run.name=failed")
    lines = (folder / "failed/log.txt").read_text().splitlines()
    assert lines[-1].endswith("failed: division by zero")


def test_nothing_is_written_if_no_word_is_frequent(finished):
    folder = finished[0]
    with pytest.raises(DataError) as caught:
        trained(document(folder), "run.name=rare", "model.min_df=193")
    assert caught.value.problems[0].path == "model.min_df"
    assert not (folder / "rare").exists()


def test_load_predicts_as_training_did(finished):
    folder, result, _ = finished
    scorer = clftask.load(result.bundle)
    assert "linear model of TF-IDF vectors; fp32 on cpu" in repr(scorer)
    rows = pd.read_parquet(folder / "test.parquet")
    found = scorer.predict(rows)
    assert [set(labels) for labels in found.labels] == [set(tags) for tags in rows["tags"]]
    assert scorer.predict([]).probabilities.shape == (0, 3)
    one = scorer.predict(rows["text"][:1].tolist() * 3)
    assert one.probabilities.tolist() == found.probabilities[[0, 0, 0]].tolist()
    for wrong in ({"precision": "bf16"}, {"device": "cuda"}):
        with pytest.raises(ConfigError, match="the bundle's model is linear"):
            clftask.load(result.bundle, **wrong)


def test_evaluate_decide_compare_and_inspect(finished, tmp_path):
    folder, result, _ = finished
    test = folder / "test.parquet"
    found = run("evaluate", result.bundle, test)
    assert found["metrics"]["micro_f1"] == result.metrics["test"]["micro_f1"]
    assert found["metrics"]["log_loss"] == pytest.approx(result.metrics["test"]["log_loss"])
    assert found["by_length"][0]["rows"] > 0
    other = tmp_path / "other"
    overrides = ["decision.threshold=0.9", "decision.calibration=none"]
    run("decide", result.bundle, test, *overrides, "--output", other)
    meta = bundle.read_meta(str(other))
    assert (meta.decision.threshold, meta.decision.calibration.kind) == (0.9, "none")
    assert meta.fingerprint != bundle.read_meta(result.bundle).fingerprint
    found = run("compare", result.bundle, other, test)
    assert found["metrics"]["micro_f1"]["difference"] <= 0
    found = run("inspect", result.bundle)
    assert found["model"] == "Linear model of TF-IDF vectors, fitted with scikit-learn"
    assert (found["read"], found["metric"]) == ("whole texts", "micro_f1")
    assert run("inspect", folder / "run")["base"] == "tfidf"


def test_inspect_data_measures_characters(finished):
    found = run("inspect", finished[0] / "run/job.yaml", "--data")
    assert (found["tokens"], found["max_length"]) == ({}, None)
    assert found["characters"]["train"]["longest"] > 20
    assert not [line for line in found["warnings"] if "token" in line]


def test_score_gives_each_row_once(finished, tmp_path):
    world = World(tmp_path, finished[1].bundle)
    world.write("a.parquet", 30)
    with pytest.raises(KeyboardInterrupt):
        world.run(stop_after=10)
    manifest = world.run()
    assert (manifest.counts.rows_in, manifest.counts.rows_scored) == (30, 30)
    assert world.ids() == sorted(f"row-{i}" for i in range(30))
    assert manifest.precision is not None
    assert str(manifest.precision) == "fp32"
    table = world.table().to_pandas().set_index("id")
    texts = [f"fast audio tool {i % 7}" for i in range(30)]
    expected = world.scorer.predict(texts).probabilities
    names = [f"p_{name}" for name in world.meta.label_names]
    found = table.loc[[f"row-{i}" for i in range(30)], names].to_numpy()
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "setting",
    [
        {"precision": "bf16"},
        {"scaling": {"use_gpu": True}},
        {"scaling": {"gpus_per_worker": 0.5}},
    ],
)
def test_score_refuses_what_a_linear_model_lacks(finished, tmp_path, setting):
    world = World(tmp_path, finished[1].bundle)
    world.write("a.parquet", 5)
    with pytest.raises(ConfigError, match="the bundle's model is linear"):
        world.run(**setting)


def test_multiclass_with_sets_and_abstention(finished):
    folder = finished[0]
    source = document(folder, task="multiclass", decision={"abstain_below": 0.9})
    source["data"]["labels"] = {"kind": "class", "column": "label"}
    source["decision"]["sets"] = {"kind": "conformal", "coverage": 0.9}
    chars = ["run.name=classes", "model.words=null", "model.chars=[2, 4]"]
    result, _ = trained(source, "loss={kind: class_balanced}", *chars)
    metrics = result.metrics["test"]
    assert metrics["set_coverage"] >= 0.9
    assert metrics["coverage"] <= 1
    found = clftask.load(result.bundle).predict(["audio speaker melody", "of nothing"])
    assert found.labels == ["sound", None]
    assert found.label_sets is not None


def test_the_baseline_of_another_model(finished, tiny_base):
    """The metrics of a linear model stand beside those of the model, split by split."""
    from clftask.data.prepare import prepare
    from clftask.evaluation.baseline import against_linear, with_linear

    folder = finished[0]
    model = {"base": str(tiny_base), "max_length": 32}
    job = TrainJob.load(document(folder, model=model, baseline=True))
    found = linear.baseline(job, prepare(job))
    assert 0.9 < (found["test"]["micro_f1"] or 0) <= 1
    assert found.keys() == {"validation", "test"}
    metrics = with_linear({"micro_f1": 0.75, "micro_f1_majority": 0.4}, {"micro_f1": 0.5})
    assert metrics == {"micro_f1": 0.75, "micro_f1_linear": 0.5, "micro_f1_majority": 0.4}
    line = "micro_f1 on test is 0.7500, better than linear by 0.2500"
    assert against_linear(metrics, "micro_f1", "test") == line
    worse = with_linear({"log_loss": 0.5}, {"log_loss": 0.25})
    line = "log_loss on test is 0.5000, worse than linear by 0.2500"
    assert against_linear(worse, "loss", "test") == line


def test_a_linear_model_learns_from_soft_labels_and_row_weights(finished, tiny_base):
    """Also as the baseline of another model. Metrics compare it with the true labels."""
    from clftask.data.prepare import prepare

    folder = finished[0]
    rows, names = pd.read_parquet(folder / "toy.parquet"), ("graphics", "network", "sound")
    for name in names:
        rows[f"p_{name}"] = (rows["label"] == name) * 0.7 + 0.1
    rows["w"] = 1.0
    doubtful = rows.assign(p_graphics=0.8, p_network=0.1, p_sound=0.1, w=0.0)
    pd.concat([rows, doubtful[doubtful["split"] == "train"]]).to_parquet(folder / "soft.parquet")
    source = document(folder, task="multiclass")
    labels = {"kind": "probabilities", "prefix": "p_", "hard": {"kind": "class", "column": "label"}}
    source["data"] |= {"train": str(folder / "soft.parquet"), "labels": labels, "weight": "w"}
    source |= {"decision": {"calibration": "none"}}
    source["model"]["C"] = 100
    result, lines = trained(source, "run.name=soft")
    assert "row weights: 0 to 2 times their mean; 192 rows of weight 0" in lines
    assert result.metrics["test"]["accuracy"] == 1.0
    found = clftask.load(result.bundle).predict(rows["text"][:30].tolist())
    assert found.labels == rows["label"][:30].tolist()
    assert found.probabilities.max(1) == pytest.approx([0.8] * 30, abs=0.1)
    card = Path(result.bundle, "README.md").read_text()
    assert "- Soft labels: probabilities in p_…." in card
    assert "- Train rows weighted by column w; metrics are unweighted." in card
    model = {"base": str(tiny_base), "max_length": 32}
    job = TrainJob.load(source | {"model": model, "baseline": True})
    assert linear.baseline(job, prepare(job))["test"]["accuracy"] == 1.0


NO_TORCH = """
import sys
from dataclasses import replace
from pathlib import Path
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data.prepare import prepare
from clftask.distributed.train.driver import train
from clftask.distributed.tune import search, trial_actor
from clftask.distributed.tune.placement import Slots
from clftask.distributed.tune.shared import Shared, new_trial
from clftask.training import linear
from clftask.tuning.linear_trial import publish_linear

job, silent = TrainJob.load(Path("job.yaml")), lambda *_: None
train(job, silent, silent)
tuned = TuneJob.load({"train": "job.yaml", "space": {"model.C": {"kind": "grid", "values": [1]}}})

class Local(Shared):
    def work(self, job):
        return linear.work_of(job, self.run, prepare(job))

slots = Slots(concurrency=1, workers=1, cpus=1.0, gpus=0.0)
shared = Local(tuned, str(Path.cwd() / "search"), {}, (), {}, "fp32", slots, True)
trial = new_trial(tuned, {"trial": 0, "model.C": 0}, "fp32")
done = trial_actor._run(shared, trial, trial_actor._Pointer(), silent)
publish_linear(shared.work(tuned.trial(done.picks)), done)
print(done.state, "torch" in sys.modules, "transformers" in sys.modules)
"""


def test_training_and_trials_import_no_torch(finished, tmp_path):
    source = TrainJob.load(document(finished[0]), [f"run.storage={tmp_path}"])
    (tmp_path / "job.yaml").write_text(source.to_yaml())
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["finished", "False", "False"]
    assert (tmp_path / "search/bundle/model.safetensors").exists()
