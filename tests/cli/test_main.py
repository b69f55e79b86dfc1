"""The command line: every mistake of a user is named, exit code 2, and nothing is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from clftask.cli.errors import guarded
from clftask.cli.main import app
from clftask.yaml_io import parse_yaml


@pytest.fixture
def document(toy_table, tiny_base, tmp_path) -> dict[str, Any]:
    return {
        "task": "multiclass",
        "data": {
            "train": str(toy_table(60)),
            "text": "text",
            "labels": {"kind": "class", "column": "label"},
        },
        "model": {"base": str(tiny_base), "max_length": 32},
        "run": {"storage": str(tmp_path / "runs")},
    }


def refused(document: dict[str, Any], tmp_path: Path, *overrides: str) -> list[dict[str, Any]]:
    """Run `clftask train`; assert exit 2 and nothing written; return the problems."""
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(document))
    result = CliRunner().invoke(app, ["train", str(file), *overrides, "--json"])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "runs").exists()
    problems = json.loads(result.stdout.splitlines()[-1])["error"]["problems"]
    for problem in problems:
        assert problem["path"] in result.stderr
    return problems


def paths(problems: list[dict[str, Any]]) -> set[str]:
    return {p["path"] for p in problems}


@pytest.mark.parametrize(
    ("command", "content", "kind"),
    [
        ("train", {"bundle": "b", "input": {"path": "x.csv"}, "output": {"path": "o"}}, "score"),
        ("score", {"task": "multiclass", "data": {}, "model": {"base": "b"}}, "train"),
        ("train", {"train": "job.yaml", "space": {}}, "tune"),
    ],
)
def test_a_job_of_another_kind_names_its_command(tmp_path, command, content, kind):
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(content))
    for before in ("", "submit "):
        result = CliRunner().invoke(app, [*before.split(), command, str(file)])
        assert result.exit_code == 2
        assert result.stderr == f"error: {file}: is a {kind} job. Use clftask {before}{kind}.\n"


def test_a_scoring_job_with_a_field_of_other_tools_keeps_its_kind(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps({"model": "b", "input": {"path": "x.csv"}, "output": {"path": "o"}}))
    for command in (["score"], ["inspect"]):
        result = CliRunner().invoke(app, [*command, str(file)])
        assert result.exit_code == 2
        problem = "model: is not a field of the job file (found 'b'). Use bundle."
        assert problem in result.stderr
        assert "train job" not in result.stderr


def test_all_mistakes_of_the_file_at_once(document, tmp_path):
    document["training"] = {"epohcs": 3, "learning_rate": "fast"}
    document["loss"] = "focused"
    found = refused(document, tmp_path, "seed=-1")
    expected = {"training.epohcs", "training.learning_rate", "loss.kind", "seed"}
    assert paths(found) == expected
    assert "epochs" in next(p["remedy"] for p in found if p["path"] == "training.epohcs")


def test_all_wrong_columns_at_once(document, tmp_path):
    found = refused(document, tmp_path, "data.text=[txt, text]", "data.id=key")
    assert [(p["path"], p["value"]) for p in found] == [("data.text", "txt"), ("data.id", "key")]
    assert "text" in found[0]["allowed"]


@pytest.mark.parametrize(
    ("overrides", "path", "word"),
    [
        (["data.train=nowhere.csv"], "data.train", "no file"),
        (["data.labels={kind: list, column: tags}"], "data.labels.kind", "multiclass"),
        (["task=multilabel"], "data.labels.kind", "multilabel"),
        (["task=multilabel", "data.labels={kind: list, column: label}"], "label", "lists"),
        (["data.labels.column=tags"], "tags", "one label per row"),
        (["data.split={kind: random, validation: 0.5, test: 0.5}"], "data.split", "below 1"),
        (["data.split={kind: column, column: source}"], "data.split.column", "train"),
        (["model.base=/no/such/folder"], "model.base", "is not a folder"),
        (["model.base=pkg://no_such_package/model"], "model.base", "not installed"),
        pytest.param(
            ["model.base=no-owner/no-such-model"],
            "model.base",
            "cannot be opened",
            marks=pytest.mark.ray,
        ),
        (["model.max_length=4096"], "model.max_length", "at most 128"),
        (["training.batch_size=32", "scaling.workers=5"], "training.batch_size", "multiple of"),
        (["training.hf={bf16: true}"], "training.hf", "training.precision"),
        (["training.hf={no_such_argument: 1}"], "training.hf.no_such_argument", "is not a field"),
        (["training.metric=mirco_f1"], "training.metric", "micro_f1"),
        (["data.labels.min_count=1000"], "data.labels", "two or more labels"),
        (["run.storage=hdfs://host/runs"], "run.storage", "in an object store"),
        (["run.name=../elsewhere"], "run.name", "pattern"),
        (["tracking=[wandb]"], "tracking", "not installed"),
        (["decision.calibration=plat"], "decision.calibration", "platt"),
        (["decision.threshold=1.5"], "decision.threshold", "less than 1"),
        (["decision.threshold={kind: floor}"], "decision.threshold", "precision or recall"),
        (["decision.threshold=0.4"], "decision.threshold", "multilabel"),
        (["scaling.workers=[8, 2]"], "scaling.workers", "[min, max]"),
        (["scaling.workers=[2, 64]"], "training.batch_size", "at least scaling.workers"),
        (["epochs"], "epochs", "field.path=value"),
    ],
)
def test_refusals(document, tmp_path, overrides, path, word):
    found = refused(document, tmp_path, *overrides)
    assert any(path in p["path"] for p in found), found
    assert any(word in p["allowed"] + p["remedy"] for p in found), found


@pytest.mark.parametrize(
    ("change", "overrides", "path", "word"),
    [
        (lambda t: t.assign(text=None), [], "data.text", "null or blank"),
        (lambda t: t.assign(text="  "), [], "data.text", "null or blank"),
        (lambda t: t.assign(label="one"), [], "data.labels", "two or more labels"),
        (lambda t: t.assign(text=range(len(t))), [], "text column text", "strings"),
        (lambda t: t.head(0), [], "toy.parquet", "contains no rows"),
        (lambda t: t.assign(id=[[1]] * len(t)), ["data.id=id"], "data.id", "strings or numbers"),
        (lambda t: t.assign(label=[None, *t.label[1:]]), [], "row 0", "label is missing"),
        (
            lambda t: t.assign(label=["alone", *t.label[1:]]),
            ["data.split=stratified"],
            "data.split",
            "3 rows of every class",
        ),
        (
            lambda t: t.assign(source="one"),
            ["data.split={kind: grouped, group: source}"],
            "data.split.group",
            "3 groups",
        ),
    ],
)
def test_refused_tables(document, tmp_path, change, overrides, path, word):
    file = Path(document["data"]["train"])
    change(pd.read_parquet(file)).to_parquet(file)
    found = refused(document, tmp_path, *overrides)
    assert any(path in p["path"] for p in found), found
    assert any(word in p["allowed"] for p in found), found


def test_class_of_one_row_is_named(document, tmp_path):
    file = Path(document["data"]["train"])
    table = pd.read_parquet(file)
    table.assign(label=["alone", *table.label[1:]]).to_parquet(file)
    found = refused(document, tmp_path, "data.split=stratified")
    assert "alone (1)" in found[0]["value"]


def test_half_downloaded_model(document, tmp_path, tiny_base):
    import shutil

    folder = shutil.copytree(tiny_base, tmp_path / "half")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    found = refused(document, tmp_path, f"model.base={folder}")
    assert "damaged or incomplete" in found[0]["allowed"]


def test_model_that_wants_remote_code(document, tmp_path, tiny_base):
    import shutil

    folder = shutil.copytree(tiny_base, tmp_path / "remote")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "modeling.Model"}, "model_type": "new"}
    (folder / "config.json").write_text(json.dumps(config))
    found = refused(document, tmp_path, f"model.base={folder}")
    assert "never runs" in found[0]["allowed"]


def test_bucket_that_is_missing_or_refused(document, tmp_path, s3, s3_user):
    found = refused(document, tmp_path, "run.storage=s3://no-such-bucket/runs")
    assert found[0]["path"] == "run.storage"
    assert "does not exist" in found[0]["allowed"]
    with s3_user(s3.admin[0], "wrong-secret"):
        found = refused(document, tmp_path, f"run.storage={s3.bucket}/runs")
    assert "denied" in found[0]["allowed"]


def test_job_file_that_is_none(tmp_path):
    for name, text in (("absent.yaml", None), ("list.yaml", "- 1"), ("bad.yaml", "a: [")):
        file = tmp_path / name
        if text is not None:
            file.write_text(text)
        result = CliRunner().invoke(app, ["train", str(file)])
        assert result.exit_code == 2
        assert name in result.stderr


def test_dry_run_prints_a_job_that_loads(document, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(document))
    result = CliRunner().invoke(app, ["train", str(file), "training.epochs=7", "--dry-run"])
    assert result.exit_code == 0
    again = tmp_path / "again.yaml"
    again.write_text(result.stdout)
    second = CliRunner().invoke(app, ["train", str(again), "--dry-run"])
    assert second.stdout == result.stdout
    assert "epochs: 7" in result.stdout
    assert not (tmp_path / "runs").exists()


SCORE_JOB = {
    "bundle": "/runs/b",
    "input": {"path": "/größe/*.csv"},
    "output": {"path": "s3://bucket/out"},
}


RATES = {"training.learning_rate": {"kind": "loguniform", "low": 1e-5, "high": 1e-3}}


@pytest.mark.parametrize("command", ["train", "tune", "score"])
def test_dry_run_prints_the_same_job_as_one_line_of_json(document, tmp_path, command):
    file = tmp_path / "job.yaml"
    tune = {"train": document, "space": RATES}
    file.write_text(json.dumps({"train": document, "tune": tune, "score": SCORE_JOB}[command]))
    as_yaml = CliRunner().invoke(app, [command, str(file), "--dry-run"])
    as_json = CliRunner().invoke(app, [command, str(file), "--dry-run", "--json"])
    assert as_json.exit_code == 0
    (line,) = as_json.stdout.splitlines()
    assert json.loads(line) == parse_yaml(as_yaml.stdout, "job")


def test_schema_describes_the_job():
    result = CliRunner().invoke(app, ["schema", "train"])
    properties = json.loads(result.stdout)["properties"]
    assert {"task", "data", "model", "training", "run"} <= set(properties)


def test_jobs_train_is_the_same_entry(document, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(document))
    script = Path(__file__).parents[2] / "jobs" / "train.py"
    command = [sys.executable, str(script), str(file), "training.epochs=0"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 2
    assert "training.epochs" in done.stderr
    assert "Traceback" not in done.stderr


def test_inspect_names_what_is_there(document, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(document))
    found = CliRunner().invoke(app, ["inspect", str(file), "--json"])
    assert json.loads(found.stdout.splitlines()[-1])["kind"] == "train job"
    nothing = CliRunner().invoke(app, ["inspect", str(tmp_path / "nothing")])
    assert nothing.exit_code == 2


@pytest.mark.parametrize(
    ("note", "remedy"),
    [
        (None, "Run the job again."),
        ("Go on with run.name=x run.resume=true.", "Go on with run.name=x run.resume=true."),
    ],
)
def test_an_interruption_says_how_to_go_on(note, remedy, capsys):
    def stopped() -> None:
        stop = KeyboardInterrupt()
        if note:
            stop.add_note(note)
        raise stop

    with pytest.raises(typer.Exit) as caught:
        guarded(stopped)
    assert caught.value.exit_code == 130
    assert capsys.readouterr().err == f"error: clftask: was interrupted. {remedy}\n"
