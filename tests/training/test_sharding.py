"""Two workers that share a model train as one that has it whole; frozen weights in bf16."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sharded_workers
import torch
from sharded_workers import Task
from training_work import Recorder, run, weights, work_factory

from clftask.config.train import TrainJob
from clftask.data.batching import FlatTokens
from clftask.data.targets import targets_of
from clftask.data.tokenization import sequences
from clftask.training.work import Work
from clftask.training.worker import build_trainer

# Clips every step, and cuts shares into unequal numbers of micro batches.
CLIPPED = {"max_grad_norm": 0.05, "micro_batch_size": 3, "learning_rate": 1e-2, "epochs": 2}
LORA = {"adapt": {"kind": "lora", "r": 2, "alpha": 4, "dropout": 0}}
BF16 = {"precision": "bf16", "weights": "bf16", "epochs": 1}


@pytest.fixture
def make(tmp_path, toy_table, tiny_base):
    """A factory of works whose model has no dropout: masks differ from worker to worker."""
    folder = shutil.copytree(tiny_base, tmp_path / "calm")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    factory = work_factory(tmp_path, toy_table(120), folder)
    return lambda *args, **options: changed(
        factory(*args, **options), decision={"calibration": "none"}
    )


def changed(work: Work, **changes: Any) -> Work:
    return dataclasses.replace(work, job=TrainJob.load(work.job.dump() | changes))


def sharded(work: Work) -> Work:
    return changed(work, scaling={"workers": 2, "shard": "fsdp"})


def train_in_two(folder: Path, *tasks: Task) -> list[Recorder]:
    """Train works one after the other, each in two workers."""
    (folder / "tasks").write_bytes(pickle.dumps(tasks))
    script = Path(sharded_workers.__file__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(script.parent), *sys.path])}
    command = [sys.executable, str(script), str(folder / "tasks")]
    subprocess.run(command, check=True, timeout=400, env=environment)
    found = []
    for task in tasks:
        found.append(Recorder())
        found[-1].records = json.loads(Path(f"{task.work.run}.json").read_text())
    return found


def assert_same(found: Recorder, expected: Recorder, own: Work, other: Work) -> None:
    for mine, theirs in zip(found.records, expected.records, strict=True):
        for name in {"step", "loss", "grad_norm", "eval_loss", "eval_micro_f1"} & theirs.keys():
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), (name, mine)
    assert_same_weights(own, other)


def assert_same_weights(own: Work, other: Work) -> None:
    mine, theirs = weights(own.run), weights(other.run)
    assert mine.keys() == theirs.keys()
    for name in mine:
        np.testing.assert_allclose(mine[name], theirs[name], atol=2e-5, err_msg=name)


def log_loss_of_bundle(work: Work) -> float:
    """Return the log loss on validation in plain transformers."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, table = Path(work.run, "bundle"), work.tables["validation"]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    inputs = FlatTokens(sequences(table)[0]).padded(
        np.arange(len(table)), AutoTokenizer.from_pretrained(folder)
    )
    with torch.no_grad():
        logits = model(**inputs).logits
    targets = torch.from_numpy(targets_of(table, logits.shape[1]))
    return float(torch.nn.functional.binary_cross_entropy_with_logits(logits, targets))


def test_two_workers_train_as_one_and_resume_from_each_others_checkpoints(make, tmp_path):
    one, two = make("one", **CLIPPED), sharded(make("two", **CLIPPED, gradient_checkpointing=True))
    begun_by_two, begun_by_one = sharded(make("left", **CLIPPED)), make("right", **CLIPPED)
    expected = run(one)
    with pytest.raises(KeyboardInterrupt):
        run(begun_by_one, Recorder(fail_at=7))
    resumed = sharded(begun_by_one)
    tasks = [Task(two), Task(begun_by_two, until=7), Task(resumed)]
    found, killed, _ = train_in_two(tmp_path, *tasks)

    assert_same(found, expected, two, one)
    assert max(r["grad_norm"] for r in expected.records if "grad_norm" in r) > 0.05
    assert found.done["workers"] == 2
    assert "2 workers on cpu, sharded, fp32" in Path(two.run, "log.txt").read_text()
    assert found.done["metrics"]["validation"]["log_loss"] == pytest.approx(log_loss_of_bundle(two))

    assert "done" not in killed.records[-1]
    run(dataclasses.replace(begun_by_two, job=one.job))
    for work in (begun_by_two, resumed):
        assert "resuming from the checkpoint of step 6" in Path(work.run, "log.txt").read_text()
        assert_same_weights(work, one)


def test_sharded_workers_halve_their_micro_batches_together(make, tmp_path):
    one, left = (make(name, **CLIPPED | {"optimizer": "sgd"}) for name in ("one", "left"))
    two = sharded(dataclasses.replace(one, run=f"{tmp_path}/two"))
    with pytest.raises(KeyboardInterrupt):
        run(left, Recorder(fail_at=7))
    # A fused SGD, whose kernels sharded weights lack, has written the checkpoint.
    found, _ = train_in_two(tmp_path, Task(two, is_failing=True), Task(sharded(left)))
    assert_same(found, run(one), two, one)
    assert_same_weights(left, one)
    assert Path(two.run, "log.txt").read_text().count("the micro batches are halved") == 1


def test_frozen_weights_in_bf16_are_those_of_the_base_in_the_bundle(make, tmp_path):
    work, whole = make("bf16", model=LORA, **BF16), make("fp32", model=LORA, epochs=1)
    two = sharded(make("two", model=LORA, **BF16))
    last = sharded(make("last", model={"adapt": {"kind": "last_layers", "layers": 1}}, **BF16))
    trainer = build_trainer(work, 1, "cpu", "bf16", work.run)
    kept = {p.requires_grad: p.dtype for p in trainer.model.parameters()}
    assert kept == {True: torch.float32, False: torch.bfloat16}

    found, (of_two, of_last) = run(work), train_in_two(tmp_path, Task(two), Task(last))
    log = Path(work.run, "log.txt").read_text()
    assert "1 worker on cpu, bf16, frozen weights in bf16; " in log
    for outcome, of in ((found, work), (of_two, two), (of_last, last)):
        assert outcome.done["metrics"]["validation"]["log_loss"] == pytest.approx(
            log_loss_of_bundle(of)
        )
    name = "bert.embeddings.word_embeddings.weight"
    expected = run(whole)
    for of in (work, last):
        np.testing.assert_array_equal(weights(of.run)[name], weights(whole.run)[name])
    assert found.losses() == pytest.approx(expected.losses(), rel=0.02)
    assert found.losses() != expected.losses()
    assert of_two.losses() == pytest.approx(found.losses(), rel=1e-3)
