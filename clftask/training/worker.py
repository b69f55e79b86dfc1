"""One worker of a training run: from tokenised splits to the bundle. Without Ray."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clftask.components import trackers
from clftask.components.decision.decision import Decision
from clftask.components.truncation import num_special
from clftask.config.results import Shipped
from clftask.config.train import TrainJob
from clftask.data.targets import train_labels
from clftask.errors import ConfigError, Problem
from clftask.evaluation.evaluate import Evaluated, decide, labelled
from clftask.io import storage
from clftask.io.strict_json import strict, to_json
from clftask.io.tempdirs import temporary_folder
from clftask.logs import errors_logged
from clftask.messages import counted
from clftask.models.loading import (
    build_model,
    find_base,
    output_layer,
    parameter_counts,
)
from clftask.models.precision import bf16_pays, resolve_precision
from clftask.models.tokenizers import load_tokenizer
from clftask.models.trial_step import prepare
from clftask.models.weights import Weights, keep_frozen_in_bf16
from clftask.training.arguments import precision_of, training_arguments
from clftask.training.callbacks import (
    Reporter,
    SaveEvery,
    Saver,
    Sink,
    StepSeed,
    StopOnNan,
    Stopwatch,
)
from clftask.training.checkpointed_trainer import WEIGHTS
from clftask.training.checkpoints import Checkpoints, read_state
from clftask.training.collectives import broadcast_from_first, forget_launcher
from clftask.training.publishing import publish_model
from clftask.training.run_log import RunLog
from clftask.training.trainer import ClassifierTrainer
from clftask.training.validation import evaluations_without_gain
from clftask.training.work import Work

CHECKPOINT_INTERVAL_S = 300.0
_log = logging.getLogger(__name__)


def fit(work: Work, sink: Sink, rank: int, world: int, device: str) -> None:
    """Train, evaluate the best checkpoint and write the bundle; every worker calls it.

    Raises:
        JobError: The loss is NaN or infinite.
        StorageError: A checkpoint or the bundle cannot be written.
    """
    if world == 1:
        forget_launcher()
    with temporary_folder() as scratch:
        _fit(work, sink, rank, world, device, scratch)


def _fit(work: Work, sink: Sink, rank: int, world: int, device: str, scratch: str) -> None:
    log = RunLog(work.run, work.preamble)
    if rank == 0:
        log.load()
    checkpoints = Checkpoints(
        storage.join(work.run, "checkpoints"), work.job.training.keep_checkpoints, scratch
    )
    try:
        outcome = _run(work, sink, log, checkpoints, rank, world, device, scratch)
    except Exception as error:
        _log.exception("training failed")
        with errors_logged("the last checkpoint is not complete"):
            checkpoints.wait()  # the upload reads from the scratch folder
        if rank == 0:
            log.close(f"failed: {error}")
        raise
    if rank == 0:
        log.close("done: " + to_json(outcome["metrics"]["validation"]))
        sink.post({"done": outcome})


def _run(
    work: Work,
    sink: Sink,
    log: RunLog,
    checkpoints: Checkpoints,
    rank: int,
    world: int,
    device: str,
    scratch: str,
) -> dict[str, Any]:
    """Train, evaluate and publish; return the outcome, which is empty but on the first worker."""
    started = time.perf_counter()
    with trackers.writing_to(work.run, scratch):
        precision = broadcast_from_first(
            _precision(work.job, checkpoints, device) if rank == 0 else ""
        )
        trainer = build_trainer(work, world, device, precision, scratch)
        watch = Stopwatch(trainer)
        _train(trainer, checkpoints, log, sink, watch)
    _use_best(trainer, checkpoints)
    if trainer.has_bf16_weights:
        trainer.use(exact_model(work, trainer, device, scratch))
    shipped = shipped_epoch(trainer)
    if rank == 0 and shipped is not None:
        log.add_line(shipped.line())
    found = evaluate(work, trainer)
    model = whole_model(work, trainer, scratch)
    if rank != 0:
        return {}
    checkpoints.wait()  # it was uploaded beside the evaluation
    outcome = found.content | _outcome(trainer, watch, started, work)
    outcome["shipped"] = shipped.dump() if shipped else None
    place = Path(scratch, "bundle")
    publish(work, trainer, model, found, outcome, place, log.records, log.add_line)
    for line in found.warnings:
        log.add_line(f"warning: {line}")
    return outcome


def _precision(job: TrainJob, checkpoints: Checkpoints, device: str) -> str:
    """Return the run's precision: that of its checkpoints, else resolved for this device."""
    kept, wanted = checkpoints.precision(), job.training
    if kept:
        return kept
    pays = wanted.precision == "auto" and bf16_pays(device)
    return resolve_precision(wanted.precision, device, pays, wanted.deterministic)


def build_trainer(
    work: Work, world: int, device: str, precision: str, scratch: str
) -> ClassifierTrainer:
    """Return the trainer of one of `world` workers; the caller removes the folder `scratch`.

    If the model does not work in the precision, `auto` falls back to fp32.

    Raises:
        ConfigError: The job requests a precision in which the model does not work.
    """
    trainer = _build_trainer(work, world, device, precision, scratch)
    reason = broadcast_from_first(trainer.precision_failure() if precision != "fp32" else "")
    if not reason:
        return trainer
    if work.job.training.precision != "auto":
        allowed = f"does not work with {work.job.model.base}: {reason}"
        weights = "" if work.job.training.weights == "fp32" else ", without training.weights"
        raise ConfigError(Problem("training.precision", precision, allowed, f"Use fp32{weights}."))
    trainer = _build_trainer(work, world, device, "fp32", scratch)
    trainer.fallback = f"fp32 is used: {precision} does not work with this model: {reason}"
    _log.warning(trainer.fallback)
    return trainer


def _build_trainer(
    work: Work, world: int, device: str, precision: str, scratch: str
) -> ClassifierTrainer:
    job = work.job
    model, tokenizer, fresh = _initial_model(work, scratch)
    weights = Weights(model, job.transformer.adapt.keeps_base)
    if precision == "bf16" and job.training.weights == "bf16":
        keep_frozen_in_bf16(model)
    arguments = training_arguments(job, f"{scratch}/trainer", world, device, precision)
    # accelerate may not find Ray's process group; then it trains independent models silently.
    assert arguments.world_size == world, "Trainer would train independent models"
    kind = ClassifierTrainer
    if job.scaling.is_sharded(world):
        from clftask.training.sharded_trainer import ShardedTrainer
        from clftask.training.sharding import shard

        shard(model, device)
        kind = ShardedTrainer
    trainer = kind(job, weights, tokenizer, arguments, work.tables, work.space, fresh)
    if work.features is not None:
        trainer.known_features = work.features
    return trainer


def _initial_model(work: Work, scratch: str) -> tuple[Any, Any, set[str]]:
    """Return the model before training, its tokenizer, and the names of its new parameters.

    It is the same whenever and wherever it is called.
    """
    job = work.job
    torch.manual_seed(job.seed)
    base = find_base(job.model.base, scratch)
    prior = train_labels(work.tables["train"], len(work.label_names)).shares
    model, fresh = build_model(base, job.transformer, work.space, prior)
    tokenizer = load_tokenizer(base, model.config)
    prepare(model, tokenizer, job.transformer, job.data.text_pair is not None)
    return model, tokenizer, fresh


# ------------------------------------------------------------------ training


def _train(
    trainer: ClassifierTrainer, checkpoints: Checkpoints, log: RunLog, sink: Sink, watch: Stopwatch
) -> None:
    """Train from the newest checkpoint; only load it if training is already complete."""
    job, is_first = trainer.job, trainer.args.process_index == 0
    stopping = job.training.early_stopping
    patience = stopping.patience if stopping else None
    for callback in (
        StepSeed(job.seed),
        watch,
        SaveEvery(CHECKPOINT_INTERVAL_S, sink.is_leaving),
        StopOnNan(),
        Reporter(log, sink, watch),
        Saver(checkpoints, log, patience),
    ):
        trainer.add_callback(callback)
    trainer.note, trainer.is_uploading = log.add_line, checkpoints.is_uploading
    step = broadcast_from_first(checkpoints.latest() if is_first else None)
    folder = checkpoints.fetch(step) if step is not None else None
    if is_first:
        checkpoints.clean(_best_step(folder))
        log.drop_after(step or 0)
        if step is not None:
            log.add_line(f"resuming from the checkpoint of step {step}")
        if trainer.fallback:
            log.add_line(trainer.fallback)
        log.add_line(_description(trainer))
    if folder is None or not _is_finished(trainer, folder, patience):
        trainer.train(resume_from_checkpoint=folder)
    else:
        trainer.state = trainer.state.load_from_json(str(Path(folder, "trainer_state.json")))
        trainer._load_from_checkpoint(folder)


def _description(trainer: ClassifierTrainer) -> str:
    args = trainer.args
    total, trained = parameter_counts(trainer.model)
    head = "" if trainer.fresh else "; the base's own head is kept"
    frozen = ", frozen weights in bf16" if trainer.has_bf16_weights else ""
    sharded = ", sharded" if trainer.inference.is_sharded else ""
    return (
        f"{counted(args.world_size, 'worker')} on {args.device.type}{sharded}, "
        f"{precision_of(args)}{frozen}; {trained:,} of {total:,} parameters trained{head}"
    )


def _best_step(folder: str | None) -> int | None:
    best = read_state(folder).get("best_global_step") if folder else None
    return best if isinstance(best, int) else None


def _is_finished(trainer: ClassifierTrainer, folder: str, patience: int | None) -> bool:
    """Return whether a checkpoint is the last one: all steps done, or patience exhausted."""
    state = trainer.state.load_from_json(str(Path(folder, "trainer_state.json")))
    is_out = patience is not None and evaluations_without_gain(trainer.args, state) >= patience
    return bool(state.global_step >= state.max_steps or is_out)


def shipped_epoch(trainer: ClassifierTrainer) -> Shipped | None:
    """Return the epoch of the best checkpoint; None if no evaluation has a valid metric."""
    state, training = trainer.state, trainer.job.training
    name, stopping = trainer.args.metric_for_best_model, training.early_stopping
    epochs = {entry["step"]: entry["epoch"] for entry in state.log_history if name in entry}
    if state.best_global_step not in epochs:
        return None
    is_stopped = (
        stopping is not None
        and state.global_step < state.max_steps
        and evaluations_without_gain(trainer.args, state) >= stopping.patience
    )
    return Shipped(
        epoch=round(epochs[state.best_global_step], 2),
        epochs=round(state.epoch or 0, 2),
        metric=training.metric,
        patience=stopping.patience if is_stopped and stopping else None,
    )


def _use_best(trainer: ClassifierTrainer, checkpoints: Checkpoints) -> None:
    """Load the best checkpoint's weights on every worker."""
    state = trainer.state
    if state.best_global_step and state.best_global_step != state.global_step:
        checkpoints.wait()
        broadcast_from_first(None)  # a barrier: the first worker's upload must be complete
        folder = checkpoints.fetch(state.best_global_step, WEIGHTS)
        trainer._load_from_checkpoint(folder)


def exact_model(work: Work, trainer: ClassifierTrainer, device: str, scratch: str) -> Any:
    """Return a model with the base's own frozen weights, as the bundle has them; all in fp32."""
    model = _initial_model(work, scratch)[0]
    if trainer.inference.is_sharded:
        from clftask.training.sharding import shard

        shard(model, device)
    else:
        trainer.model.to("cpu")  # the device may not hold both
    with torch.no_grad():
        for own, trained in zip(model.parameters(), trainer.model.parameters(), strict=True):
            if trained.requires_grad:
                own.copy_(trained)
    return model if trainer.inference.is_sharded else model.to(device)


def whole_model(work: Work, trainer: ClassifierTrainer, scratch: str) -> Any:
    """Return the trained model on the CPU; if it is sharded, on the first worker only.

    Every worker must call it.
    """
    if not trainer.inference.is_sharded:
        return trainer.model.to("cpu")
    trainer._save(scratch)
    if trainer.args.process_index != 0:
        return None
    model, file = _initial_model(work, scratch)[0], Path(scratch, WEIGHTS)
    Weights(model, work.job.transformer.adapt.keeps_base).load(file)
    file.unlink()
    return model


# ------------------------------------------------------------------ evaluation and bundle


def evaluate(work: Work, trainer: ClassifierTrainer) -> Evaluated:
    """Fit the decision and evaluate validation and test in fp32, as every user of the bundle does.

    Empty except on the first worker.
    """
    splits = {}
    for split in ("validation", "test"):
        logits = trainer.exact_logits_of(split) if split in work.tables else None
        if logits is not None:
            splits[split] = labelled(work.tables[split], logits, trainer.targets_of(split))
    if not splits:
        return Evaluated(Decision(), {}, {}, {})
    special = sum(num_special(trainer.processing_class))
    found = decide(work.job, work.space, splits, work.data, special)
    for split, rows in splits.items():
        loss = trainer.mean_loss(split, rows.logits)
        found.metrics[split]["loss"] = strict(loss)
    return found


def _outcome(
    trainer: ClassifierTrainer, watch: Stopwatch, started: float, work: Work
) -> dict[str, Any]:
    return {
        "epochs": round(trainer.state.epoch or 0, 2),
        "best_step": trainer.state.best_global_step,
        "steps": trainer.state.global_step,
        "seconds": round(time.perf_counter() - started, 1),
        "samples_per_s": watch.samples_per_s,
        "workers": trainer.args.world_size,
        "label_names": list(work.label_names),
    }


def publish(
    work: Work,
    trainer: ClassifierTrainer,
    model: Any,
    found: Evaluated,
    outcome: dict[str, Any],
    folder: Path,
    records: list[dict[str, Any]],
    say: Callable[[str], None],
) -> None:
    """Write the bundle into the run.

    Args:
        work: The inputs of the run.
        trainer: Has the tokenizer.
        model: The model to export, on the CPU.
        found: The decision, evaluated on held-out rows.
        outcome: The content of `metrics.json`.
        folder: A local folder; it must not exist.
        records: The records of `metrics.jsonl`, for the report's learning curves.
        say: Receives the error message if the report cannot be rendered.
    """
    calibration = found.decision.calibration.folded(output_layer(model))
    decision = found.decision.model_copy(update={"calibration": calibration})
    of_model = model, trainer.processing_class, decision
    publish_model(work, *of_model, found, outcome, folder, records, say)
