"""A search over a frozen encoder on real Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clftask.config.tune import TuneJob
from clftask.distributed.tune.driver import tune


def encoder_runs() -> int:
    """Return how often a worker of this Ray session has told that it ran an encoder."""
    from ray._private.worker import _global_node

    logs = Path(_global_node.get_logs_dir_path()).glob("worker-*.err")
    return sum(log.read_text().count("the frozen encoder ran once") for log in logs)


def test_trials_and_finalists_share_the_features(ray_cluster, toy_table, tiny_base, tmp_path):
    labels = {"kind": "class", "column": "label"}
    train: dict[str, Any] = {
        "task": "multiclass",
        "data": {"train": str(toy_table(120)), "text": "text", "labels": labels},
        "model": {"base": str(tiny_base), "max_length": 32, "adapt": "head_only"},
        "training": {"epochs": 2, "batch_size": 16, "precision": "fp32"},
    }
    rates = {"kind": "grid", "values": [1e-4, 1e-3, 1e-1]}
    document = {"train": train, "space": {"training.head_learning_rate": rates}}
    document |= {"searcher": "grid", "scheduler": "fifo", "finalists": {"top": 1}}
    document["run"] = {"storage": str(tmp_path), "name": "search"}
    lines: list[str] = []
    before = encoder_runs()
    result = tune(TuneJob.load(document), lines.append, lambda record: None)
    assert result.trials == {"done": 3, "stopped": 0, "failed": 0}
    told = f"{tiny_base}, 32 tokens: the frozen encoder ran once over 108 model inputs, "
    assert [line.startswith(told) for line in lines].count(True) == 1
    assert encoder_runs() == before, "a trial ran the encoder itself"
    assert result.best["seed"] == 43
    assert result.best["metrics"]["test"]["accuracy"] is not None
