"""Two workers that share a model train as one that has it whole."""

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
from training_work import Recorder, run, weights, work_factory

from clftask.config.train import TrainJob
from clftask.training.work import Work

# Clips every step, and cuts shares into unequal numbers of micro batches.
CLIPPED = {"max_grad_norm": 0.05, "micro_batch_size": 3, "learning_rate": 1e-2, "epochs": 2}
LORA = {"adapt": {"kind": "lora", "r": 2, "alpha": 4, "dropout": 0}}
CHECKPOINTED = {"gradient_checkpointing": True, "epochs": 1}


@pytest.fixture
def make(tmp_path, toy_table, tiny_base):
    """A factory of works whose model has no dropout: masks differ from worker to worker."""
    folder = shutil.copytree(tiny_base, tmp_path / "calm")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return work_factory(tmp_path, toy_table(120), folder)


def sharded(work: Work) -> Work:
    document = work.job.dump() | {"scaling": {"workers": 2, "shard": "fsdp"}}
    return dataclasses.replace(work, job=TrainJob.load(document))


def train_in_two(folder: Path, *tasks: tuple[Work, int | None]) -> list[Recorder]:
    """Train works one after the other, each in two workers, until a step if it is given."""
    (folder / "tasks").write_bytes(pickle.dumps(tasks))
    script, tests = sharded_workers.__file__, Path(sharded_workers.__file__).parent
    paths = os.pathsep.join([str(tests), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, script, str(folder / "tasks")]
    subprocess.run(command, check=True, timeout=240, env=environment)
    found = []
    for work, _ in tasks:
        found.append(Recorder())
        found[-1].records = json.loads(Path(f"{work.run}.json").read_text())
    return found


def assert_same(found: Recorder, expected: Recorder, runs: tuple[Work, Work], tolerance=2e-5):
    of_both = zip(found.records, expected.records, strict=True)
    for own, other in of_both:
        for name in ("step", "loss", "grad_norm", "eval_loss", "eval_micro_f1"):
            if name in other:
                assert own[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), (name, own)
    assert_same_weights(*runs, tolerance)


def assert_same_weights(own: Work, other: Work, tolerance: float = 2e-5) -> None:
    mine, theirs = weights(own.run), weights(other.run)
    assert mine.keys() == theirs.keys()
    for name in mine:
        np.testing.assert_allclose(mine[name], theirs[name], atol=tolerance, err_msg=name)


def test_two_workers_train_as_one_and_resume_from_each_others_checkpoints(make, tmp_path):
    one, two = make("one", **CLIPPED), sharded(make("two", **CLIPPED))
    adapted = [make("one-lora", model=LORA, **CHECKPOINTED)]
    adapted.append(sharded(make("two-lora", model=LORA, **CHECKPOINTED)))
    begun_by_two, begun_by_one = sharded(make("left", **CLIPPED)), make("right", **CLIPPED)
    expected = run(one)
    with pytest.raises(KeyboardInterrupt):
        run(begun_by_one, Recorder(fail_at=7))
    resumed = sharded(begun_by_one)
    tasks = [(two, None), (begun_by_two, 7), (resumed, None), (adapted[1], None)]
    found, killed, _, of_lora = train_in_two(tmp_path, *tasks)

    assert_same(found, expected, (two, one))
    assert max(r["grad_norm"] for r in expected.records if "grad_norm" in r) > 0.05
    assert found.done["workers"] == 2
    assert "2 workers on cpu, sharded, fp32" in Path(two.run, "log.txt").read_text()

    assert "done" not in killed.records[-1]
    run(dataclasses.replace(begun_by_two, job=one.job))
    for work in (begun_by_two, resumed):
        assert "resuming from the checkpoint of step 6" in Path(work.run, "log.txt").read_text()
        assert_same_weights(work, one)

    assert_same(of_lora, run(adapted[0]), (adapted[1], adapted[0]))
