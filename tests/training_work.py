"""A training of the tiny model in this process, for tests of what a worker does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clftask.config.train import TrainJob
from clftask.data.prepare import prepare, tokenise
from clftask.models.tokenizers import load_tokenizer
from clftask.training.worker import Work, fit


class Recorder:
    """A sink that keeps what is posted, and can fail like a worker killed after a checkpoint.

    Args:
        fail_at: The step after which the worker is killed.
        checkpoint: The step of a checkpoint that is complete by then.
    """

    def __init__(self, fail_at: int | None = None, checkpoint: int = 6) -> None:
        self.records: list[dict[str, Any]] = []
        self.reports: list[dict[str, float]] = []
        self.fail_at, self.checkpoint = fail_at, checkpoint
        self.run = ""

    def post(self, record: dict[str, Any]) -> None:
        if self.fail_at is not None and record.get("step", 0) >= self.fail_at:
            self._wait_for_a_checkpoint()
            raise KeyboardInterrupt
        self.records.append(record)

    def _wait_for_a_checkpoint(self) -> None:
        """Checkpoints are uploaded beside the steps, which may be faster."""
        folder = Path(self.run, "checkpoints")
        for _ in range(6_000):
            complete = [file.parent.name for file in folder.glob("*/complete.json")]
            if max(complete, default="") >= f"step-{self.checkpoint:07d}":
                return
            time.sleep(0.01)
        raise AssertionError(f"no checkpoint of step {self.checkpoint} was completed in a minute")

    def report(self, metrics: dict[str, float]) -> None:
        self.reports.append(metrics)

    def is_leaving(self) -> bool:
        return False

    @property
    def done(self) -> dict[str, Any]:
        return self.records[-1]["done"]

    def losses(self) -> dict[int, float]:
        return {r["step"]: r["loss"] for r in self.records if "loss" in r}

    def evaluations(self) -> list[dict[str, Any]]:
        return [r for r in self.records if "eval_loss" in r]


def run(work: Work, sink: Recorder | None = None) -> Recorder:
    sink = sink or Recorder()
    sink.run = work.run
    fit(work, sink, rank=0, world=1, device="cpu")
    return sink


def logged_steps(folder: str) -> list[int]:
    lines = Path(folder, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def weights(folder: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(Path(folder, "bundle", "model.safetensors"))


def work_factory(tmp_path: Path, table: Path, base: Path) -> Callable[..., Work]:
    """Return a function that makes the work of a job on toy rows; it changes fields of the job."""

    def make(run="run", task="multilabel", head="linear", model=None, **training: Any) -> Work:
        kind = {"kind": "list", "column": "tags"}
        if task == "multiclass":
            kind = {"kind": "class", "column": "label"}
        document = {
            "task": task,
            "data": {"train": str(table), "text": "text", "labels": kind},
            "model": {"base": str(base), "max_length": 32, "head": head, **(model or {})},
            "training": {
                "epochs": 4,
                "batch_size": 16,
                "learning_rate": 2e-2,
                "early_stopping": None,
                "precision": "fp32",
                **training,
            },
            "run": {"storage": str(tmp_path)},
        }
        return work_of(document, str(tmp_path / run))

    return make


def work_of(document: dict[str, Any], run: str) -> Work:
    """Return the work of a job in a run folder."""
    job = TrainJob.load(document)
    prepared = prepare(job)
    tables = tokenise(prepared, load_tokenizer(job.model.base), job.transformer)
    data = {"fingerprint": prepared.fingerprint, "report": prepared.report.as_json()}
    return Work(job, run, tables, prepared.space.names, data, "hello\n")
