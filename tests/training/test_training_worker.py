"""What one worker does, in this process: no Ray, a tiny model, a learnable table."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from pyarrow import parquet as pq

from clftask.components.decision.decision import cross_fitted
from clftask.components.labels import multi_hot
from clftask.components.metrics import compute
from clftask.config.results import Shipped
from clftask.config.train import TrainJob
from clftask.data.prepare import prepare, tokenise
from clftask.errors import DataError, JobError, Problem, StorageError
from clftask.models import bundle
from clftask.models.tokenizers import load_tokenizer
from clftask.training.callbacks import Stopwatch
from clftask.training.checkpoints import Checkpoints
from clftask.training.trainer import ClassifierTrainer
from clftask.training.worker import Work, build_trainer, fit


class Recorder:
    """A sink that keeps what is posted, and can fail like a killed worker."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self.reports: list[dict[str, float]] = []
        self.fail_at = fail_at

    def post(self, record: dict[str, Any]) -> None:
        if self.fail_at is not None and record.get("step", 0) >= self.fail_at:
            raise KeyboardInterrupt
        self.records.append(record)

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


def run(work: Work, sink: Recorder | None = None) -> Recorder:
    sink = sink or Recorder()
    fit(work, sink, rank=0, world=1, device="cpu")
    return sink


def logged_steps(folder: str) -> list[int]:
    lines = Path(folder, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def weights(folder: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(Path(folder, "bundle", "model.safetensors"))


def test_learns_and_reports(make_work):
    work = make_work(epochs=30, head={"kind": "mlp", "hidden": 16})
    sink = run(work)
    first, *_, last = sink.evaluations()
    assert last["eval_loss"] < first["eval_loss"] * 0.8
    assert last["eval_micro_f1"] > 0.8
    assert len(sink.reports) == 30
    assert sink.done["epochs"] == 30
    assert sink.done["samples_per_s"] > 0
    assert set(sink.done["metrics"]) == {"validation", "test"}


def shipped_everywhere(work: Work, sink: Recorder) -> str:
    """Return how training ended, which log, card, report and both JSON files say."""
    folder = Path(work.run, "bundle")
    shipped = Shipped.of(sink.done)
    assert shipped is not None
    assert Shipped.of(json.loads((folder / "metrics.json").read_text())) == shipped
    assert bundle.read_meta(str(folder)).shipped == shipped
    line = shipped.line()
    assert f"- Training: {line}." in (folder / "README.md").read_text()
    assert f"Training: {line}." in (folder / "report.html").read_text()
    log = Path(work.run, "log.txt").read_text()
    assert f" {line}\n" in log
    form = r"epoch \d+, step \d+/\d+: validation loss \d\.\d{4}, micro_f1 \d\.\d{4}\n"
    evaluations = re.findall(form, log)
    assert len(evaluations) == len(sink.evaluations())
    return line


def test_early_stopping_is_said(make_work):
    # So small a rate changes no prediction: no epoch is better than the first.
    work = make_work(epochs=9, early_stopping={"patience": 2}, learning_rate=1e-12)
    sink = run(work)
    line = "stopped after epoch 3: no gain in micro_f1 for 2 epochs; epoch 1 ships"
    assert shipped_everywhere(work, sink) == line


def test_the_best_epoch_ships_also_without_early_stopping(make_work):
    work = make_work(epochs=2, learning_rate=1e-12)
    assert shipped_everywhere(work, run(work)) == "epoch 1 of 2 ships: best micro_f1"


def test_patience_that_ends_with_the_last_epoch_stops_nothing(make_work):
    work = make_work(epochs=3, early_stopping={"patience": 2}, learning_rate=1e-12)
    assert shipped_everywhere(work, run(work)) == "epoch 1 of 3 ships: best micro_f1"


def test_run_folder_holds_log_metrics_and_few_checkpoints(make_work):
    work = make_work(keep_checkpoints=1, epochs=5)
    run(work)
    log = Path(work.run, "log.txt").read_text()
    assert log.startswith("hello\n")
    assert "done: " in log
    steps = logged_steps(work.run)
    assert steps == sorted(steps)
    assert 1 <= len(list(Path(work.run, "checkpoints").iterdir())) <= 2
    assert not list(Path(work.run).rglob("*.bin"))


def test_killed_run_goes_on_as_if_nothing_had_happened(make_work):
    whole = make_work("whole", epochs=6)
    expected = run(whole)
    killed = make_work("killed", epochs=6)
    with pytest.raises(KeyboardInterrupt):
        run(killed, Recorder(fail_at=20))
    resumed = run(killed)
    first = min(resumed.losses())
    assert first > 6, "it began anew"
    for step, loss in resumed.losses().items():
        if step % 10 == 0 and step > first:
            assert loss == pytest.approx(expected.losses()[step], rel=1e-5)
    assert resumed.done["steps"] == expected.done["steps"]
    assert resumed.done["best_step"] == expected.done["best_step"]
    after, before = weights(killed.run), weights(whole.run)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], atol=1e-6)
    steps = logged_steps(killed.run)
    assert steps == sorted(steps)
    assert max(steps) == expected.done["steps"]


def test_precision_is_measured_once_in_a_run(make_work, monkeypatch):
    work = make_work(precision="auto", epochs=6)
    monkeypatch.setattr("clftask.training.worker.bf16_pays", lambda device: True)
    with pytest.raises(KeyboardInterrupt):
        run(work, Recorder(fail_at=20))
    monkeypatch.setattr("clftask.training.worker.bf16_pays", lambda device: False)
    run(work)
    log = Path(work.run, "log.txt").read_text()
    assert [line.split("on cpu, ")[1][:4] for line in log.splitlines() if " on cpu, " in line] == [
        "bf16",
        "bf16",
    ]
    run(make_work("another", precision="auto", epochs=1))
    assert "on cpu, fp32" in Path(work.run, "..", "another", "log.txt").read_text()


def test_speed_counts_the_rows_of_ragged_batches(make_work, monkeypatch):
    """96 train rows are a batch of 90 and one of 6: at a second a step, 48 rows a second."""

    class SecondAStep(Stopwatch):
        def on_step_end(self, *args: Any, **rest: Any) -> None:
            self.seconds += 1

    monkeypatch.setattr("clftask.training.worker.Stopwatch", SecondAStep)
    sink = run(make_work(batch_size=90, epochs=5))
    speeds = {r["step"]: r["samples_per_s"] for r in sink.records if "samples_per_s" in r}
    assert speeds[1] in (6, 90)
    assert speeds[10] == 48
    assert sink.done["samples_per_s"] == 48


def test_speed_leaves_out_the_first_step_of_a_process(monkeypatch):
    """It takes 100 seconds here, as where kernels are loaded; the others take 2 for 16 rows."""
    times = itertools.accumulate(itertools.chain([0, 100], itertools.cycle([50, 2])))
    monkeypatch.setattr("clftask.training.callbacks.time.perf_counter", lambda: next(times))
    watch = Stopwatch(SimpleNamespace(rows_seen=0))
    args = SimpleNamespace(device=torch.device("cpu")), None, SimpleNamespace(should_log=True)
    assert watch.samples_per_s == 0.0
    for step, expected in enumerate((0.16, 8.0, 8.0)):
        watch.on_step_begin(*args)
        watch.trainer.rows_seen = 16 * (step + 1)
        watch.on_step_end(*args)
        assert watch.samples_per_s == expected


def test_weights_of_the_best_checkpoint_are_fetched_alone(make_work, monkeypatch):
    fetched: list[tuple[Any, ...]] = []
    fetch = Checkpoints.fetch

    def spy(self: Checkpoints, *args: Any) -> str:
        fetched.append(args)
        return fetch(self, *args)

    monkeypatch.setattr(Checkpoints, "fetch", spy)
    work = make_work(metric="hamming_loss", learning_rate=1e-9, head_learning_rate=1e-9, epochs=3)
    sink = run(work)
    assert sink.done["best_step"] < sink.done["steps"]
    assert fetched == [(sink.done["best_step"], "model.safetensors")]


def test_a_worker_leaves_no_temporary_files(make_work, tiny_base, tmp_path, monkeypatch):
    fsspec.filesystem("memory").put(str(tiny_base), "/bases/tiny", recursive=True)
    work = make_work(epochs=1)
    job = TrainJob.load(work.job.dump(), ["model.base=memory://bases/tiny"])
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    run(Work(job, work.run, work.tables, work.label_names, work.data, ""))
    assert Path(work.run, "bundle", "model.safetensors").exists()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_killed_between_last_checkpoint_and_bundle(make_work):
    work = make_work(epochs=2)
    expected = run(work).done
    shutil.rmtree(Path(work.run, "bundle"))
    again = run(work)
    assert not again.losses(), "it trained although all steps were taken"
    assert again.done["metrics"]["test"] == pytest.approx(expected["metrics"]["test"])


def test_a_run_that_cannot_go_on_keeps_what_it_has_written(make_work, monkeypatch):
    """What is in the way may be mended: then its figures and its log are still whole."""
    work = make_work(epochs=4)
    with pytest.raises(KeyboardInterrupt):
        run(work, Recorder(fail_at=12))
    before = logged_steps(work.run)
    assert before

    def full(*_: Any) -> None:
        raise StorageError(Problem("/tmp", None, "the disk is full"))

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "fetch", full)
        with pytest.raises(StorageError, match="the disk is full"):
            run(work)
    assert logged_steps(work.run) == before
    log = Path(work.run, "log.txt").read_text()
    assert log.startswith("hello\n")
    assert "checkpoint" in log
    assert "failed: " in log
    run(work)
    assert [s for s in logged_steps(work.run) if s in before] == before


def test_early_stopping_counts_over_a_resume(make_work):
    options = {"epochs": 30, "learning_rate": 1e-9, "early_stopping": {"patience": 2}}
    work = make_work(**options, head_learning_rate=1e-9, metric="micro_f1")
    sink = run(work)
    assert len(sink.evaluations()) == 3
    again = run(work)
    assert not again.evaluations()


@pytest.mark.parametrize("metric", ["loss", "macro_f1", "lrap", "hamming_loss"])
def test_best_checkpoint_is_that_of_the_metric(make_work, metric):
    work = make_work(metric=metric, epochs=4)
    sink = run(work)
    values = {r["step"]: r[f"eval_{metric}"] for r in sink.evaluations()}
    best = (min if metric in ("loss", "hamming_loss") else max)(values.values())
    assert values[sink.done["best_step"]] == best


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_optimizers_and_schedules(make_work, optimizer, schedule):
    work = make_work(optimizer=optimizer, schedule=schedule, epochs=1, warmup=0.5)
    rates = [r["learning_rate"] for r in run(work).records if "learning_rate" in r]
    assert all(math.isfinite(rate) and 0 <= rate <= 2e-2 for rate in rates)


def test_head_learns_at_its_own_rate(make_work):
    work = make_work(epochs=1, learning_rate=1e-9, head_learning_rate=1e-2, weight_decay=0)
    run(work)
    still = make_work("still", epochs=1, learning_rate=1e-9, head_learning_rate=1e-9)
    run(still)
    a, b = weights(work.run), weights(still.run)
    layer = "bert.encoder.layer.0.attention.self.query.weight"
    np.testing.assert_allclose(a[layer], b[layer], atol=1e-6)
    assert np.abs(a["classifier.weight"] - b["classifier.weight"]).max() > 1e-3


def test_nan_ends_the_run_with_advice(make_work):
    work = make_work(learning_rate=1e30, optimizer="sgd", max_grad_norm=1e30)
    with pytest.raises(JobError, match=r"the loss is NaN or infinite.*learning_rate"):
        run(work)


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


@pytest.mark.parametrize(
    "opening",
    [
        'clftask.register(); import transformers as t; t.pipeline("text-classification", {})',
        "clftask.load({})",
    ],
)
def test_a_fresh_process_opens_the_head_of_clftask(make_work, opening):
    work = make_work(head={"kind": "mlp", "hidden": 8}, epochs=1)
    run(work)
    folder = Path(work.run, "bundle")
    code = "import clftask; " + opening.format(repr(str(folder)))
    subprocess.run([sys.executable, "-c", code], check=True)
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


def test_rows_of_logits_come_back_in_order(make_work):
    """Evaluation sorts by length: the figures must still belong to their rows."""
    work = make_work(epochs=30, head={"kind": "mlp", "hidden": 16})
    sink = run(work)
    codes = work.tables["validation"]["labels"].combine_chunks()
    assert isinstance(codes, pa.ListArray | pa.ChunkedArray)
    assert sink.done["metrics"]["validation"]["lrap"] > 0.8


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
        windows, targets = micro["windows"].tolist(), micro["targets"]
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
