"""Runs, tables and the data of jobs, described before and after training."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from typer.testing import CliRunner

from clftask.cli.main import app
from clftask.commands.description import Description
from clftask.commands.inspect import inspect as describe
from clftask.commands.inspect_data import CorpusData, TrainData, inspect_data
from clftask.commands.inspect_run import last_written
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data.prepare import prepare
from clftask.errors import ConfigError, DataError, Problem
from clftask.models import bundle
from clftask.training import driver_mark, run_dir

RATES = {"training.learning_rate": {"kind": "loguniform", "low": 1e-5, "high": 1e-3}}


def said(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["inspect", *arguments])
    return found.exit_code, " ".join(found.output.split())


def inspect(path: str, **options: Any) -> dict[str, Any]:
    """Return what `--json` prints."""
    found = describe(path, **options)
    return found.as_json() if isinstance(found, Description) else asdict(found)


def refused(*arguments: Any) -> Problem:
    with pytest.raises(DataError) as caught:
        inspect_data(*arguments)
    return caught.value.problems[0]


# ------------------------------------------------------------------ runs


@pytest.fixture
def job(toy_table, tmp_path) -> TrainJob:
    labels = {"kind": "class", "column": "label"}
    document = {
        "task": "multiclass",
        "data": {"train": str(toy_table(60)), "text": "text", "labels": labels},
        "model": {"base": "none"},
        "training": {"epochs": 10, "metric": "macro_f1", "early_stopping": {"patience": 3}},
        "run": {"storage": str(tmp_path / "runs"), "name": "run"},
    }
    return TrainJob.load(document)


@pytest.fixture
def run(job) -> Path:
    """A run whose training has begun: six epochs, the third the best."""
    found = run_dir.find(job.run, job.task)
    prepared = prepare(job)
    run_dir.create(found, job, prepared.rows, prepared.fingerprint)
    scores = [0.1, 0.2, 0.6, 0.5, 0.4, 0.3]
    records = [
        {"step": 9 * epoch, "epoch": float(epoch), "eval_loss": 1.0, "eval_macro_f1": score}
        for epoch, score in enumerate(scores, 1)
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    Path(found.path, "metrics.jsonl").write_text(lines)
    return Path(found.path)


def finish(run: Path, **result: Any) -> None:
    (run / "bundle").mkdir()
    (run / "bundle" / "clftask.json").write_text("{}")
    metrics = {"validation": {"macro_f1": 0.6}}
    found = {"metrics": metrics, "epochs": 6.0, "steps": 54, "best_step": 27} | result
    (run / "bundle" / "metrics.json").write_text(json.dumps(found))


def mark(run: Path, **fields: Any) -> None:
    driver_mark.leave(str(run))
    found = driver_mark.find(str(run))
    (run / "driver.json").write_text(json.dumps(asdict(found) | fields))


def test_a_running_run_says_so(run):
    driver_mark.leave(str(run))
    found = inspect(str(run))
    assert found["state"].startswith(f"running: process {os.getpid()} on this machine; no result")
    assert found["running"] is True
    assert found["best so far"] == "epoch 3: validation macro_f1 0.6000"
    assert found["trained"] == "6 of 10 epochs"


def test_a_killed_run_says_how_to_resume_it(run):
    (run / "log.txt").write_text("2026-01-01 step 9/90\n2026-01-01 failed: no memory\n")
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    mark(run, pid=int(dead.stdout))
    found = inspect(str(run))
    assert found["running"] is False
    assert found["state"].startswith("unfinished: interrupted, last written ")
    assert found["resume"] == f"clftask train {run}/job.yaml run.resume=true"
    assert found["last line of log.txt"] == "2026-01-01 failed: no memory"
    again = TrainJob.load(f"{run}/job.yaml", ["run.resume=true"])
    run_dir.same_job(run_dir.find(again.run, again.task), again)


def test_a_search_says_whether_it_runs(job):
    search = TuneJob.load({"train": job.dump(), "space": RATES, "run": job.run.dump()})
    found = run_dir.Run(f"{job.run.storage}/search", False, run_dir.SEARCH)
    run_dir.create(found, search, prepare(job).rows, "0")
    state = inspect(found.path)
    assert state["state"].startswith("unfinished: stopped or failed")
    assert state["resume"] == f"clftask tune {found.path}/search.yaml run.resume=true"
    driver_mark.leave(found.path)
    assert inspect(found.path)["running"] is True


def test_a_process_that_got_the_number_of_a_dead_driver_is_not_it(run):
    mark(run, birth="before")
    assert inspect(str(run))["running"] is False


def test_a_run_of_another_machine_is_not_judged(run):
    mark(run, host="elsewhere")
    found = inspect(str(run))
    assert found["running"] is None
    assert "a driver on elsewhere started" in found["state"]
    assert "run.resume=true" in found["if it no longer runs, resume it with"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"host": "x", "pid": "y"}', "{"])
def test_a_damaged_mark_is_ignored(run, text):
    (run / "driver.json").write_text(text)
    assert inspect(str(run))["state"].startswith("unfinished: stopped or failed")


def test_the_mark_is_there_while_a_driver_runs(job):
    found, prepared = run_dir.find(job.run, job.task), prepare(job)
    with run_dir.resumable(found) as create:
        assert driver_mark.find(found.path) is None
        create(job, prepared.rows, prepared.fingerprint)
        assert driver_mark.find(found.path).host == socket.gethostname()
    assert not Path(found.path, "driver.json").exists()


def test_a_second_driver_on_this_machine_is_refused_and_leaves_the_mark(job, run):
    resumed = job.run.model_copy(
        update={"storage": str(run.parent), "name": run.name, "resume": True}
    )
    prepared = prepare(job)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        mark(run, pid=other.pid, birth=driver_mark._birth(other.pid))
        first = (run / "driver.json").read_text()
        with pytest.raises(ConfigError) as caught:
            run_dir.find(resumed, job.task)
        (problem,) = caught.value.problems
        assert (problem.path, problem.value) == ("run.name", run.name)
        assert problem.allowed == f"is in use: process {other.pid} on this machine writes to {run}"
        assert problem.remedy == "Wait until it ends, or end it; then resume the run."
        assert (run / "driver.json").read_text() == first
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        found = run_dir.find(resumed, job.task)
        with run_dir.resumable(found) as create:
            create(job, prepared.rows, prepared.fingerprint)
            assert driver_mark.find(found.path).pid == os.getpid()


def test_a_driver_that_comes_while_another_prepares_is_refused(job, run):
    found, prepared = run_dir.Run(str(run), True), prepare(job)
    with run_dir.resumable(found) as create:
        mark(run, pid=os.getppid(), birth=driver_mark._birth(os.getppid()))
        with pytest.raises(ConfigError, match="is in use"):
            create(job, prepared.rows, prepared.fingerprint)
    assert driver_mark.find(found.path).pid == os.getppid()


def test_a_driver_leaves_the_mark_of_one_that_resumed_on_another_machine(job, run):
    found, prepared = run_dir.Run(str(run), True), prepare(job)
    mark(run, host="elsewhere")
    with run_dir.resumable(found) as create:  # that one may be dead
        create(job, prepared.rows, prepared.fingerprint)
        assert driver_mark.find(found.path).host == socket.gethostname()
        mark(run, host="elsewhere")
    assert driver_mark.find(found.path).host == "elsewhere"


def test_a_finished_run_shows_the_epoch_that_ships(run):
    finish(run, shipped={"epoch": 3, "epochs": 6, "metric": "macro_f1", "patience": 3})
    found = inspect(str(run))
    assert found["state"] == "finished"
    stopped = "stopped after epoch 6: no gain in macro_f1 for 3 epochs; epoch 3 ships"
    assert found["training"] == stopped
    assert found["metrics"] == {"validation": {"macro_f1": 0.6}}
    code, text = said(str(run))
    assert (code, "0.6000" in text) == (0, True)


def test_the_warnings_of_a_bundle_are_shown(run, tiny_bundle):
    finish(run, epochs=10.0, steps=90, warnings=["all rows of test are predicted as 'a'."])
    assert "warning: all rows of test are predicted as 'a'." in said(str(run))[1]
    found = bundle.read_meta(str(tiny_bundle))
    assert inspect(str(tiny_bundle))["warnings"] == list(found.warnings)


def test_a_run_of_all_epochs_was_not_stopped(run):
    finish(run, shipped={"epoch": 3, "epochs": 10, "metric": "macro_f1"})
    assert inspect(str(run))["training"] == "epoch 3 of 10 ships: best macro_f1"


def test_a_run_of_an_earlier_version_has_its_metrics(run):
    finish(run)
    found = inspect(str(run))
    assert "training" not in found
    assert found["metrics"] == {"validation": {"macro_f1": 0.6}}


@pytest.mark.parametrize(
    ("age", "text"),
    [(5, "5 s"), (130, "2 min"), (7300, "2 h"), (90000, "1 day"), (200000, "2 days")],
)
def test_the_age_of_the_newest_file(tmp_path, age, text, monkeypatch):
    now = time.time()
    monkeypatch.setattr("clftask.commands.inspect_run.time.time", lambda: now)
    for name, older in (("new", 0), ("old", 9999)):
        (tmp_path / name).touch()
        written = now - age - older - 0.3
        os.utime(tmp_path / name, (written, written))
    assert last_written(str(tmp_path)) == f"{text} ago"


# ------------------------------------------------------------------ tables

TEXTS = [f"a text of more than a few words, number {i}" for i in range(40)]


def columns() -> dict[str, Any]:
    return {
        "key": [f"k{i}" for i in range(40)],
        "body": TEXTS,
        "label": [("food", "travel", "sports")[i % 3] for i in range(40)],
        "tags": [["a"], ["a", "b"], [], None] * 10,
        "joined": ["a|b", "a", "b", "b|c"] * 10,
        "part": ["train", "train", "dev", "Test"] * 10,
        "spam": [0, 1] * 20,
        "vector": [[0, 1, 1], [1, 0, 0]] * 20,
        "score": [i / 7 for i in range(40)],
        "gap": ["x", " ", "", None] * 10,
        "language": ["en", "de"] * 20,
        "written": ["['a', 'b']", "['b', 'c']", "[]", "['a', 'c']"] * 10,
        "set": ["<a><b>", "<b><c>", "<a><c>", "<b><a>"] * 10,
        "bits": ["[0, 1, 1]", "[1, 0, 0]"] * 20,
        "gone": pa.nulls(40),
        "spans": [[{"start": i, "label": "x"}] for i in range(40)],
    }


LOOKS = {
    "key": "id",
    "body": "text",
    "label": "class",
    "tags": "list of labels",
    "joined": "labels, delimited by |",
    "part": "split",
    "spam": "indicator",
    "vector": "0/1 vector",
    "score": "",
    "gap": "",
    "language": "class",
    "written": "list of labels",
    "set": "list of labels",
    "bits": "0/1 vector",
    "gone": "empty",
    "spans": "",
}


def by_name(found: dict[str, Any]) -> dict[str, Any]:
    return {column["name"]: column for column in found["columns"]}


def test_a_table_is_described(tmp_path):
    path = str(tmp_path / "t.parquet")
    parquet.write_table(pa.table(columns()), path)
    found = inspect(path)
    assert (found["kind"], found["files"], found["rows"]) == ("table", 1, {"train": 40})
    assert {name: c["looks_like"] for name, c in by_name(found).items()} == LOOKS
    figures = {name: (c["missing"], c["distinct"]) for name, c in by_name(found).items()}
    assert figures["label"] == (0, 3)
    assert figures["tags"] == (10, 2)
    assert figures["gap"] == (30, 1)
    assert figures["written"] == figures["set"] == (0, 3)
    assert by_name(found)["written"]["examples"] == ["a (20)", "b (20)", "c (20)"]
    assert figures["gone"] == (40, 0)
    assert by_name(found)["label"]["examples"] == ["food (14)", "travel (13)", "sports (13)"]
    assert by_name(found)["tags"]["type"] == "list<element: string>"
    expected = "labels: {kind: list, column: tags}, split: {kind: column, column: part}"
    assert found["job"] == f"data: {{train: {path}, text: body, {expected}}}"


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["body", "label"], "{kind: class, column: label}"),
        (["body", "joined"], '{kind: delimited, column: joined, delimiter: "|"}'),
        (["body", "spam"], "{kind: class, column: spam}"),
        (["body", "language", "spam"], "{kind: class, column: spam}"),
        (["body", "spam", "language", "label"], "{kind: class, column: label}"),
        (["body", "written"], "{kind: list, column: written}"),
        (["body", "set"], "{kind: list, column: set}"),
    ],
)
def test_the_proposed_job_loads(tmp_path, names, labels):
    path = tmp_path / "t.csv"
    csv.write_csv(pa.table({name: columns()[name] for name in names}), path)
    found = inspect(str(path))
    assert f"labels: {labels}" in found["job"]
    task = "multiclass" if "class" in labels else "multilabel"
    (tmp_path / "job.yaml").write_text(f"task: {task}\n{found['job']}\nmodel: {{base: none}}\n")
    assert sum(inspect_data(str(tmp_path / "job.yaml")).rows.values()) == 40


def test_a_large_table_is_counted_whole_and_read_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr("clftask.commands.inspect_table.MAX_ROWS", 50)
    for name in ("a", "b"):
        parquet.write_table(
            pa.table({"x": [f"{name}{i}" for i in range(40)]}), tmp_path / f"{name}.parquet"
        )
    (tmp_path / "notes.txt").touch()
    found = inspect(str(tmp_path))
    assert (found["files"], found["rows"], found["rows_read"]) == (2, {"train": 80}, 50)
    code, text = said(str(tmp_path))
    assert code == 0
    assert "columns, from the first 50 rows" in text
    assert "skipped, of unknown format" in text


def test_many_values_are_not_counted(tmp_path):
    csv.write_csv(pa.table({"x": [f"v{i}" for i in range(1500)]}), tmp_path / "t.csv")
    (column,) = inspect(str(tmp_path / "t.csv"))["columns"]
    assert (column["distinct"], column["looks_like"]) == (None, "id")
    assert "> 1,000" in said(str(tmp_path / "t.csv"))[1]


def test_bad_rows_of_a_table_are_counted(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"x": "a"}\n{"x": \n{"x": "b"}\n')
    found = inspect(str(tmp_path / "t.jsonl"))
    assert (found["rows_read"], found["bad_rows"]) == (3, 1)
    assert found["warnings"][0].startswith("bad row: ")


def test_a_table_without_rows_has_its_types(tmp_path):
    parquet.write_table(pa.table({"x": pa.array([], pa.string())}), tmp_path / "t.parquet")
    (column,) = inspect(str(tmp_path / "t.parquet"))["columns"]
    assert (column["type"], column["looks_like"]) == ("string", "empty")


def test_the_splits_of_a_dataset_are_counted(tmp_path):
    import datasets

    rows = {"text": TEXTS, "label": ["a", "b"] * 20}
    parts = {name: datasets.Dataset.from_dict(rows) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    found = inspect(str(tmp_path / "saved"))
    assert (found["rows"], found["rows_read"]) == ({"train": 40, "test": 40}, 40)
    assert "2 files, 40 train, 40 test rows" in said(str(tmp_path / "saved"))[1]


def test_a_table_as_json(tmp_path):
    parquet.write_table(pa.table(columns()), tmp_path / "t.parquet")
    found = CliRunner().invoke(app, ["inspect", str(tmp_path / "t.parquet"), "--json"])
    assert json.loads(found.stdout.splitlines()[-1])["columns"][0]["name"] == "key"


def test_what_is_nothing_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "empty"):
        with pytest.raises(DataError, match="must be a run, a search, a bundle, a score table"):
            inspect(str(tmp_path / name))
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match="overrides are for job files"):
        inspect(str(tmp_path / "t.parquet"), overrides=["a=b"])


# ------------------------------------------------------------------ data of jobs


def job_file(folder: Path, base: str, **data: Any) -> str:
    rows = {"text": [*TEXTS, TEXTS[0], TEXTS[1], "long " * 50], "tags": [["a"], ["a", "b"]] * 20}
    rows["tags"] += [["a"], ["c"], ["a"]]
    rows["part"] = ["train"] * 30 + ["dev"] * 5 + ["test"] * 5 + ["train", "dev", "dev"]
    parquet.write_table(pa.table(rows), folder / "t.parquet")
    labels = {"kind": "list", "column": "tags"}
    split = {"kind": "column", "column": "part"}
    fields = {"train": str(folder / "t.parquet"), "text": "text", "labels": labels, "split": split}
    document = {
        "task": "multilabel",
        "data": fields | data,
        "model": {"base": base, "max_length": 128},
    }
    (folder / "job.yaml").write_text(json.dumps(document))
    return str(folder / "job.yaml")


def test_the_data_of_a_training_job(tmp_path, tiny_base):
    found = inspect_data(job_file(tmp_path, str(tiny_base)))
    assert isinstance(found, TrainData)
    assert found.rows == {"train": 31, "validation": 7, "test": 5}
    assert found.labels == {
        "a": {"train": 31, "validation": 6, "test": 5},
        "b": {"train": 15, "validation": 2, "test": 3},
    }
    assert found.labels_not_in == {"validation": [], "test": []}
    assert found.characters["validation"]["longest"] == 250
    assert found.tokens["validation"]["longest"] == 202
    assert found.tokens["validation"]["truncated"] == 1 / 7
    assert (found.duplicates.texts, found.duplicates.rows) == (2, 4)
    assert (found.duplicates.across_splits, found.duplicates.conflicting) == (1, 1)
    assert found.duplicates.examples[0].labels == [[], ["a", "b"]]  # c is not in train


def test_rare_labels_and_conflicts_are_named(tmp_path):
    path = job_file(tmp_path, "none", split="random", labels={"kind": "list", "column": "tags"})
    found = inspect_data(path, ["data.split.seed=2", "data.split.validation=0.2"])
    assert found.labels["c"]["train"] < 10
    assert found.rare_labels == {"c": found.labels["c"]["train"]}
    assert found.duplicates.conflicting == 1
    text = said(path, "--data", "data.split.seed=2", "data.split.validation=0.2")[1]
    assert text.count("rare labels out") == text.count("they may not be learned") + text.count(
        "their thresholds and metrics are uncertain"
    )
    (example,) = found.duplicates.examples
    assert (example.text, example.rows) == (TEXTS[1], 2)
    assert sorted(example.labels) == [["a", "b"], ["c"]]


def test_rare_labels_are_reported_once(tmp_path):
    path = job_file(tmp_path, "none", split="random", labels={"kind": "list", "column": "tags"})
    _, text = said(path, "--data", "data.split.seed=2", "data.split.validation=0.2")
    assert text.count("fewer than 10 train rows: c 1") == 1


def test_second_texts_take_special_tokens_as_in_training(tmp_path, tiny_base):
    path = job_file(tmp_path, str(tiny_base), text_pair="part", split="random")
    found = inspect_data(path, ["model.max_length=4"])
    assert "max_length" in found.warnings[-1]
    assert "must be at least 5: the tokenizer adds 3 special tokens" in found.warnings[-1]


def test_names_of_a_table_are_shown_as_they_are_written(tmp_path):
    rows = {"[/b] x": ["[red]", ":smile:"], "[bold]": ["a text [/i]", "b"]}
    parquet.write_table(pa.table(rows), tmp_path / "t.parquet")
    code, text = said(str(tmp_path / "t.parquet"))
    assert code == 0
    for part in ("[/b] x", "[bold]", "[red]", ":smile:", "a text [/i]"):
        assert part in text


def test_rows_that_a_condition_leaves_out_are_not_in_the_sample(tmp_path, tiny_bundle):
    rows = {"text": ["the tool", "fast", None], "year": [2020, 2021, 2022]}
    parquet.write_table(pa.table(rows), tmp_path / "a.parquet")
    document = {"bundle": tiny_bundle, "output": {"path": str(tmp_path / "out")},
                "input": {"path": str(tmp_path / "a.parquet"), "where": "year < 2021"}}  # fmt: skip
    (tmp_path / "score.yaml").write_text(json.dumps(document))
    found = inspect_data(str(tmp_path / "score.yaml"))
    assert (found.rows, found.sampled, found.filtered, found.bad) == (3, 1, 2, {})
    text = said(str(tmp_path / "score.yaml"), "--data")[1]
    assert "left out by input.where │ 2 of 3 sampled rows" in text
    every = inspect_data(str(tmp_path / "score.yaml"), ["input.where=null"])
    assert (every.sampled, every.filtered) == (3, None)
    none = inspect_data(str(tmp_path / "score.yaml"), ["input.where=year > 2030"])
    assert (none.sampled, none.tokens) == (0, {})
    assert said(str(tmp_path / "score.yaml"), "--data", "input.where=year > 2030")[0] == 0


def test_groups_and_repeated_ids_are_counted(tmp_path):
    rows = {"text": TEXTS, "y": ["a", "b"] * 20, "g": [str(i // 4) for i in range(40)]}
    parquet.write_table(pa.table(rows), tmp_path / "t.parquet")
    labels = {"kind": "class", "column": "y"}
    split = {"kind": "grouped", "group": "g", "validation": 0.2, "test": 0.2}
    data = {"train": str(tmp_path / "t.parquet"), "text": "text", "labels": labels}
    document = {
        "task": "multiclass",
        "data": data | {"split": split, "id": "g"},
        "model": {"base": "none"},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(document))
    found = inspect_data(str(tmp_path / "job.yaml"))
    assert found.groups == {"train": 6, "validation": 2, "test": 2}
    assert "warning: 30 ids repeat an earlier one" in found.warnings
    assert "groups: 6 train, 2 validation, 2 test" in said(str(tmp_path / "job.yaml"), "--data")[1]


def test_without_its_base_lengths_are_in_characters(tmp_path):
    code, text = said(job_file(tmp_path, "none"), "--data")
    assert code == 0
    assert "length in characters" in text
    assert "warning: no token lengths: model.base" in text


def test_the_data_as_tables_and_as_json(tmp_path, tiny_base):
    path = job_file(tmp_path, str(tiny_base))
    code, text = said(path, "--data")
    assert code == 0
    for part in (
        "length in tokens; max_length is 128",
        "2 labels, 1.48 a row",
        "2 texts occur in several rows (4 rows)",
    ):
        assert part in text
    found = CliRunner().invoke(app, ["inspect", path, "--data", "--json"])
    result = json.loads(found.stdout.splitlines()[-1])
    assert result["rows"]["train"] == 31
    assert result["duplicates"]["texts"] == 2


def test_the_data_of_a_search(tmp_path, tiny_base):
    train = job_file(tmp_path, str(tiny_base))
    search = {"train": train, "space": RATES, "trials": 2}
    (tmp_path / "tune.yaml").write_text(json.dumps(search))
    found = inspect_data(str(tmp_path / "tune.yaml"))
    assert (found.kind, found.rows["train"]) == ("data of a tune job", 31)
    assert refused(str(tmp_path / "tune.yaml"), ["train.data.text=x"]).path == "train.data.text"


def test_the_data_of_a_scoring_job(tmp_path, tiny_bundle):
    texts = ["the tool", "shader " * 40, " ", None, "the tool"]
    csv.write_csv(pa.table({"id": ["1", "2", "3", "4", "4"], "text": texts}), tmp_path / "a.csv")
    csv.write_csv(pa.table({"id": ["6"], "text": ["fast"]}), tmp_path / "b.csv")
    document = {"bundle": tiny_bundle, "input": {"path": f"{tmp_path}/*.csv", "id": "id"},
                "output": {"path": str(tmp_path / "out")}}  # fmt: skip
    (tmp_path / "score.yaml").write_text(json.dumps(document))
    found = inspect_data(str(tmp_path / "score.yaml"))
    assert isinstance(found, CorpusData)
    assert (found.files, found.rows, found.sampled) == (2, 6, 6)
    assert found.columns == {"id": "int64", "text": "string"}
    assert found.bad == {"the text is null or blank": 2}
    assert (found.tokens["longest"], found.tokens["truncated"]) == (42, 0.25)
    assert found.warnings == [
        "warning: 1 sampled text repeats an earlier one",
        "warning: 1 sampled id repeats an earlier one",
    ]
    code, text = said(str(tmp_path / "score.yaml"), "--data")
    assert code == 0
    assert "2 of 6 sampled: the text is null or blank" in text
    assert not (tmp_path / "out").exists()


def test_data_is_for_job_files(tmp_path, run, tiny_bundle):
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "t.parquet")
    for path in (str(tmp_path / "t.parquet"), str(run), tiny_bundle, str(tmp_path / "nowhere")):
        problem = refused(path)
        assert problem.allowed == "must be the YAML file of a train, tune or score job for --data"
        assert said(path, "--data")[0] == 2
    assert refused(str(run)).remedy == f"Use {run}/job.yaml."
    assert said(str(run), "--data", "--verify")[0] == 2


def test_written_lists_and_whole_numbers_with_gaps_are_recognised(tmp_path):
    path = tmp_path / "t.csv"
    rows = [(f"text {i}", ("\"['a', 'b']\"", "['a']")[i % 2], ("1.0", "", "2.0")[i % 3])
            for i in range(30)]  # fmt: skip
    path.write_text("text,tags,n\n" + "".join(",".join(row) + "\n" for row in rows))
    found = by_name(inspect(str(path)))
    assert (found["tags"]["looks_like"], found["n"]["looks_like"]) == ("list of labels", "class")
