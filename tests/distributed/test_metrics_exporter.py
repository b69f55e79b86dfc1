"""Metrics of a job: from the driver's records to values, to Prometheus, to the dashboard."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import free_ports

from clftask.components.search.goal import Goal
from clftask.config.tune import TuneJob
from clftask.distributed.metrics import (
    KIND,
    METRICS,
    RUN,
    ScoreMetricsExporter,
    TrainMetricsExporter,
    TuneMetricsExporter,
)
from clftask.distributed.score.dispatcher import Dispatcher
from clftask.distributed.tune.callback import TuneProgressCallback
from clftask.errors import JobError, Problem
from clftask.scoring.manifest import Counts, Piece, Receipt, Shard
from clftask.scoring.worker import Done

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana-dashboard.json"
OUTPUT = "s3://bucket/scores/2026-11"


class Values:
    """Values as Ray's metrics would have them, by name and tags."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def add(self, name: str, value: float) -> None:
        assert METRICS[name].type == "counter"
        assert value > 0  # Ray refuses others
        self.found[name] = self.found.get(name, 0) + value

    def put(self, name: str, value: float, tags: dict[str, str]) -> None:
        assert METRICS[name].type == "gauge"
        assert set(tags) == set(METRICS[name].tags)
        self.found[":".join([name, *(tags[tag] for tag in METRICS[name].tags)])] = value

    def observe(self, name: str, value: float) -> None:
        assert METRICS[name].type == "histogram"
        self.found.setdefault(name, []).append(value)


def ignore(_: dict[str, Any]) -> None:
    pass


def done(shard: int, rows: int = 10, bad: int = 0, long: int = 0, is_new: bool = True) -> Done:
    counts = Counts(rows_in=rows, rows_scored=rows - bad, rows_quarantined=bad, rows_truncated=long)
    receipt = Receipt(shard=shard, input="", counts=counts, sha256="", num_bytes=1, seconds=1.5)
    return Done(receipt, is_new)


class FakePool:
    """Yields what it was given, and has workers."""

    def __init__(self, *found: Done) -> None:
        self.found = found
        self.starting, self.num_busy, self.idle = {"a": 1}, 2, [1]

    def done(self, dispatcher: Dispatcher) -> Iterator[Done]:
        yield from self.found


# ------------------------------------------------------------------ records to values


def test_training():
    values, passed_on = Values(), []
    exporter = TrainMetricsExporter("s3://bucket/runs/topics", passed_on.append, values)
    first = {"step": 50, "epoch": 0.5, "max_steps": 200, "loss": 0.25, "learning_rate": 3e-5}
    records = [
        {**first, "samples_per_s": 31.5, "grad_norm": 1.0},
        {"step": 100, "epoch": 1.0, "max_steps": 200, "eval_loss": 0.5, "eval_micro_f1": 0.75},
    ]
    for record in records:
        exporter(record)
    assert values.found == {}
    exporter.send()
    assert passed_on == records
    assert values.found == {
        "clftask_train_step": 100,
        "clftask_train_epoch": 1.0,
        "clftask_train_progress_ratio": 0.5,
        "clftask_train_loss": 0.25,
        "clftask_train_learning_rate": 3e-5,
        "clftask_train_rows_per_second": 31.5,
        "clftask_train_evaluation:loss": 0.5,
        "clftask_train_evaluation:micro_f1": 0.75,
    }


def test_scoring_counts_what_this_run_scored_and_each_shard_once():
    values = Values()
    exporter = ScoreMetricsExporter(OUTPUT, ignore, values)
    dones = [done(0, bad=3, long=2), done(1, is_new=False), done(2), done(0, bad=3, long=2)]
    assert list(exporter.watching(FakePool(*dones))(Dispatcher([], 1))) == dones
    exporter({"rows": 30, "total": 40, "scored_now": 20, "skipped": 10, "quarantined": 3})
    exporter.send()
    assert values.found == {
        "clftask_score_shards_total": 2,
        "clftask_score_rows_total": 17,
        "clftask_score_rows_quarantined_total": 3,
        "clftask_score_rows_truncated_total": 2,
        "clftask_score_shard_duration_seconds": [1.5, 1.5],
        "clftask_score_workers:ready": 3,
        "clftask_score_workers:starting": 1,
        "clftask_score_progress_ratio": 0.75,
    }


def test_retries_are_attempts_that_were_not_the_last():
    shards = [Shard(index=i, pieces=(Piece(file=i, start=0, num_rows=5),)) for i in range(2)]
    dispatcher, values = Dispatcher(shards, 1), Values()
    exporter = ScoreMetricsExporter(OUTPUT, ignore, values)
    list(exporter.watching(FakePool())(dispatcher))
    error, counts = JobError(Problem("x", None, "failed")), []
    for shard in (0, 1, 0, 0):
        dispatcher.take_back([shards[shard]], error)
        exporter.send()
        counts.append(values.found.get("clftask_score_shard_retries_total"))
    assert counts == [1, 2, 3, 3]
    assert list(dispatcher.failed) == [0]


def search(tmp_path: Path, epochs: int, metric: str) -> TuneJob:
    labels = {"kind": "list", "column": "y"}
    return TuneJob.load(
        {
            "train": {
                "task": "multilabel",
                "data": {"train": "x.csv", "text": "text", "labels": labels},
                "model": {"base": "base"},
                "training": {"epochs": epochs, "metric": metric},
            },
            "space": {"training.learning_rate": {"kind": "choice", "values": [1e-5, 1e-4]}},
            "metric": metric,
            "trials": 4,
            "run": {"storage": str(tmp_path)},
        }
    )


def trial(number: int, status: str = "RUNNING", **last_result: Any) -> Any:
    """A trial as Ray Tune has it."""
    config = {"trial": number}
    return SimpleNamespace(
        config=config, trial_id=f"t{number}", status=status, last_result=last_result,
        PAUSED="PAUSED", get_pickled_error=lambda: None,
    )  # fmt: skip


@pytest.mark.parametrize(("metric", "best"), [("micro_f1", 0.5), ("loss", 0.125)])
def test_search(tmp_path, metric, best):
    values = Values()
    exporter = TuneMetricsExporter(str(tmp_path), ignore, search(tmp_path, 3, metric), values)
    goal = Goal(metric=metric, greater_is_better=metric != "loss")
    watch = TuneProgressCallback(exporter, None, goal, is_final=False)
    trials = [trial(i) for i in range(6)]
    for it in trials:
        watch.on_trial_start(0, [], it)
    found = [(3, 0.5), (3, 0.25), (1, 0.125), (2, 0.3), (1, 0.2), (1, 0.4)]
    for number, (epoch, value) in enumerate(found):
        is_last = number in (1, 2)  # the scheduler ends one at its last epoch, one before
        result = {"epoch": epoch, metric: value} | ({"done": True} if is_last else {})
        watch.on_trial_result(0, [], trials[number], result)
    trials[3].status = "PAUSED"  # and is not wanted again
    for it in trials[:4]:
        watch.on_trial_complete(0, [], it)
    watch.on_trial_error(0, [], trials[4])
    TuneProgressCallback(exporter, None, goal, is_final=True).on_trial_start(0, [], trial(9))
    exporter.send()
    assert values.found == {
        "clftask_tune_trials:running:search": 1,
        "clftask_tune_trials:done:search": 2,
        "clftask_tune_trials:stopped:search": 2,
        "clftask_tune_trials:failed:search": 1,
        "clftask_tune_trials:running:finalists": 1,
        "clftask_tune_trials:done:finalists": 0,
        "clftask_tune_trials:stopped:finalists": 0,
        "clftask_tune_trials:failed:finalists": 0,
        f"clftask_tune_best_value:{metric}": best,
    }


# ------------------------------------------------------------------ failures do not reach the job


class Broken:
    """Raises on every call."""

    def __getattr__(self, name: str) -> Any:
        raise OSError(f"no {name}")


def test_broken_metrics_and_strange_records_never_fail_a_job():
    passed_on: list[dict[str, Any]] = []
    with ScoreMetricsExporter(OUTPUT, passed_on.append, Broken()) as exporter:
        assert list(exporter.watching(FakePool(done(0)))(Dispatcher([], 1))) == [done(0)]
        exporter({"rows": 10, "total": 10})
        exporter({"rows": None})
    with TrainMetricsExporter("runs/a", passed_on.append, Broken()) as train:
        train({})
    assert passed_on == [{"rows": 10, "total": 10}, {"rows": None}, {}]
    assert not exporter.thread.is_alive()


def test_an_error_of_the_screen_is_the_jobs():
    def fail(_: dict[str, Any]) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError), TrainMetricsExporter("runs/a", fail, Values()) as exporter:
        exporter({"step": 1, "epoch": 0, "max_steps": 2})


def test_the_last_values_are_exported_at_the_end():
    values = Values()
    with TrainMetricsExporter("runs/a", ignore, values) as exporter:
        exporter({"step": 1, "epoch": 0.5, "max_steps": 2})
    assert values.found["clftask_train_progress_ratio"] == 0.5


# ------------------------------------------------------------------ Ray and Prometheus


Samples = dict[str, tuple[dict[str, str], float]]


def samples(port: int) -> Samples:
    """Return clftask's samples from the node's metrics agent: labels and value, by name."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
    except OSError:
        return {}  # it is yet to start
    lines = re.findall(r"^ray_(clftask_\w+){(.*)} (\S+)$", text, re.MULTILINE)
    return {
        name: (dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value))
        for name, labels, value in lines
    }


def samples_when(port: int, is_so: Callable[[Samples], bool]) -> Samples:
    """Return the samples once they are as wanted, or the last ones."""
    give_up = time.monotonic() + 300
    while not is_so(found := samples(port)) and time.monotonic() < give_up:
        time.sleep(0.2)
    return found


@pytest.mark.ray
def test_prometheus_sees_gauges_while_a_job_runs_and_its_counts_for_good(monkeypatch):
    pytest.importorskip("ray.dashboard.optional_deps", reason="needs ray[default]")
    import ray

    (port,) = free_ports(1)
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")  # for Ray's agent
    often = {"metrics_report_interval_ms": 1000}  # and for this process
    options = {"_metrics_export_port": port, "_system_config": often, "logging_level": "ERROR"}
    ray.init("local", num_cpus=1, include_dashboard=False, **options)
    try:
        with ScoreMetricsExporter(OUTPUT, ignore) as exporter:
            list(exporter.watching(FakePool(done(0, bad=3)))(Dispatcher([], 1)))
            exporter({"rows": 10, "total": 40})
            gauges = {"clftask_score_progress_ratio", "clftask_score_workers"}
            samples_when(port, lambda found: gauges <= found.keys())
            time.sleep(3)  # Ray drops a gauge that is 2 s old
            running = samples_when(port, lambda found: gauges <= found.keys())
        after = samples_when(port, lambda found: bool(found) and not gauges & found.keys())
    finally:
        ray.shutdown()
    labels, value = running["clftask_score_progress_ratio"]
    assert (labels["run"], labels["kind"], value) == (OUTPUT, "score", 0.25)
    assert running["clftask_score_rows_total"][1] == 7
    assert running["clftask_score_workers"][0]["state"] in ("ready", "starting")
    buckets = {"_bucket", "_count", "_sum"}
    histogram = {f"clftask_score_shard_duration_seconds{suffix}" for suffix in buckets}
    assert running.keys() - after.keys() == gauges
    counters = {"rows_total", "rows_quarantined_total", "shards_total"}
    assert after.keys() == histogram | {f"clftask_score_{name}" for name in counters}


# ------------------------------------------------------------------ the dashboard


def panels() -> list[dict[str, Any]]:
    return json.loads(DASHBOARD.read_text())["panels"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])]


def own_name(series: str) -> str:
    """Return what we call what Prometheus calls so."""
    name = series.removeprefix("ray_")
    is_histogram = METRICS.get(name.removesuffix("_bucket"))
    return name.removesuffix("_bucket") if is_histogram else name


@pytest.mark.parametrize("query", queries())
def test_the_dashboard_asks_for_metrics_that_are_there(query):
    named = {own_name(series) for series in re.findall(r"\bray_\w+", query)}
    assert named
    assert named <= METRICS.keys()
    labels = {RUN, KIND, *(tag for name in named for tag in METRICS[name].tags)}
    labels |= {"le"} if "_bucket" in query else set()
    grouped = re.findall(r"by \(([^)]*)\)", query)
    asked = {label.strip() for group in grouped for label in group.split(",")}
    matched = set(re.findall(r"(\w+)\s*=~?", "".join(re.findall(r"{([^}]*)}", query))))
    assert asked | matched <= labels
    assert RUN in asked & matched


def test_the_dashboard_adds_counters_and_takes_gauges_as_they_are():
    for query in queries():
        for call, series in re.findall(r"(\w+) by \([^)]*\) \((?:rate\()?(ray_\w+)", query):
            is_gauge = METRICS[own_name(series)].type == "gauge"
            assert call == ("max" if is_gauge else "sum"), query


def test_the_dashboard_shows_every_metric():
    shown = {own_name(series) for query in queries() for series in re.findall(r"ray_\w+", query)}
    assert METRICS.keys() - shown == set()


def test_legends_name_labels_that_the_query_keeps():
    for panel in panels():
        for target in panel.get("targets", []):
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept, panel["title"]


def test_panels_have_ids_units_and_places_of_their_own():
    found = panels()
    assert len({panel["id"] for panel in found}) == len(found)
    for panel in found:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        if panel["type"] != "row":
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs) > 0
            assert panel["fieldConfig"]["defaults"]["unit"]
    for a, b in combinations([panel["gridPos"] for panel in found], 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


def test_the_dashboard_is_chosen_by_run():
    document = json.loads(DASHBOARD.read_text())
    variables = {variable["name"]: variable for variable in document["templating"]["list"]}
    assert {"datasource", "run"} <= variables.keys()
    used = set(re.findall(r"\$(\w+)", " ".join(queries())))
    assert used <= variables.keys()


def test_names_follow_prometheus():
    for metric in METRICS.values():
        assert re.fullmatch(r"clftask_(score|train|tune)_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.type == "counter")
        assert {"job", "instance", "le", RUN, KIND}.isdisjoint(metric.tags)
