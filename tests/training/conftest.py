"""Fixtures of trainings in this process."""

from __future__ import annotations

from typing import Any

import pytest

from clftask.config.train import TrainJob
from clftask.data.prepare import prepare, tokenise
from clftask.models.tokenizers import load_tokenizer
from clftask.training.worker import Work


@pytest.fixture
def make_work(tmp_path, toy_table, tiny_base):
    table = toy_table(120)

    def make(run="run", task="multilabel", head="linear", model=None, **training: Any) -> Work:
        kind = {"kind": "list", "column": "tags"}
        if task == "multiclass":
            kind = {"kind": "class", "column": "label"}
        document = {
            "task": task,
            "data": {"train": str(table), "text": "text", "labels": kind},
            "model": {"base": str(tiny_base), "max_length": 32, "head": head, **(model or {})},
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
        job = TrainJob.load(document)
        prepared = prepare(job)
        tables = tokenise(prepared, load_tokenizer(str(tiny_base)), job.model)
        data = {"fingerprint": prepared.fingerprint, "report": prepared.report.as_json()}
        return Work(job, str(tmp_path / run), tables, prepared.space.names, data, "hello\n")

    return make
