from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from clftask import errors
from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.errors import ConfigError, Problem
from clftask.spec import fingerprint, put
from clftask.yaml_io import MAX_DEPTH, nested_values, parse_yaml

LABELS = {"kind": "class", "column": "label"}
JOB: dict[str, Any] = {
    "task": "multiclass",
    "data": {"train": "/data/train.csv", "text": "body", "labels": LABELS},
    "model": {"base": "pkg://some_package/model"},
    "training": {"metric": "macro_f1"},
}


def job_with(**changes: Any) -> dict[str, Any]:
    """Return a copy of JOB; `data__split` stands for data.split."""
    job = copy.deepcopy(JOB)
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = job
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return job


def problems(job: Any, *overrides: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        TrainJob.load(job, overrides)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


# ------------------------------------------------------------------ where values come from


def test_overrides_stand_above_yaml_and_yaml_above_defaults(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "task: multiclass\n"
        "data: {train: /d.csv, text: [summary, body], labels: {kind: class, column: y}}\n"
        "model: {base: pkg://some_package/model}\n"
        "training: {metric: accuracy, epochs: 5, learning_rate: 1e-4}\n"
    )
    job = TrainJob.load(file, ["training.epochs=7", "run.name=first", "training.hf.adam_beta1=0.8"])
    training = job.training
    assert (training.epochs, training.learning_rate, training.batch_size) == (7, 1e-4, 32)
    assert training.hf.dump() == {"adam_beta1": 0.8}
    assert (job.data.text, job.run.name) == (("summary", "body"), "first")
    assert (job.data.split.kind, job.data.split.seed, job.loss.kind) == ("random", 42, "auto")


def test_local_paths_become_absolute_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = TrainJob.load(
        job_with(data__train="rows.csv", data__validation="s3://b/v.csv", data__test="hub:a/b@c")
    )
    assert job.data.train == f"{tmp_path}/rows.csv"
    assert job.data.validation == "s3://b/v.csv"
    assert job.data.test == "hub:a/b@c"
    assert job.model.base == "pkg://some_package/model"
    assert job.run.storage == f"{tmp_path}/runs"


def test_a_mapping_that_is_loaded_is_left_alone() -> None:
    job = job_with()
    TrainJob.load(job, ["training.epochs=9", "data.split.kind=stratified"])
    assert job == JOB


@pytest.mark.parametrize("override", ["data.split.seed=7", "data.split={kind: random, seed: 7}"])
def test_an_override_may_name_a_field_inside_a_default(override: str) -> None:
    split = TrainJob.load(JOB, [override]).data.split
    assert (split.kind, split.seed, split.validation) == ("random", 7, 0.1)


def test_override_values_are_yaml() -> None:
    rate = ["training.learning_rate=3e-5", "training.early_stopping=null"]
    job = TrainJob.load(JOB, [*rate, "data.separator=a=b", "data.text=[x, y]", "run.name=no"])
    assert (job.training.learning_rate, job.training.early_stopping) == (0.00003, None)
    assert (job.data.separator, job.data.text, job.run.name) == ("a=b", ("x", "y"), "no")


WRONG_OVERRIDES = ["training.epochs", "=3", "a b=3", "training..epochs=3", "training.epochs=["]


@pytest.mark.parametrize("override", WRONG_OVERRIDES)
def test_a_wrong_override_is_named(override: str) -> None:
    (problem,) = problems(JOB, override)
    assert problem.path == override


def test_an_override_that_the_shell_cut_is_named_with_quotes() -> None:
    first, *_ = problems(JOB, "model.head={kind:", "mlp}")
    assert first.remedy.endswith("in quotes: 'model.head=…'.")


def test_wrong_overrides_are_reported_together() -> None:
    found = problems(JOB, "training.epochs", "x y=2")
    assert [p.path for p in found] == ["training.epochs", "x y=2"]


@pytest.mark.parametrize("value", ["cross_entropy", {"kind": "cross_entropy"}])
def test_a_bare_name_stands_for_a_kind(value: Any) -> None:
    assert TrainJob.load(job_with(loss=value)).loss.kind == "cross_entropy"


def test_a_bare_kind_takes_overrides_of_its_fields() -> None:
    job = TrainJob.load(job_with(model__head="mlp"), ["model.head.hidden=64"])
    assert job.model.head.dump() == {"bias": "prior", "kind": "mlp", "hidden": 64, "dropout": 0.1}


# ------------------------------------------------------------------ YAML


YAML_1_2 = {
    "3e-5": 0.00003,
    "-1E+3": -1000.0,
    ".5": 0.5,
    "5.": 5.0,
    "12": 12,
    "010": 10,
    "true": True,
    "False": False,
    "~": None,
    **{same: same for same in ("yes", "no", "on", "1.5.2", "1:30", "1_000", "2026-11-01", "=")},
}


@pytest.mark.parametrize(("text", "value"), YAML_1_2.items())
def test_yaml_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(f"x: {text}", "job")["x"]
    assert (found, type(found)) == (value, type(value))


NOT_PLAIN = ["a: 1\nb: 2\na: 3", "x: {a: 1, 'a': 2}", "a: [1", "[1]: 2"]
MERGE = "a: &a {b: 1}\nc: {<<: *a}"
TAGS = ["x: !!python/object/apply:os.system ['true']", "x: !!python/name:os.system"]


@pytest.mark.parametrize("text", [*NOT_PLAIN, MERGE, *TAGS])
def test_what_is_not_plain_yaml_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "job.yaml")
    assert caught.value.problems[0].path == "job.yaml"


def test_a_duplicate_key_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"duplicate key 'a', line 3, column 1"):
        parse_yaml("a: 1\nb: 2\na: 3", "job.yaml")


def test_values_nested_as_deep_as_allowed_are_yielded() -> None:
    deepest: Any = 1
    for _ in range(MAX_DEPTH):
        deepest = [deepest]
    assert len(list(nested_values(deepest))) == MAX_DEPTH + 1
    assert list(nested_values({"a": [1, {"b": 2}]})) == [
        {"a": [1, {"b": 2}]}, "a", [1, {"b": 2}], 1, {"b": 2}, "b", 2,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="nested more than 50 deep"):
        list(nested_values([deepest]))


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"", b"\xff\xfe\xfa", b"just words"])
def test_a_file_without_a_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(content)
    assert problems(file)[0].path == str(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path / "none.yaml")
    assert problem.path == f"{tmp_path}/none.yaml"
    assert "No such file" in problem.allowed


def test_to_yaml_is_read_back_as_the_same_job(tmp_path: Path) -> None:
    labels = {"kind": "indicators", "columns": ["4 - a", "é"], "min_count": 3, "empty": "drop"}
    split = {"kind": "grouped", "group": "g", "stratify": True}
    changes = {"task": "multilabel", "data__labels": labels, "data__split": split}
    changes |= {"training__metric": "micro_f1", "training__learning_rate": 3e-5}
    job = TrainJob.load(job_with(**changes, training__early_stopping=None, tracking=["mlflow"]))
    file = tmp_path / "job.yaml"
    file.write_text(job.to_yaml(), encoding="utf-8")
    assert TrainJob.load(file) == job


def test_label_names_that_look_like_numbers_stay_strings_in_yaml(tmp_path: Path) -> None:
    names = ("1e5", "3e-5", "010", "1:30", "yes", "null", "2026-11-01", ".5")
    job = TrainJob.load(job_with(data__labels__names=list(names)))
    file = tmp_path / "job.yaml"
    file.write_text(job.to_yaml())
    assert TrainJob.load(file).data.labels.names == names


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\u2029", "\n", "\r\n", "\ufeff"])
def test_text_with_ends_of_lines_is_read_back_from_yaml(end: str) -> None:
    for name in (end, f"a{end}", f"{end}b", f"a {end} b: c"):
        job = TrainJob.load(job_with(data__labels__names=[name, "other"]))
        assert TrainJob.load(parse_yaml(job.to_yaml(), "job.yaml")) == job


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        TrainJob.load(JOB).seed = 1  # type: ignore[misc]


def test_fingerprint_is_of_canonical_json() -> None:
    assert fingerprint({"b": None, "a": [1, "é"]}) == "1e02bc81a26af2f0"
    assert fingerprint({"b": None, "a": ["é", 1]}) != "1e02bc81a26af2f0"


def test_identity_leaves_out_what_a_resumed_run_may_change() -> None:
    one = TrainJob.load(JOB, ["run.name=a", "scaling.workers=2", "tracking=[mlflow]"])
    assert one.identity() == TrainJob.load(JOB).identity()
    assert one.identity() != TrainJob.load(JOB, ["seed=1"]).identity()


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("name", "exit_code"),
    [("ConfigError", 2), ("DataError", 2), ("StorageError", 2), ("JobError", 1)],
)
def test_errors_survive_pickling(name: str, exit_code: int) -> None:
    error = getattr(errors, name)(
        Problem("a.b", 3, "must be 4", "Write 4."), Problem("c", None, "is required")
    )
    again = pickle.loads(pickle.dumps(error))
    assert type(again).__name__ == name
    assert again.problems == error.problems
    assert str(again) == "a.b: must be 4 (found 3). Write 4.\nc: is required."
    assert again.as_json() == {
        "error": {
            "exit": exit_code,
            "problems": [
                {"path": "a.b", "value": 3, "allowed": "must be 4", "remedy": "Write 4."},
                {"path": "c", "value": None, "allowed": "is required", "remedy": ""},
            ],
        }
    }


# ------------------------------------------------------------------ what a job refuses


def test_all_errors_are_reported_at_once_with_their_paths() -> None:
    wrong = {"seed": -1, "data__text": [], "data__split": {"kind": "grouped"}, "loss": "cross"}
    wrong |= {"training__epochs": "many", "training__early_stopping": {"patience": 0}}
    found = {p.path: p.value for p in problems(job_with(**wrong, tracking=["mlflow", "wandbb"]))}
    fields = {"seed", "data.text", "data.split.group", "loss.kind", "training.epochs"}
    assert set(found) == fields | {"training.early_stopping.patience", "tracking.1"}
    assert (found["training.epochs"], found["loss.kind"]) == ("many", "cross")


INDICATORS = {"kind": "indicators", "colums": ["a", "b"]}
COLUMN = {"kind": "column", "column": "s"}
RANDOM = {"kind": "random"}
SHARD = {"workers": 2, "shard": "fsdp"}
BF16 = {"precision": "bf16", "weights": "bf16"}
MISSPELT = [
    ({"training__epoch": 3}, "training.epoch", "Did you mean epochs?"),
    ({"dta": 1}, "dta", "Did you mean data?"),
    ({"data__labels__colum": "y"}, "data.labels.colum", "Did you mean column?"),
    ({"data__split": RANDOM | {"sead": 1}}, "data.split.sead", "Did you mean seed?"),
    ({"data__labels": INDICATORS}, "data.labels.colums", "Did you mean columns?"),
    (
        {"data__split": COLUMN | {"sead": 1}},
        "data.split.sead",
        "Known fields: column, group, kind.",
    ),
]


@pytest.mark.parametrize(("changes", "path", "remedy"), MISSPELT)
def test_a_misspelt_field_has_a_suggestion(changes: Any, path: str, remedy: str) -> None:
    (problem,) = problems(job_with(**changes))
    assert (problem.path, problem.remedy) == (path, remedy)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"training__learning_rate": float("nan")}, "training.learning_rate"),
    ({"training__learning_rate": "nan"}, "training.learning_rate"),
    ({"training__max_grad_norm": float("inf")}, "training.max_grad_norm"),
    ({"training__micro_batch_size": 0}, "training.micro_batch_size"),
    ({"training__head_learning_rate": "atuo"}, "training.head_learning_rate"),
    ({"scaling__cpus_per_worker": 0}, "scaling.cpus_per_worker"),
    ({"training__hf": {"seed": 1}}, "training.hf.seed"),
    ({"training__hf": {"adam_beta1": 0.8, "bf16": True}}, "training.hf.bf16"),
    ({"run__name": "a/b"}, "run.name"),
    ({"run__name": ".."}, "run.name"),
    ({"run__resume": True}, "run"),
    ({"data__train": ""}, "data.train"),
    ({"data__labels__names": ["a", "a"]}, "data.labels.names"),
    ({"data__labels__names": ["a"]}, "data.labels.names"),
    ({"data__labels": {"kind": "indicators"}}, "data.labels"),
    ({"data__labels": {"kind": "indicators", "columns": []}}, "data.labels.columns"),
    ({"data__labels": {"kind": "indicators", "pattern": "("}}, "data.labels"),
    ({"data__split": "column"}, "data.split.column"),
    ({"data__split": RANDOM | {"validation": 0.5, "test": 0.5}}, "data.split"),
    # Sections held against each other:
    ({"task": "multilabel", "training__metric": "micro_f1"}, "data.labels.kind"),
    ({"data__labels": {"kind": "list", "column": "y"}}, "data.labels.kind"),
    ({"loss": "bce"}, "loss.kind"),
    ({"training__metric": "lrap"}, "training.metric"),
    ({"training__metric": "precision_at_5"}, "training.metric"),
    ({"scaling__workers": 3}, "training.batch_size"),
    ({"data__split": RANDOM | {"validation": 0}}, "data.split.validation"),
    ({"data__split": COLUMN, "data__test": "/t.csv"}, "data.split"),
    ({"scaling__shard": "zero"}, "scaling.shard"),
    ({"scaling": SHARD | {"workers": 1}}, "scaling.workers"),
    ({"scaling": SHARD | {"workers": [1, 4]}}, "scaling.workers"),
    ({"scaling": SHARD, "training__precision": "fp16"}, "training.precision"),
    ({"scaling": SHARD, "training__compile": True}, "training.compile"),
    ({"scaling": SHARD, "training__optimizer": "adafactor"}, "training.optimizer"),
    ({"training": BF16}, "training.weights"),
    ({"model__adapt": "lora", "training": BF16 | {"precision": "auto"}}, "training.precision"),
    ({"model__adapt": "lora", "training": BF16 | {"precision": "fp16"}}, "training.precision"),
]


@pytest.mark.parametrize(("changes", "path"), REFUSED)
def test_a_job_refuses(changes: Any, path: str) -> None:
    assert [p.path for p in problems(job_with(**changes))] == [path]


def test_all_cross_field_errors_are_reported_at_once() -> None:
    found = problems(job_with(task="multilabel", loss="cross_entropy", scaling__workers=5))
    assert [p.path for p in found] == ["data.labels.kind", "loss.kind", "training.batch_size"]


# ------------------------------------------------------------------ words

WRONG = [
    ("training.early_stopping", True, "must be a mapping of its fields: patience, or null",
     "For example {patience: 3}."),
    ("training.early_stopping", 3, "must be a mapping of its fields: patience, or null",
     "For example {patience: 3}."),
    ("training.epochs", True, "must be a whole number", ""),
    ("training.epochs", 2.5, "must be a whole number", ""),
    ("training.epochs", None, "must be a whole number", "Remove it to use the default."),
    ("training.epochs", 0, "must be greater than or equal to 1", ""),
    ("training.learning_rate", False, "must be a number", ""),
    ("training.learning_rate", "fast", "must be a number", ""),
    ("training.learning_rate", 0, "must be greater than 0", ""),
    ("training.warmup", 1, "must be less than 1", ""),
    ("training.deterministic", "maybe", "must be true or false", ""),
    ("training.precision", "int8", "must be 'auto', 'fp32', 'bf16' or 'fp16'", ""),
    ("training.micro_batch_size", "many", "must be a whole number or 'auto'", ""),
    ("training.micro_batch_size", {}, "must be a whole number or 'auto'", ""),
    ("data.text", 3, "must be a list", 'Write ["3"].'),
    ("data.text", [], "must have at least 1 item", ""),
    ("data.id", 3, "must be text", "Put it in quotes."),
    ("model.base", None, "must be text", ""),
    ("loss", 3, "must be one of 'auto', 'cross_entropy', 'bce', 'focal', 'asymmetric', "
     "'class_balanced', 'logit_adjusted', or a mapping with such a kind", ""),
    ("scaling.workers", "all", "must be a whole number or a list", ""),
    ("scaling.use_gpu", 3, "must be true or false or 'auto'", ""),
    ("training", [], None, "For example {epochs: 3}."),
    ("seed", 2**40, "must be less than 4294967296", ""),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "allowed", "remedy"), WRONG)
def test_words_are_ours(path: str, value: Any, allowed: str | None, remedy: str) -> None:
    (problem,) = problems(job_with(**{path.replace(".", "__"): value}))
    assert problem.path == path
    assert allowed is None or problem.allowed == allowed
    assert problem.remedy == remedy


def paths_of(cls: Any, prefix: str = "") -> list[str]:
    """Return the paths of all fields, without those of families."""
    found = []
    for name, field in cls.model_fields.items():
        found.append(f"{prefix}{name}")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += paths_of(field.annotation, f"{prefix}{name}.")
    return found


SEARCH = {"train": JOB, "space": {"training.epochs": {"kind": "choice", "values": [1, 2]}}}
SCORE = {"bundle": "/b", "input": {"path": "/i"}, "output": {"path": "/o"}}
KINDS: list[tuple[Any, Any]] = [(TrainJob, JOB), (TuneJob, SEARCH), (ScoreJob, SCORE)]
WRONG_TYPES = [None, True, 3, -1, 2.5, "x", "", [], [[]], {}, {"x": 1}, {"kind": 3}]
FOREIGN = re.compile(r"Input|Extra|Unable|Value error|valid \w+ing|instance|Spec\b|should")


@pytest.mark.parametrize(("cls", "document"), KINDS, ids=["train", "tune", "score"])
def test_no_field_answers_in_the_words_of_pydantic(cls: Any, document: Any) -> None:
    found: list[Problem] = []
    for path in paths_of(cls):
        for value in WRONG_TYPES:
            changed = copy.deepcopy(document)
            put(cls, changed, path, value)
            found += refusals(cls, changed)
    assert len(found) > 60
    assert [str(p) for p in found if FOREIGN.search(str(p))] == []
    assert [p.path for p in found if re.search(r"literal|function-|\bint$", p.path)] == []


def refusals(cls: Any, document: Any) -> list[Problem]:
    try:
        cls.load(document)
    except ConfigError as error:
        return list(error.problems)
    return []
