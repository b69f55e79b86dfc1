"""Bundles held against labelled tables: the same figures as in training, decisions anew."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import clftask
from clftask.cli.main import app
from clftask.commands.evaluate import decide_bundle, evaluate_bundle
from clftask.errors import ConfigError, DataError, JobError
from clftask.io import local_disk
from clftask.models import bundle


@pytest.fixture(scope="session")
def trained_once(train_bundle, tmp_path_factory) -> Callable[[str], Any]:
    """Train a task once: pytest trains anew for each test that gives a fixture its parameter.

    On 24 validation rows, calibration `auto` would fall back to none.
    """

    @functools.cache
    def trained_for(task: str) -> Any:
        return train_bundle(tmp_path_factory.mktemp(task), task, "decision.calibration=platt")

    return trained_for


@pytest.fixture(params=["multilabel", "multiclass"])
def trained(request, trained_once) -> tuple[Path, Path, dict[str, Any]]:
    """A bundle, the test rows that training held out, and its figures."""
    return trained_once(request.param)


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    return shutil.copytree(trained[0], tmp_path / "bundle")


def silent(line: str) -> None:
    pass


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments), "--json"])


def test_a_bundle_has_the_figures_that_training_found(trained):
    folder, test, outcome = trained
    found = evaluate_bundle(str(folder), str(test), silent)
    expected = {k: v for k, v in outcome["metrics"]["test"].items() if k != "loss"}
    for name in (
        "map",
        "roc_auc_macro",
        "lrap",
    ):  # two rows that are nearly alike may change places
        assert found.metrics.pop(name, 0) == pytest.approx(expected.pop(name, 0), abs=0.02)
    assert found.metrics == pytest.approx(expected, abs=1e-4)
    assert found.rows == 24
    assert found.per_label == outcome["per_label"]["test"]
    assert found.intervals == outcome["intervals"]["test"]
    for name, (low, high) in found.intervals.items():
        if name in expected:
            assert low <= expected[name] <= high


def test_a_bundle_that_is_still_in_its_run_keeps_its_learning_curves(trained, copy, tmp_path):
    validation = trained[1].with_name("validation.parquet")
    decide_bundle(str(copy), str(validation), [], None, silent)
    assert "<h2>Learning curves</h2>" not in (copy / "report.html").read_text()
    shutil.copy(trained[0].parent / "metrics.jsonl", tmp_path)
    (tmp_path / "job.yaml").write_text("task: multilabel\n")
    decide_bundle(str(copy), str(validation), [], str(tmp_path / "other"), silent)
    assert "<h2>Learning curves</h2>" in (tmp_path / "other" / "report.html").read_text()


def test_a_decision_fitted_again_on_the_same_rows_is_the_same(trained, copy):
    validation = trained[1].with_name("validation.parquet")
    before = bundle.read_meta(str(copy)).decision
    found = decide_bundle(str(copy), str(validation), [], None, silent)
    after = bundle.read_meta(str(copy))
    np.testing.assert_allclose(
        after.decision.calibration.scale, before.calibration.scale, rtol=1e-3
    )
    assert after.decision.threshold == before.threshold
    expected = {k: v for k, v in trained[2]["metrics"]["validation"].items() if k != "loss"}
    assert found.metrics == pytest.approx(expected, abs=1e-3)
    assert after.metrics == {"validation": found.metrics}
    assert after.data["decided_on"] == {"table": str(validation), "rows": 24}
    page = (copy / "report.html").read_text()
    assert "The decision was fitted on" in page
    assert "The decision was fitted on" not in (trained[0] / "report.html").read_text()
    text = "shader pixel fast tool"
    np.testing.assert_allclose(
        clftask.load(str(copy), precision="fp32").predict([text]).probabilities,
        clftask.load(str(trained[0]), precision="fp32").predict([text]).probabilities,
        atol=1e-3,
    )


@pytest.mark.parametrize("calibration", ["none", "temperature", "platt", "isotonic"])
def test_every_calibration_can_take_the_place_of_another(trained, copy, calibration):
    decide_bundle(str(copy), str(trained[1]), [f"decision.calibration={calibration}"], None, silent)
    meta = bundle.read_meta(str(copy))
    assert meta.decision.calibration.kind == calibration
    assert meta.job["decision"]["calibration"]["kind"] == calibration
    _, again = bundle.fetch(str(copy), "")
    assert again.fingerprint != bundle.read_meta(str(trained[0])).fingerprint
    raw = evaluate_bundle(str(trained[0]), str(trained[1]), silent).metrics
    found = evaluate_bundle(str(copy), str(trained[1]), silent).metrics
    plain = found["log_loss_uncalibrated" if calibration != "none" else "log_loss"]
    assert plain == pytest.approx(raw["log_loss_uncalibrated"], abs=1e-4)


def test_sets_can_be_added_and_are_predicted(trained, copy):
    coverage = "decision.sets={kind: conformal, coverage: 0.7}"
    decide_bundle(str(copy), str(trained[1]), [coverage], None, silent)
    rule = bundle.read_meta(str(copy)).decision.sets
    found = clftask.load(str(copy)).predict(["shader pixel fast tool", "audio"])
    for row, names in zip(found.probabilities, found.label_sets, strict=True):
        pairs = zip(found.label_names, row, strict=True)
        assert names == [name for name, p in pairs if p >= np.float32(rule.threshold)]
    assert found.to_pandas().columns[1] == "label_set"
    assert clftask.load(str(trained[0])).predict(["audio"]).label_sets is None


def test_a_copy_is_written_and_the_bundle_stays(trained, copy, tmp_path):
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    place = tmp_path / "other" / "bundle"
    result = run("decide", copy, trained[1], "--output", place)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["bundle"] == str(place)
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before
    assert clftask.load(str(place)).predict(["audio volume"]).probabilities.shape == (1, 3)


def test_evaluate_prints_one_json_object(trained):
    result = run("evaluate", trained[0], trained[1])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {"bundle", "table", "rows", "metrics", "per_label"} <= set(found)


@pytest.mark.parametrize(("command", "wrong"), [("evaluate", "text"), ("decide", "labels")])
def test_a_table_that_does_not_fit_is_refused(trained, copy, tmp_path, command, wrong):
    rows = pd.read_parquet(trained[1])
    dropped = ["text"] if wrong == "text" else ["tags", "label"]
    rows.drop(columns=dropped).to_parquet(tmp_path / "t.parquet")
    before = (copy / "clftask.json").read_bytes()
    result = run(command, copy, tmp_path / "t.parquet")
    assert result.exit_code == 2
    (problem,) = json.loads(result.stdout)["error"]["problems"]
    assert problem["path"] == f"table ({wrong})"
    assert "must be a column" in problem["allowed"]
    assert (copy / "clftask.json").read_bytes() == before


def test_what_is_no_decision_is_refused(trained, copy, tmp_path):
    result = run("decide", copy, trained[1], "training.epochs=3")
    assert result.exit_code == 2
    assert "must be a field of decision" in result.stdout
    assert run("decide", copy, trained[1], "decision.calibration=plat").exit_code == 2
    assert run("evaluate", tmp_path, trained[1]).exit_code == 2
    assert run("evaluate", copy, tmp_path / "absent.csv").exit_code == 2


def test_rows_of_unknown_labels_are_reported_or_refused(trained, copy, tmp_path):
    rows = pd.read_parquet(trained[1])
    is_multilabel = bundle.read_meta(str(copy)).task == "multilabel"
    rows["tags"], rows["label"] = [["strange"]] * 24, "strange"
    rows.to_parquet(tmp_path / "t.parquet")
    result = run("evaluate", copy, tmp_path / "t.parquet")
    if is_multilabel:  # rows without any of the labels
        assert result.exit_code == 0
        assert "outside the label space: strange 24" in result.stderr
    else:
        assert result.exit_code == 2
        assert "contains no usable rows" in result.stdout


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@contextlib.contextmanager
def killed_after(monkeypatch, writes):
    """Let the write of a file be the last one."""
    done = [0]

    def counted(call):
        def wrapped(*arguments):
            done[0] += 1
            if done[0] > writes:
                raise Killed
            return call(*arguments)

        return wrapped

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(local_disk, "replace", counted(local_disk.replace))
        yield


KILLS = [("multilabel", after, again) for after in (0, 3, 6, 9, 12, 15) for again in (2, 10)]


@pytest.mark.parametrize(
    ("trained", "after", "again"), [*KILLS, ("multiclass", 6, 10)], indirect=["trained"]
)
def test_a_bundle_is_whole_whenever_decide_is_killed(trained, tmp_path, monkeypatch, after, again):
    """Each write may be the last one, and that of the next attempt, too."""
    folder, table = str(shutil.copytree(trained[0], tmp_path / "bundle")), str(trained[1])
    task = bundle.read_meta(folder).task
    field = "threshold" if task == "multilabel" else "abstain_below"
    change = [f"decision.{field}=0.3"]
    old = getattr(bundle.read_meta(folder).decision, field)
    for writes in (after, again):
        with killed_after(monkeypatch, writes):
            decide_bundle(folder, table, change, None, silent)
        assert getattr(bundle.fetch(folder, "")[1].decision, field) in (old, 0.3)
    decide_bundle(folder, table, change, None, silent)
    assert getattr(bundle.fetch(folder, "")[1].decision, field) == 0.3
    assert not Path(folder, "_next").exists()


def test_decide_needs_no_metrics_of_training(copy, trained):
    (copy / "metrics.json").unlink()
    decide_bundle(str(copy), str(trained[1]), [], None, silent)
    assert "per_label" in json.loads((copy / "metrics.json").read_text())


def test_an_output_that_is_a_file_is_refused(trained, tmp_path):
    (tmp_path / "file").write_text("mine")
    found = run("decide", trained[0], trained[1], "--output", tmp_path / "file")
    assert found.exit_code == 2
    assert (tmp_path / "file").read_text() == "mine"


def test_the_same_decision_gives_the_same_bundle(trained, tmp_path):
    first, second = (
        decide_bundle(str(trained[0]), str(trained[1]), [], str(tmp_path / name), silent)
        for name in "ab"
    )
    again = decide_bundle(first.bundle, str(trained[1]), [], None, silent)
    prints = [bundle.read_meta(found.bundle).fingerprint for found in (first, second, again)]
    assert len(set(prints)) == 1


def test_decide_keeps_out_of_a_folder_that_holds_something_else(trained, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for output in (str(tmp_path), ""):
        with pytest.raises(ConfigError, match="empty folder, or an existing bundle"):
            decide_bundle(str(trained[0]), str(trained[1]), [], output, silent)


def test_rows_without_a_label_are_left_out_and_reported(trained, tmp_path):
    column = bundle.read_meta(str(trained[0])).job["data"]["labels"]["column"]
    rows = pd.read_parquet(trained[1])
    rows.loc[rows.index[:2], column] = None
    rows.to_parquet(tmp_path / "some.parquet")
    found = evaluate_bundle(str(trained[0]), str(tmp_path / "some.parquet"), silent)
    assert found.rows == len(rows) - 2
    assert "2 rows with a missing label left out" in " ".join(found.warnings)
    if column == "tags":  # a row may have no label that the bundle knows
        return
    rows[column] = "nowhere"
    rows.to_parquet(tmp_path / "others.parquet")
    with pytest.raises(DataError, match=r"\(nowhere\) are not labels of the bundle \(graphics"):
        evaluate_bundle(str(trained[0]), str(tmp_path / "others.parquet"), silent)


def test_logits_that_are_no_numbers_are_refused(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "bundle")
    model, tokenizer = bundle.open_model(str(folder), bundle.read_meta(str(folder)))
    model.classifier.bias.data[0] = float("nan")
    bundle.write(
        folder, model, tokenizer, bundle.read_meta(str(folder)), {"per_label": {"validation": []}}
    )
    with pytest.raises(JobError, match="gives NaN or infinite logits for 24 rows"):
        evaluate_bundle(str(folder), str(trained[1]), silent)


def test_undefined_figures_and_a_useless_model_are_named(trained, tmp_path):
    """Rows of one label alone: the ranking is undefined; labels that are absent are counted."""
    folder, test, _ = trained
    rows = pd.read_parquet(test)
    some = rows[rows["label"] == "sound"].copy()
    some["tags"] = [["sound"]] * len(some)
    some.to_parquet(tmp_path / "one.parquet")
    done = run("evaluate", folder, tmp_path / "one.parquet")
    assert done.exit_code == 0, done.output

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(done.stdout, parse_constant=refuse)
    assert found["metrics"]["roc_auc_macro"] is None
    absent = [row for row in found["per_label"] if row["f1"] is None]
    assert found["metrics"]["labels_absent"] == len(absent)
    assert found["metrics"]["macro_f1"] == pytest.approx(
        np.mean([row["f1"] for row in found["per_label"] if row["f1"] is not None])
    )


def test_thresholds_that_lose_to_half_are_not_kept(trained, copy, tmp_path):
    """`decide` on a dozen rows: cross-fitted macro-F1 is at least that of 0.5."""
    folder, test, _ = trained
    if bundle.read_meta(str(folder)).task == "multiclass":
        pytest.skip("classes have no thresholds")
    rows = pd.read_parquet(test).head(9)
    rows.to_parquet(tmp_path / "few.parquet")
    lines: list[str] = []
    found = decide_bundle(str(copy), str(tmp_path / "few.parquet"), ["decision.calibration=auto"],
                          None, lines.append)  # fmt: skip
    metrics, meta = found.metrics, bundle.read_meta(str(copy))
    assert metrics["micro_f1"] >= metrics.get("micro_f1_at_0.5", 0)
    assert metrics["log_loss"] <= metrics.get("log_loss_uncalibrated", np.inf)
    assert [f"warning: {line}" for line in meta.warnings] == [
        line for line in lines if line in found.warnings
    ]


# ------------------------------------------------------------------ rows of the training data


def saved_splits(trained, folder):
    """Save the table of a bundle's training as a dataset with three splits."""
    import datasets

    rows = pd.read_parquet(trained[1].with_name("toy.parquet"))
    names = {"train": "train", "dev": "validation", "test": "test"}
    parts = {n: rows[rows["split"] == split] for n, split in names.items()}
    found = {n: datasets.Dataset.from_pandas(p, preserve_index=False) for n, p in parts.items()}
    datasets.DatasetDict(found).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("command", ["evaluate", "decide"])
def test_rows_of_the_training_data_are_counted_and_warned_of(trained, copy, tmp_path, command):
    whole = trained[1].with_name("toy.parquet")
    result = run(command, copy, whole)
    found = json.loads(result.stdout)
    assert found["trained_on"] == {"train": 192, "validation": 24}
    line = "216 of 240 rows were used to train the bundle (192 train, 24 validation)"
    assert line in result.stderr
    assert any(line in warning for warning in found["warnings"])
    elsewhere = ["--output", tmp_path / "new"] if command == "decide" else []
    new = run(command, trained[0], trained[1], *elsewhere)
    assert json.loads(new.stdout)["trained_on"] == {}
    assert "used to train" not in new.stderr


def test_rows_of_a_decision_are_known_and_old_bundles_know_none(trained, copy):
    decide_bundle(str(copy), str(trained[1]), [], None, silent)
    assert evaluate_bundle(str(copy), str(trained[1]), silent).trained_on == {"decision": 24}
    (copy / "training_rows.parquet").unlink()
    whole = str(trained[1].with_name("toy.parquet"))
    assert evaluate_bundle(str(copy), whole, silent).trained_on == {}


def test_the_split_that_is_read_is_said_and_can_be_chosen(trained, tmp_path):
    place = saved_splits(trained, tmp_path / "saved")
    lines: list[str] = []
    found = evaluate_bundle(str(trained[0]), str(place), lines.append)
    assert (found.split, found.trained_on) == ("test", {})
    assert lines[0] == f"reading split test of {place}; --split selects another: train, dev"
    result = run("evaluate", trained[0], place, "--split", "dev")
    found = json.loads(result.stdout)
    assert (found["split"], found["trained_on"]) == ("dev", {"validation": 24})
    assert "reading split dev" in result.stderr
    plain = evaluate_bundle(str(trained[0]), str(trained[1]), silent)
    assert plain.split is None


@pytest.mark.parametrize("command", ["evaluate", "decide", "compare"])
def test_a_split_that_is_not_there_is_refused(trained, copy, tmp_path, command):
    place = saved_splits(trained, tmp_path / "saved")
    bundles = [copy, trained[0]][: 1 + (command == "compare")]
    found = run(command, *bundles, place, "--split", "nope")
    (problem,) = json.loads(found.stdout)["error"]["problems"]
    assert (found.exit_code, problem["path"], problem["value"]) == (2, "--split", "nope")
    assert problem["allowed"] == f"must be a split of {place}: train, dev, test"
    found = run(command, *bundles, trained[1], "--split", "test")
    (problem,) = json.loads(found.stdout)["error"]["problems"]
    assert problem["allowed"] == f"{trained[1]} has no splits"


def test_compare_warns_for_each_bundle(trained, copy):
    (copy / "training_rows.parquet").unlink()
    validation = trained[1].with_name("validation.parquet")
    found = run("compare", trained[0], copy, validation)
    line = "warning: 24 of 24 rows were used to train the bundle (24 validation)"
    assert found.stderr.count(f"{trained[0]}: {line}") == 1
    assert found.stderr.count("used to train") == 1


def test_a_split_of_score_tables_is_refused(tmp_path):
    found = run("compare", tmp_path, tmp_path, "--split", "test")
    assert found.exit_code == 2
    assert "--split: is for labelled tables (found 'test')" in found.stderr


def test_the_metric_of_the_job_is_among_the_figures_whatever_its_k(train_bundle, tmp_path):
    metric = "precision_at_2"
    folder, test, outcome = train_bundle(tmp_path, "multilabel", f"training.metric={metric}")
    trained = {split: outcome["metrics"][split][metric] for split in ("validation", "test")}
    found = evaluate_bundle(str(folder), str(test), silent)
    assert found.metrics[metric] == pytest.approx(trained["test"], abs=1e-6)
    assert f"| {metric} " in (folder / "README.md").read_text()
    again = decide_bundle(str(folder), str(test.with_name("validation.parquet")), [], None, silent)
    assert again.metrics[metric] == pytest.approx(trained["validation"], abs=1e-6)


def test_without_a_fitted_decision_the_metrics_are_those_of_training(train_bundle, tmp_path):
    plain = ("decision.calibration=none", "decision.threshold=0.5")
    folder, test, outcome = train_bundle(tmp_path, "multilabel", *plain)
    found = evaluate_bundle(str(folder), str(test), silent)
    assert found.metrics.keys() == outcome["metrics"]["test"].keys() - {"loss"}
