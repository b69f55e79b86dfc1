"""`training.hf`: what it takes, and what is said of all other arguments of the Trainer."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from clftask.config.from_trainer import COUNTERPARTS, INSTEAD
from clftask.config.score import ScoreJob
from clftask.config.sections import TrainingSpec
from clftask.config.train import TrainJob
from clftask.config.trainer_arguments import TrainerArguments
from clftask.config.tune import TuneJob
from clftask.errors import ConfigError, Problem
from clftask.spec import _members

JOB: dict[str, Any] = {
    "task": "multiclass",
    "data": {"train": "/d.csv", "text": "text", "labels": {"kind": "class", "column": "y"}},
    "model": {"base": "pkg://some_package/model"},
    "training": {"metric": "accuracy"},
}


def problem(*overrides: str) -> Problem:
    with pytest.raises(ConfigError) as caught:
        TrainJob.load(JOB, overrides)
    (found,) = caught.value.problems
    return found


def test_only_what_is_given_is_kept() -> None:
    spec = TrainJob.load(JOB, ["training.hf={adam_beta1: 0.8, logging_steps: 5}"]).training
    assert spec.hf.dump() == {"adam_beta1": 0.8, "logging_steps": 5}
    assert TrainingSpec.model_validate(spec.dump()) == spec
    assert TrainJob.load(JOB).training.dump()["hf"] == {}


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("per_device_train_batch_size", 8, "Use training.batch_size."),
        ("num_train_epochs", 2, "Use training.epochs."),
        ("evaluation_strategy", "steps", "Every epoch ends with an evaluation and a checkpoint."),
        ("group_by_length", True, "Batches already contain rows of similar length."),
        ("tf32", True, "Use training.precision."),
        ("gradient_checkpointing", True, "Use training.gradient_checkpointing."),
        ("dataloader_prefetch_factor", 4, "The data loader is clftask's own."),
        ("lr_scheduler_type", "polynomial", "Use training.schedule."),
        ("adam_bta1", 0.8, "Did you mean adam_beta1?"),
        ("torch_compile", True, "Use training.compile. It is auto, true or false."),
        ("torch_compile_mode", "max-autotune", "It is not supported: remove it."),
        ("adam_beta3", 0.8, "Did you mean adam_beta2?"),
        ("unheard_of", 1, "Known fields: adam_beta1, adam_beta2,"),
    ],
)
def test_another_argument_is_refused_with_what_to_do(name: str, value: Any, remedy: str) -> None:
    found = problem(f"training.hf.{name}={json.dumps(value)}")
    assert (found.path, found.value) == (f"training.hf.{name}", value)
    assert found.allowed == "is not a field of the job file"
    assert found.remedy.startswith(remedy)


def test_all_arguments_that_are_refused_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainJob.load(JOB, ["training.hf={tf32: true, num_train_epochs: 3, logging_steps: 0}"])
    paths = {found.path.rpartition(".")[2] for found in caught.value.problems}
    assert paths == {"tf32", "num_train_epochs", "logging_steps"}


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("adam_beta1=1", "training.hf.adam_beta1"),
        ("adam_epsilon=0", "training.hf.adam_epsilon"),
        ("logging_steps=0", "training.hf.logging_steps"),
    ],
)
def test_values_are_checked(override: str, path: str) -> None:
    assert problem(f"training.hf.{override}").path == path


def test_an_argument_without_effect_is_refused() -> None:
    found = problem("training.hf.adam_beta1=0.8", "training.optimizer=sgd")
    assert (found.path, found.value) == ("training.hf.adam_beta1", 0.8)
    assert "optimizer sgd" in found.allowed


def field_at(path: str) -> bool:
    """Tell whether a training job has a field at a path; the kinds of a family count as one."""
    spec: Any = TrainJob
    for part in path.split("."):
        members = [spec, *_members(spec)]
        spec = next((m.model_fields[part].annotation for m in members
                     if part in getattr(m, "model_fields", {})), None)  # fmt: skip
    return spec is not None


def test_what_is_replaced_is_not_taken_and_names_a_field() -> None:
    assert INSTEAD.keys() & TrainerArguments.model_fields.keys() == set()
    named = [row.field for row in COUNTERPARTS if row.field]
    named += re.findall(r"\b(?:data|model|training|decision|scaling|run)\.[a-z_.]*[a-z_]",
                        " ".join(row.note for row in COUNTERPARTS))  # fmt: skip
    assert len(named) > 40
    assert [path for path in named if not field_at(path)] == []
    assert not field_at("training.nothing")


def test_every_argument_of_the_trainer_works_or_has_a_remedy() -> None:
    from transformers import TrainingArguments

    names = {f.name for f in fields(TrainingArguments) if f.init}
    assert len(names) > 100
    assert names - INSTEAD.keys() - TrainerArguments.model_fields.keys() == set()


def test_no_argument_stands_in_two_rows() -> None:
    names = [name for row in COUNTERPARTS for name in row.names.split()]
    assert len(names) == len(set(names))


def test_the_table_of_the_docs_is_that_of_the_messages() -> None:
    page = (Path(__file__).parents[2] / "docs" / "from-trainer.md").read_text()
    section = page.partition("## All arguments\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [row.row for row in COUNTERPARTS]


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("num_train_epochs=3", "Use training.epochs."),
        ("training.per_device_train_batch_size=16", "Use training.batch_size. It is global"),
        ("training.gradient_accumulation_steps=2", "Use training.micro_batch_size."),
        ("training.evaluation_strategy=epoch", "Every epoch ends with an evaluation"),
        ("training.fp16=true", "Use training.precision."),
        ("model.num_labels=3", "Use data.labels."),
        ("model.lora_alpha=8", "Use model.adapt."),
        ("training.layerwise_lr_decay=0.9", "Use training.layer_decay."),
        ("model.model_name_or_path=x", "Use model.base."),
        ("data.label_column=y", "Use data.labels. For example {kind: class, column: label}."),
        ("data.text_column_name=y", "Use data.text."),
        ("data.validation_file=y", "Use data.validation."),
        ("data.max_seq_length=128", "Use model.max_length."),
        ("output_dir=x", "Use run.storage. run.name is the folder within."),
        ("run.save_total_limit=1", "Use training.keep_checkpoints."),
        ("load_best_model_at_end=true", "Use training.metric."),
        ("scaling.report_to=wandb", "Use tracking."),
        ("push_to_hub=true", "Upload the bundle when the run is finished."),
        ("num-train-epochs=3", "Use training.epochs."),
        # Fields of other sections:
        ("epochs=3", "Use training.epochs."),
        ("model.batch_size=3", "Use training.batch_size."),
        ("storage=x", "Use run.storage."),
        ("patience=2", "Use training.early_stopping.patience."),
    ],
)
def test_an_unknown_field_anywhere_has_a_remedy(override: str, remedy: str) -> None:
    found = problem(override)
    assert found.path == override.partition("=")[0]
    assert found.allowed == "is not a field of the job file"
    assert found.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("num_samples=3", "Use trials."),
        ("time_budget_s=60", "Use time_budget."),
        ("train.num_train_epochs=2", "Use training.epochs."),
    ],
)
def test_an_unknown_field_of_a_search_has_a_remedy(override: str, remedy: str) -> None:
    search = {"train": JOB, "space": {"training.epochs": {"kind": "choice", "values": [1, 2]}}}
    with pytest.raises(ConfigError) as caught:
        TuneJob.load(search, [override])
    assert caught.value.problems[0].remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("override", "remedy"),
    [("batch_size=8", "The batches follow"), ("output_dir=x", "Use output.path.")],
)
def test_an_unknown_field_of_a_scoring_job_has_a_remedy(override: str, remedy: str) -> None:
    job = {"bundle": "/b", "input": {"path": "/in"}, "output": {"path": "/out"}}
    with pytest.raises(ConfigError) as caught:
        ScoreJob.load(job, [override])
    assert caught.value.problems[0].remedy.startswith(remedy)


def test_the_trainer_knows_what_is_taken() -> None:
    from transformers import TrainingArguments

    assert TrainerArguments.model_fields.keys() <= {f.name for f in fields(TrainingArguments)}


def test_refusals_import_nothing_heavy(tmp_path: Any) -> None:
    code = f"""
import sys
from clftask.config.train import TrainJob
try:
    TrainJob.load({JOB!r}, ["training.hf.tf32=true"])
except Exception as error:
    assert error.exit_code == 2
assert not {{"torch", "transformers", "ray"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
