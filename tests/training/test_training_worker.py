"""What one worker does, in this process: steps, checkpoints, resuming. No Ray."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from training_work import Recorder, logged_steps, run, weights

from clftask.config.results import Shipped
from clftask.config.train import TrainJob
from clftask.errors import JobError, Problem, StorageError
from clftask.models import bundle
from clftask.training.callbacks import Stopwatch
from clftask.training.checkpoints import Checkpoints
from clftask.training.worker import Work, build_trainer


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
    # Evaluation sorts by length: the figures must still belong to their rows.
    assert sink.done["metrics"]["validation"]["lrap"] > 0.8


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


def test_killed_run_resumes_with_the_same_result(make_work):
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
    """The cause may be fixed: then its figures and its log are still whole."""
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


@pytest.mark.parametrize("is_slow", [False, True])
def test_early_stopping_counts_over_a_resume(make_work, monkeypatch, is_slow):
    """The last epoch is saved although the checkpoint of another is still uploaded."""
    monkeypatch.setattr(Checkpoints, "is_uploading", lambda own: is_slow)
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


def checkpoints_of(work: Work) -> list[int]:
    """Return the steps whose checkpoints were written."""
    log = Path(work.run, "log.txt").read_text()
    return [int(step) for step in re.findall(r" step (\d+): checkpoint\n", log)]


def test_only_a_checkpoint_to_train_from_has_the_optimizer(make_work):
    work = make_work(epochs=2, keep_checkpoints=3)
    run(work)
    first, last = sorted(Path(work.run, "checkpoints").iterdir())
    assert Path(first, "optimizer.pt").exists()
    assert not Path(last, "optimizer.pt").exists()


def test_an_epoch_does_not_wait_for_the_checkpoint_of_another(make_work, monkeypatch):
    """Of four epochs, the first is the best and the last has the trained weights."""
    monkeypatch.setattr(Checkpoints, "is_uploading", lambda self: True)
    work = make_work(epochs=4, learning_rate=1e-12, head_learning_rate=1e-12)
    sink = run(work)
    per_epoch = sink.done["steps"] // 4
    assert sink.done["best_step"] == per_epoch
    assert checkpoints_of(work) == [per_epoch, 4 * per_epoch]


def test_only_the_first_worker_decides_whether_an_epoch_waits(make_work, monkeypatch):
    """The others do not upload, so that they would always save: a collective of all."""
    place = "clftask.training.checkpointed_trainer.broadcast_from_first"
    monkeypatch.setattr(place, lambda decided: False)
    trainer = build_trainer(make_work(), 1, "cpu", "fp32", make_work().run)
    assert trainer._save_checkpoint(trainer.model, None) is None
    assert not list(Path(trainer.args.output_dir).glob("checkpoint-*"))


def test_a_better_epoch_waits_for_the_checkpoint_of_another(make_work, monkeypatch):
    monkeypatch.setattr(Checkpoints, "is_uploading", lambda self: True)
    work = make_work(epochs=3, metric="loss")
    sink = run(work)
    best = {r["step"]: r["eval_loss"] for r in sink.evaluations()}
    better = [s for s in best if best[s] == min(best[t] for t in best if t <= s)]
    assert checkpoints_of(work) == sorted({*better, sink.done["steps"]})


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_optimizers_are_fused(make_work, optimizer):
    work = make_work(optimizer=optimizer)
    trainer = build_trainer(work, 1, "cpu", "fp32", work.run)
    assert trainer.create_optimizer().defaults["fused"] is True


@pytest.mark.parametrize(
    ("optimizer", "schedule"), [("adamw", "linear"), ("sgd", "cosine"), ("adafactor", "constant")]
)
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
