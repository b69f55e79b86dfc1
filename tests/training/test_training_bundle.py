"""What a training ends with, in this process: bundle, decision and figures. No Ray."""

from __future__ import annotations

import html
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from pyarrow import parquet as pq
from training_work import Recorder, run

from clftask.components.decision.decision import cross_fitted
from clftask.components.labels import multi_hot
from clftask.components.metrics import compute
from clftask.config.train import TrainJob
from clftask.data.prepare import prepare, tokenise
from clftask.errors import DataError
from clftask.models import bundle
from clftask.models.tokenizers import load_tokenizer
from clftask.training.trainer import ClassifierTrainer
from clftask.training.worker import Work, build_trainer


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("head", ["linear", {"kind": "mlp", "hidden": 8}])
def test_bundle_opens_in_plain_transformers(make_work, task, head):
    from transformers import AutoModelForSequenceClassification, pipeline

    work = make_work(task=task, head=head, epochs=3)
    sink = run(work)
    folder = str(Path(work.run, "bundle"))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == dict(enumerate(work.label_names))
    text = "shader pixel fast tool"
    scores = pipeline("text-classification", folder, top_k=None)([text])[0]
    found = {s["label"]: s["score"] for s in scores}
    logits = model(**load_tokenizer(folder)([text], return_tensors="pt")).logits.detach().numpy()
    x = logits[0].astype(float)
    expected = 1 / (1 + np.exp(-x)) if task == "multilabel" else np.exp(x) / np.exp(x).sum()
    assert found == pytest.approx(dict(zip(work.label_names, expected, strict=True)), abs=1e-5)
    total = sum(found.values())
    assert (abs(total - 1) < 1e-5) == (task == "multiclass")
    names = {p.name for p in Path(folder).iterdir()}
    assert {"clftask.json", "README.md", "metrics.json", "model.safetensors"} <= names
    assert not any(n.endswith((".bin", ".pt", ".pkl")) for n in names)
    meta = bundle.read_meta(folder)
    assert meta.label_names == work.label_names
    assert meta.metrics == sink.done["metrics"]


def test_bundle_has_a_report_with_learning_curves(make_work):
    work = make_work(epochs=2)
    run(work)
    page = Path(work.run, "bundle", "report.html").read_text()
    assert "Multilabel classifier with 3 labels" in page
    assert 'id="losses"' in page
    assert 'id="lengths-section"' in page
    figures = json.loads(Path(work.run, "bundle", "metrics.json").read_text())
    assert set(figures["by_length"]) == {"validation", "test"}


def test_a_report_that_cannot_be_drawn_costs_no_bundle(make_work, monkeypatch):
    def fail(*args: Any) -> str:
        raise ValueError("no room")

    monkeypatch.setattr("clftask.report.bundle_page.classifier_page", fail)
    work = make_work(epochs=1)
    run(work)
    assert bundle.read_meta(str(Path(work.run, "bundle"))).label_names == work.label_names
    assert "no room" in Path(work.run, "bundle", "report.html").read_text()
    assert "report.html could not be rendered: ValueError" in Path(work.run, "log.txt").read_text()


def test_bundle_fingerprint_covers_the_decision(make_work, tmp_path):
    work = make_work(epochs=1)
    run(work)
    folder = Path(work.run, "bundle")
    meta = bundle.read_meta(str(folder))
    assert bundle._fingerprint(meta) == meta.fingerprint
    assert bundle._fingerprint(meta.model_copy(update={"max_length": 31})) != meta.fingerprint
    assert set(meta.files) >= {"model.safetensors", "tokenizer.json", "config.json"}
    (folder / "notes.txt").write_text("of no matter")
    bundle.fetch(str(folder), "")
    with (folder / "config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(DataError, match=r"config\.json does not match its SHA-256"):
        bundle.fetch(str(folder), "")


# Each opening runs in a process to which the head is new; they share the imports.
OPENINGS = """
import os, sys
import clftask
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline

if not os.fork():
    clftask.register()
    assert AutoConfig.for_model("clftask_mlp", hidden=7).hidden == 7
    pipeline("text-classification", sys.argv[1])
elif not os.fork():
    clftask.load(sys.argv[1])
else:
    assert [os.wait()[1] for _ in range(2)] == [0, 0]
"""


def test_a_fresh_process_opens_the_head_of_clftask(make_work):
    work = make_work(head={"kind": "mlp", "hidden": 8}, epochs=1)
    run(work)
    folder = Path(work.run, "bundle")
    subprocess.run([sys.executable, "-c", OPENINGS, str(folder)], check=True)
    lines = (folder / "README.md").read_text().splitlines()
    assert lines.index("import clftask") < lines.index("clftask.register()  # the MLP head")


@pytest.mark.parametrize("head", ["linear", {"kind": "mlp", "hidden": 8}])
def test_plain_transformers_gives_the_calibrated_probabilities(make_work, head):
    from transformers import pipeline

    import clftask

    work = make_work(head=head, epochs=3, metric="macro_f1")
    sink = run(work)
    folder = str(Path(work.run, "bundle"))
    meta = bundle.read_meta(folder)
    assert (meta.decision.calibration.kind, meta.decision.calibration.is_folded) == ("platt", True)
    assert len(meta.decision.threshold) == len(work.label_names)
    texts = ["shader pixel fast tool", "audio volume", "socket"]
    clftask.register()
    scores = pipeline("text-classification", folder, top_k=None)(texts)
    ours = clftask.load(folder, precision="fp32").predict(texts)  # as the pipeline's
    for found, probabilities, labels in zip(scores, ours.probabilities, ours.labels, strict=True):
        by_name = {s["label"]: s["score"] for s in found}
        assert [by_name[n] for n in work.label_names] == pytest.approx(probabilities, abs=1e-5)
        pairs = zip(work.label_names, meta.decision.threshold, strict=True)
        assert labels == [name for name, t in pairs if by_name[name] > t]
    test = sink.done["metrics"]["test"]
    assert test["log_loss"] != test["log_loss_uncalibrated"]
    text = Path(folder, "README.md").read_text()
    assert "Calibration: platt, fitted on validation; it is folded into the last layer" in text
    assert "above a threshold of their own" in text


def test_groups_beside_a_column_of_splits_are_kept(make_work):
    document = make_work(epochs=1).job.dump()
    document["data"]["split"] = {"kind": "column", "column": "split", "group": "source"}
    prepared = prepare(TrainJob.load(document))
    assert all("group" in table.column_names for table in prepared.tables.values())
    assert not {"split_by", "group_by"} & set(prepared.tables["train"].column_names)
    document["data"]["split"]["group"] = "nowhere"
    job = TrainJob.load(document)
    with pytest.raises(DataError, match="nowhere"):
        prepare(job)


def test_groups_of_the_split_reach_the_decision(make_work, monkeypatch):
    work = make_work(epochs=1)
    document = work.job.dump()
    document["data"]["split"] = {"kind": "grouped", "group": "source", "validation": 0.3}
    job = TrainJob.load(document)
    prepared = prepare(job)
    assert "split_by" not in prepared.tables["train"].column_names
    tables = tokenise(prepared, load_tokenizer(job.model.base), job.model)
    assert len(set(tables["validation"]["group"].to_pylist())) == 3
    seen = []
    monkeypatch.setattr(
        "clftask.evaluation.evaluate.cross_fitted",
        lambda *a: seen.append(a[-1]) or cross_fitted(*a),
    )
    run(Work(job, work.run, tables, prepared.space.names, work.data, ""))
    assert seen[0].tolist() == tables["validation"]["group"].to_pylist()


def test_threshold_of_the_job_decides(make_work):
    work = make_work(epochs=3)
    job = TrainJob.load(work.job.dump(), ["decision.threshold=0.2"])
    sink = run(Work(job, work.run, work.tables, work.label_names, work.data, ""))
    metrics = sink.done["metrics"]["validation"]
    assert metrics["micro_recall"] >= metrics["micro_recall_at_0.5"]
    assert "map_at_0.5" not in metrics


def test_trackers_get_the_losses(make_work, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    work = make_work(epochs=1)
    job = TrainJob.load(work.job.dump(), ["tracking=[tensorboard, mlflow]"])
    run(Work(job, work.run, work.tables, work.label_names, work.data, ""))
    assert list(Path(work.run, "tensorboard").rglob("events.out.*"))
    (losses,) = Path(work.run, "mlruns").rglob("metrics/eval_loss")
    assert losses.read_text().strip()


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_windows_are_pooled_alike_in_training_evaluation_and_scoring(make_work, pool):
    import clftask

    policy = {"kind": "windows", "stride": 2, "pool": pool, "most": 16}
    work = make_work(model={"max_length": 8, "long_text": policy}, epochs=2)
    assert max(map(len, work.tables["validation"]["windows"].to_pylist())) > 1
    sink = run(work)
    folder = str(Path(work.run, "bundle"))
    scorer = clftask.load(folder, precision="fp32")
    assert scorer.meta.truncation.model_dump() == policy
    found = scorer.predict(work.tables["test"]["text"].to_pylist())
    targets = multi_hot(work.tables["test"]["labels"].combine_chunks(), len(work.label_names))
    decided = scorer.meta.decision.decide(found.probabilities, "multilabel")
    score = compute(found.probabilities, decided, targets, "multilabel", ["micro_f1", "ece"])
    metrics = sink.records[-1]["done"]["metrics"]["test"]
    assert score == {name: pytest.approx(metrics[name], abs=1e-4) for name in score}


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_loss_of_windows_is_that_of_their_pooled_logits(make_work, pool):
    policy = {"kind": "windows", "pool": pool}
    work = make_work(model={"max_length": 8, "long_text": policy}, micro_batch_size=3)
    trainer = build_trainer(work, 1, "cpu", "fp32", work.run)
    model = trainer.model.eval()
    share = next(iter(trainer.get_train_dataloader()))
    assert len(share) > 1
    for micro in share:
        windows, targets = micro["windows"], micro["targets"]
        assert sum(windows) == len(micro["input_ids"])
        assert sum(windows) <= 3 or len(windows) == 1
        with torch.inference_mode():
            names = ("input_ids", "attention_mask")
            logits = model(**{n: micro[n] for n in names}).logits.split(windows)
            pooled = torch.stack([p.max(0).values if pool == "max" else p.mean(0) for p in logits])
            expected = (trainer.row_loss(pooled, targets) * micro["weight"]).sum()
        loss = trainer._weighted_loss(model, dict(micro))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "classifier" in n)


# ------------------------------------------------------------------ figures


def parse_strictly(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_infinite_figures_are_null_in_the_log_and_may_be_read_again(make_work, monkeypatch):
    """fp16 has an infinite norm of the gradients in its first steps."""
    log = ClassifierTrainer.log

    def with_infinity(self: Any, logs: dict[str, float], *args: Any) -> None:
        more = {"grad_norm": math.inf} if "grad_norm" in logs else {"eval_extra": math.nan}
        log(self, logs | more, *args)

    monkeypatch.setattr(ClassifierTrainer, "log", with_infinity)
    work = make_work(epochs=3)
    with pytest.raises(KeyboardInterrupt):
        run(work, Recorder(fail_at=13))
    run(work)
    lines = Path(work.run, "metrics.jsonl").read_text().splitlines()
    records = [parse_strictly(line) for line in lines]
    assert {r["grad_norm"] for r in records if "grad_norm" in r} == {None}
    assert all(r["loss"] > 0 for r in records if "loss" in r)
    assert "No report" not in Path(work.run, "bundle", "report.html").read_text()


def test_undefined_figures_are_null_in_the_bundle(make_work):
    """A label that neither occurs in validation nor is predicted there."""
    work = make_work(epochs=1)
    names = (*work.label_names, "absent")
    tables = {name: table for name, table in work.tables.items() if name != "test"}
    work = replace(work, label_names=names, tables=tables)
    sink = run(work)
    folder = Path(work.run, "bundle")
    found = parse_strictly((folder / "metrics.json").read_text())
    assert found == json.loads(json.dumps(sink.done))
    row = found["per_label"]["validation"][-1]
    assert (row["label"], row["recall"], row["support"]) == ("absent", None, 0)
    assert parse_strictly((folder / "clftask.json").read_text())["metrics"] == found["metrics"]
    assert "| absent | " in (folder / "README.md").read_text()


def test_positive_class_is_a_metric_of_training_and_of_the_bundle(make_work, tmp_path):
    work = make_work(task="multiclass", epochs=3)
    rows = work.job.data.train
    table = pq.read_table(rows)
    label = pc.if_else(pc.equal(table["label"], "sound"), "sound", "other")
    pq.write_table(table.set_column(table.column_names.index("label"), "label", label), rows)
    document = work.job.dump()
    document["data"]["labels"] |= {"positive": "sound"}
    document["training"] |= {"metric": "f1", "early_stopping": {"patience": 2}}
    job = TrainJob.load(document)
    prepared = prepare(job)
    tables = tokenise(prepared, load_tokenizer(job.model.base), job.model)
    data = {"fingerprint": prepared.fingerprint, "report": prepared.report.as_json()}
    sink = run(Work(job, str(tmp_path / "binary"), tables, prepared.space.names, data, ""))
    assert all("eval_f1" in record for record in sink.evaluations())
    metrics, labels = sink.done["metrics"]["test"], sink.done["per_label"]["test"]
    (own,) = [row for row in labels if row["label"] == "sound"]
    for name in ("recall", "f1"):
        assert metrics[name] == pytest.approx(own[name])
    assert {"precision", "average_precision", "roc_auc", "f1_majority"} <= set(metrics)
    assert {"f1", "recall"} <= set(sink.done["intervals"]["test"])
    folder = tmp_path / "binary" / "bundle"
    meta = bundle.read_meta(str(folder))
    assert (meta.positive, meta.space.positive_index) == ("sound", 1)
    assert "- Positive class: sound." in (folder / "README.md").read_text()
    assert "are of class sound." in (folder / "report.html").read_text()


def test_a_model_that_learns_nothing_is_said_to(make_work):
    rates = {"learning_rate": 1e-9, "head_learning_rate": 1e-9, "optimizer": "sgd"}
    work = make_work(task="multiclass", epochs=1, **rates)
    sink = run(work)
    (line, *_) = [line for line in sink.done["warnings"] if line.startswith("all rows of test")]
    assert line.endswith(
        "Try a higher training.learning_rate or more epochs, or training.optimizer: adamw."
    )
    folder = Path(work.run, "bundle")
    assert line in bundle.read_meta(str(folder)).warnings
    assert f"- Warning: {line}" in (folder / "README.md").read_text()
    assert line in html.unescape((folder / "report.html").read_text())
    assert f"warning: {line}" in Path(work.run, "log.txt").read_text()
