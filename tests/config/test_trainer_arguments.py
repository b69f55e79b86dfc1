"""`training.hf`: what it takes, and what is said of all other arguments of the Trainer."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest

from clftask.config.train import TrainingSpec, TrainJob
from clftask.config.trainer_arguments import INSTEAD, TrainerArguments
from clftask.errors import ConfigError, Problem

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
        ("dataloader_prefetch_factor", 4, "The data loader is clftask's own."),
        ("lr_scheduler_type", "polynomial", "Use training.schedule."),
        ("adam_bta1", 0.8, "Did you mean adam_beta1?"),
        ("torch_compile", True, "Known fields: adam_beta1, adam_beta2,"),
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
        ("gradient_checkpointing=maybe", "training.hf.gradient_checkpointing"),
    ],
)
def test_values_are_checked(override: str, path: str) -> None:
    assert problem(f"training.hf.{override}").path == path


def test_an_argument_without_effect_is_refused() -> None:
    found = problem("training.hf.adam_beta1=0.8", "training.optimizer=sgd")
    assert (found.path, found.value) == ("training.hf.adam_beta1", 0.8)
    assert "optimizer sgd" in found.allowed


def test_what_is_replaced_is_not_taken_and_names_a_field() -> None:
    assert INSTEAD.keys() & TrainerArguments.model_fields.keys() == set()
    for instead in INSTEAD.values():
        section, _, name = instead.removeprefix("use ").partition(".")
        spec: Any = TrainJob.model_fields.get(section)
        if instead.startswith("use ") and spec is not None and name:
            assert name in spec.annotation.model_fields


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
