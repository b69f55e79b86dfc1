"""The winner of a search: its bundle, from the weights of its best evaluation."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from clftask.components.search.goal import Goal
from clftask.config.results import Shipped
from clftask.config.sections import TrainingSpec
from clftask.config.train import TrainJob
from clftask.io import storage
from clftask.io.tempdirs import temporary_folder
from clftask.training.trainer import ClassifierTrainer
from clftask.training.work import Work
from clftask.training.worker import build_trainer, evaluate, exact_model, publish
from clftask.tuning.trial_store import Evaluation, Trial, TrialStore

_log = logging.getLogger(__name__)


def publish_winner(
    work: Work, job: TrainJob, trial: Trial, device: str, world: int
) -> dict[str, Any]:
    """Evaluate the winner's best weights on validation and test, and write its bundle.

    Args:
        work: The winner's job as trained; `run` is the search's folder.
        job: The winner's job as exported.
        trial: The trial whose weights are exported.
        device: cpu or cuda.
        world: The number of workers that trained it.

    Returns:
        The content of the bundle's `metrics.json`.
    """
    with temporary_folder() as scratch:
        trainer = _trainer(work, trial, device, scratch)
        last = trial.evaluations[-1]
        found = evaluate(work, trainer)
        training = work.job.training
        best = trial.best(
            Goal(metric=training.metric, greater_is_better=training.greater_is_better)
        )
        outcome = found.content | {
            "epochs": last.epoch,
            "best_step": best.step if best else None,
            "steps": last.step,
            "seconds": trial.seconds,
            "workers": world,
            "label_names": list(work.label_names),
            "shipped": _shipped(trial, best, training).dump() if best else None,
        }
        exported = dataclasses.replace(work, job=job)
        place, say = Path(scratch, "bundle"), _log.warning
        model = trainer.model.to("cpu")
        publish(exported, trainer, model, found, outcome, place, _records(trial), say)
        return outcome


def _trainer(work: Work, trial: Trial, device: str, scratch: str) -> ClassifierTrainer:
    """Return a trainer with the winner's best weights."""
    folder = f"{scratch}/weights"
    storage.download(TrialStore(work.run).weights(trial), folder)
    trainer = build_trainer(work, 1, device, "fp32", scratch)
    trainer._load_from_checkpoint(folder)
    if work.job.training.weights == "bf16":  # the trial has rounded those that it froze
        trainer.use(exact_model(work, trainer, device, scratch))
    return trainer


def _records(trial: Trial) -> list[dict[str, Any]]:
    """Return a trial's evaluations in the format of `metrics.jsonl`."""
    return [
        {"step": e.step, "epoch": e.epoch} | {f"eval_{k}": v for k, v in e.metrics.items()}
        for e in trial.evaluations
    ]


def _shipped(trial: Trial, best: Evaluation, training: TrainingSpec) -> Shipped:
    stopping, last = training.early_stopping, trial.evaluations[-1]
    is_stopped = trial.state == "finished" and last.epoch < training.epochs
    return Shipped(
        epoch=round(best.epoch, 2),
        epochs=round(last.epoch, 2),
        metric=training.metric,
        patience=stopping.patience if is_stopped and stopping else None,
    )
