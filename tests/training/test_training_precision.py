"""The figures of a bundle are fp32, whatever it was trained in; `auto` tries the model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import pipeline
from transformers.models.bert.modeling_bert import BertPooler

from clftask.commands.evaluate import decide_bundle, evaluate_bundle
from clftask.config.train import TrainJob
from clftask.errors import ConfigError
from clftask.models.precision import resolve_precision
from clftask.models.predictor import load
from clftask.training.worker import _precision

QUIET: Any = lambda line: None  # noqa: E731


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_every_way_to_predict_gives_the_figures_of_training(train_bundle, tmp_path, task):
    folder, test, outcome = train_bundle(tmp_path, task, "training.precision=bf16")
    assert "on cpu, bf16" in (tmp_path / "run" / "log.txt").read_text()
    stored = {split: dict(found) for split, found in outcome["metrics"].items()}
    evaluated = evaluate_bundle(str(folder), str(test), QUIET)
    for figures in stored.values():
        figures.pop("loss")  # of training only
    assert evaluated.metrics == pytest.approx(stored["test"], abs=1e-5)
    assert evaluated.intervals["micro_f1"] == pytest.approx(
        outcome["intervals"]["test"]["micro_f1"], abs=1e-5
    )
    again = decide_bundle(
        str(folder), str(tmp_path / "validation.parquet"), [], str(tmp_path / "again"), QUIET
    )
    assert again.metrics == pytest.approx(stored["validation"], abs=1e-5)

    texts = pd.read_parquet(test)["text"].tolist()
    classify = pipeline("text-classification", str(folder), top_k=None, device="cpu")
    exact = load(str(folder)).predict(texts)
    for text, row in zip(texts, exact.probabilities, strict=True):
        (answer,) = classify([text], truncation=True)
        by_name = {entry["label"]: entry["score"] for entry in answer}
        assert dict(zip(exact.label_names, row, strict=True)) == pytest.approx(by_name, abs=1e-5)
    half = load(str(folder), precision="bf16").predict(texts).probabilities
    assert np.abs(half - exact.probabilities).max() > 1e-4, "bf16 would not be noticed"


@pytest.mark.parametrize(("device", "expected"), [("cpu", "fp32"), ("cuda", "bf16")])
def test_deterministic_training_measures_nothing(device, expected):
    assert resolve_precision("auto", device, True, deterministic=True) == expected
    assert resolve_precision("bf16", device, False, deterministic=True) == "bf16"


def test_a_deterministic_run_on_a_cpu_is_fp32(monkeypatch):
    monkeypatch.setattr("clftask.training.worker.bf16_pays", lambda device: True)
    document = {
        "task": "multiclass",
        "data": {"train": "x.csv", "text": "t", "labels": {"kind": "class", "column": "y"}},
        "model": {"base": "x"},
    }
    new = SimpleNamespace(precision=lambda: None)
    fixed = TrainJob.load(document, ["training.deterministic=true"])
    assert _precision(fixed, new, "cpu") == "fp32"
    assert _precision(TrainJob.load(document), new, "cpu") == "bf16"


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bert, with an operation that bf16 lacks, on a machine where bf16 is fast."""
    forward = BertPooler.forward

    def lacking(self: Any, hidden: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("Unsupported dtype BFloat16\nmore")
        return forward(self, hidden)

    monkeypatch.setattr(BertPooler, "forward", lacking)
    monkeypatch.setattr("clftask.training.worker.bf16_pays", lambda device: True)


def test_auto_falls_back_to_fp32_for_a_model_that_lacks_bf16(train_bundle, tmp_path, without_bf16):
    settings = "training.precision=auto", "training.epochs=1"
    _, _, outcome = train_bundle(tmp_path, "multiclass", *settings)
    log = (tmp_path / "run" / "log.txt").read_text()
    reason = "bf16 does not work with this model: RuntimeError: Unsupported dtype BFloat16"
    assert f"fp32 is used: {reason}\n" in log
    assert "on cpu, fp32" in log
    assert outcome["steps"] > 0


def test_bf16_for_a_model_that_lacks_it_is_refused_at_once(train_bundle, tmp_path, without_bf16):
    with pytest.raises(ConfigError, match=r"training\.precision: does not work.*Use fp32"):
        train_bundle(tmp_path, "multiclass", "training.precision=bf16")


def test_a_loss_that_is_not_finite_is_a_failure(train_bundle, tmp_path, monkeypatch):
    forward = BertPooler.forward

    def overflowing(self: Any, hidden: Any) -> Any:
        found = forward(self, hidden)
        return found * float("inf") if torch.is_autocast_enabled("cpu") else found

    monkeypatch.setattr(BertPooler, "forward", overflowing)
    with pytest.raises(ConfigError, match="the loss is NaN or infinite"):
        train_bundle(tmp_path, "multiclass", "training.precision=bf16")
