"""Linear models on real Ray: a search, a score table, and the baseline of another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.distributed.score.driver import score
from clftask.distributed.train.driver import train
from clftask.distributed.tune.driver import tune


@pytest.fixture
def job(toy_table, tmp_path) -> dict[str, Any]:
    data = {
        "train": str(toy_table(240)),
        "text": "text",
        "labels": {"kind": "list", "column": "tags"},
    }
    return {
        "task": "multilabel",
        "data": data,
        "model": {"base": "tfidf"},
        "run": {"storage": str(tmp_path), "name": "run"},
    }


def silent(found: object) -> None:
    pass


def test_a_search_and_a_score_table(ray_cluster, job, tmp_path):
    strengths = {"kind": "grid", "values": [1e-6, 1.0]}
    words = {"kind": "choice", "values": [[1, 1], [9, 10]]}  # no text has so many words
    search = {"train": job, "space": {"model.C": strengths, "model.words": words}}
    search |= {"searcher": "grid", "run": {"storage": str(tmp_path), "name": "search"}}
    result = tune(TuneJob.load(search), silent, silent)
    assert result.trials == {"done": 2, "stopped": 0, "failed": 2}
    assert "no n-gram of words occurs in so many train rows" in str(result.failures)
    assert result.best["params"]["model.C"] == 1.0
    assert (result.best["metrics"]["test"]["micro_f1"] or 0) > 0.9
    kept = [path.name for path in (tmp_path / "search/trials").rglob("*.safetensors")]
    assert kept == []
    again = tune(TuneJob.load(search, ["run.resume=true"]), silent, silent)
    assert again.best == result.best
    winner = TrainJob.load(Path(result.job))
    assert winner.dump()["training"] == {"metric": "micro_f1"}

    output = tmp_path / "scores"
    corpus = {"path": str(tmp_path / "toy.parquet"), "id": "id"}
    source = {"bundle": result.bundle, "input": corpus, "output": {"path": str(output)}}
    found = score(ScoreJob.load(source | {"shard_rows": 100}), silent, silent)
    assert (found.rows_in, found.rows_scored, found.precision) == (240, 240, "fp32")
    table = parquet.read_table(output / "part-00000.parquet")
    assert table.column_names[:3] == ["id", "labels", "confidence"]


def test_a_model_is_compared_with_the_baseline(ray_cluster, job, tiny_base, tmp_path):
    source = job | {"model": {"base": str(tiny_base), "max_length": 32}, "baseline": True}
    source["training"] = {"epochs": 1, "learning_rate": 1e-5, "precision": "fp32"}
    lines: list[str] = []
    result = train(TrainJob.load(source), lines.append, silent)
    assert "fitting the linear baseline on 192 rows" in lines
    metrics = result.metrics["test"]
    assert (metrics["micro_f1_linear"] or 0) > 0.9
    assert json.loads((tmp_path / "run/baseline.json").read_text())["test"]["micro_f1"] > 0.9
    worse = [line for line in result.warnings if "worse than linear by" in line]
    assert len(worse) == 1
    card = (Path(result.bundle) / "README.md").read_text()
    assert "worse than linear by" in card
    assert "micro_f1_linear" in card
    assert "worse than linear by" in (Path(result.bundle) / "report.html").read_text()
