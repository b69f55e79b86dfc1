"""Training on soft labels and row weights: the same on any workers, and what the bundle tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from training_work import Recorder, run, work_of

from clftask.commands.compare_bundles import compare_bundles
from clftask.commands.evaluate import evaluate_bundle
from clftask.components.decision.decision import DecisionSpec
from clftask.data.batching import GlobalBatches
from clftask.errors import DataError
from clftask.training.worker import Work, build_trainer

NAMES = ("graphics", "network", "sound")


@pytest.fixture
def soft_work(tmp_path: Path, toy_table: Any, tiny_base: Path) -> Any:
    """A function that makes the work of a job on a teacher's probabilities, with row weights."""
    rows = pd.read_parquet(toy_table(120))
    for name in NAMES:
        rows[f"p_{name}"] = np.where(rows["label"] == name, 0.8, 0.1)
    rows["w"] = np.arange(len(rows)) % 3 + 0.5
    rows.to_parquet(tmp_path / "soft.parquet")

    def make(run: str, labels: dict[str, Any] | None = None, **training: Any) -> Work:
        labels = {"kind": "probabilities", "prefix": "p_", **(labels or {})}
        data = {"train": str(tmp_path / "soft.parquet"), "text": "text", "labels": labels}
        data |= {"weight": "w", "split": {"kind": "column", "column": "split"}}
        training = {"epochs": 2, "batch_size": 16, "learning_rate": 2e-2, **training}
        document = {"task": "multiclass", "data": data, "run": {"storage": str(tmp_path)}}
        document["model"] = {"base": str(tiny_base), "max_length": 32, "layers": 1}
        document["training"] = {"precision": "fp32", "early_stopping": None, **training}
        return work_of(document, str(tmp_path / run))

    return make


def trainer_of(work: Work) -> Any:
    trainer = build_trainer(work, 1, "cpu", "fp32", work.run)
    trainer.model.eval()
    return trainer


def test_losses_are_the_same_on_any_number_of_workers_and_micro_batches(soft_work: Any) -> None:
    whole, small = (trainer_of(soft_work("a", micro_batch_size=n)) for n in ("auto", 3))
    sizes = whole.batches.lengths, 16, 42
    for world in (1, 2, 4):
        workers = [GlobalBatches(*sizes, rank, world) for rank in range(world)]
        for batch in zip(*workers, strict=True):
            rows = [row for share in batch for row, weight in share if weight]
            expected = by_hand(whole, rows)
            for trainer in (whole, small):
                parts = [trainer.batches.__getitems__(share) for share in batch]
                assert trainer is whole or max(map(len, parts)) > 1 or len(rows) <= 3
                losses = [sum(trainer._trial_loss(m).item() for m in part) for part in parts]
                assert np.mean(losses) == pytest.approx(expected, rel=1e-5)


def by_hand(trainer: Any, rows: list[int]) -> float:
    """Return the mean of weight times cross-entropy with the teacher's probabilities."""
    table = trainer.tables["train"]
    micro = trainer.batches.cut(np.array(rows), np.ones(len(rows), np.float32))
    logits, order = [], []
    with torch.no_grad():
        for part in micro:
            inputs = {n: part[n] for n in ("input_ids", "attention_mask")}
            logits.append(trainer.model(**inputs).logits)
            order += part["rows"].tolist()
    log_p = torch.cat(logits).log_softmax(1).numpy()
    targets = np.array(table["targets"].to_pylist())[order]
    weights = table["row_weight"].to_numpy()[order]
    return float((weights * -(targets * log_p).sum(1)).mean())


def test_the_bundle_says_what_it_learned_from_and_reads_hard_labels_of_another(
    soft_work: Any, tmp_path: Path
) -> None:
    work = soft_work("run", epochs=8)
    found: Recorder = run(work)
    bundle = Path(work.run, "bundle")
    card = (bundle / "README.md").read_text()
    assert ", its first 1 layer with clftask." in card
    assert "- Soft labels: probabilities in p_…." in card
    assert "- Train rows weighted by column w; metrics are unweighted." in card
    assert "soft labels: probabilities in p_…" in (bundle / "report.html").read_text()
    metrics = found.done["metrics"]["validation"]
    assert metrics["accuracy"] > metrics["accuracy_majority"]
    # Its own labels would sharpen the probabilities, which are the teacher's.
    assert json.loads((bundle / "clftask.json").read_text())["decision"]["calibration"] == {
        "kind": "none", "scale": 1.0, "shift": 0.0, "maps": None, "is_folded": True
    }  # fmt: skip
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(bundle)
    assert (model.config.num_hidden_layers, len(model.bert.encoder.layer)) == (1, 1)

    soft, table = str(tmp_path / "soft.parquet"), str(tmp_path / "hard.parquet")
    pd.read_parquet(soft)[["text", "label"]].to_parquet(table)
    assert evaluate_bundle(str(bundle), soft, print).rows == 120
    with pytest.raises(DataError, match=r"table \(labels\.prefix\): must be the beginning"):
        evaluate_bundle(str(bundle), table, print)
    teacher = shutil.copytree(bundle, tmp_path / "teacher")
    meta = json.loads((teacher / "clftask.json").read_text())
    meta["job"]["data"]["labels"] = {"kind": "class", "column": "label"}
    (teacher / "clftask.json").write_text(json.dumps(meta))
    for pair in ((bundle, teacher), (teacher, bundle)):
        compared = compare_bundles(*map(str, pair), table, [], print)
        assert (compared.rows, compared.metrics["accuracy"]["difference"]) == (120, 0)


def test_decided_labels_do_not_calibrate_by_default() -> None:
    assert DecisionSpec().of_soft().calibration.kind == "none"
    explicit = DecisionSpec.model_validate({"calibration": "platt"})
    assert explicit.of_soft() is explicit
