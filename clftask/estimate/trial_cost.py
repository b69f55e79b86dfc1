"""Cost of a trial: runs real steps, evaluations and the publishing of a bundle here."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import TrainerCallback

from clftask.config.train import TrainJob
from clftask.data.batching import GlobalBatches
from clftask.data.prepare import Prepared
from clftask.estimate.measure import Clock
from clftask.io.tempdirs import temporary_folder
from clftask.training.work import Work
from clftask.training.worker import build_trainer
from clftask.tuning.trial_store import Evaluation, Trial, TrialStore
from clftask.tuning.trial_worker import reason_of
from clftask.tuning.winner import publish_winner

NUM_STEPS, MIN_STEPS, LIMIT_S = 6, 3, 30.0  # per epoch of two; the limits of slow training
TRAIN_ROWS, HELD_OUT_ROWS = 4_000, 500


@dataclass(frozen=True)
class Cost:
    """Cost of the trials of one kind, in seconds.

    Attributes:
        first_s: Extra time of the first trial of a process.
        start_s: Time to build the trainer.
        epoch_s: Time of an epoch with its evaluation.
        publish_s: Time to evaluate the winner and write its bundle.
        reason: Why such trials fail; empty if they do not.
    """

    first_s: float = 0.0
    start_s: float = 0.0
    epoch_s: float = 0.0
    publish_s: float = 0.0
    reason: str = ""


def sampled(prepared: Prepared, batch_size: int) -> Prepared:
    """Return random rows of each split, enough for the steps of the largest batch."""
    random, tables = np.random.default_rng(0), {}
    for split, table in prepared.tables.items():
        most = max(TRAIN_ROWS, NUM_STEPS * batch_size) if split == "train" else HELD_OUT_ROWS
        tables[split] = table.take(pa.array(np.sort(random.permutation(table.num_rows)[:most])))
    return replace(prepared, tables=tables)


def measure_cost(
    job: TrainJob,
    prepared: Prepared,
    tables: dict[str, pa.Table],
    device: str,
    clock: Clock,
    precision: str = "fp32",
) -> Cost:
    """Train two short epochs, evaluate and publish, with one worker's part of each batch.

    Args:
        job: The trial.
        prepared: All rows.
        tables: Tokens of the sampled rows.
        device: cpu or cuda.
        clock: Returns seconds.
        precision: The trial's precision, resolved.
    """
    share = max(1, job.training.batch_size // job.scaling.bounds[1])
    some = {**tables, "train": _typical_batches(tables["train"], share)}
    data = {"fingerprint": prepared.fingerprint, "report": prepared.report.as_json()}
    num_rows = {split: table.num_rows for split, table in prepared.tables.items()}
    update = {"epochs": 2, "batch_size": share, "learning_rate": 1e-6, "head_learning_rate": "auto"}
    training = job.training.model_copy(update=update)  # a learning rate too low to diverge
    short = job.model_copy(update={"training": training, "tracking": ()})
    try:
        with temporary_folder() as scratch:
            work = Work(short, scratch, some, prepared.space.names, data, "")
            return _measured(work, job, num_rows, device, clock, precision)
    except Exception as error:  # such trials fail, and the search continues
        return Cost(reason=reason_of(error))


def _measured(
    work: Work,
    job: TrainJob,
    num_rows: dict[str, int],
    device: str,
    clock: Clock,
    precision: str,
) -> Cost:
    times = [clock()]
    for name in ("cold", "warm"):
        Path(work.run, name).mkdir()
        trainer = build_trainer(work, 1, device, precision, f"{work.run}/{name}")
        times.append(clock())
    first_s, start_s = times[1] - times[0], times[2] - times[1]
    trainer.args.save_strategy = "no"
    # Trainer uses DataParallel if it sees several GPUs; a worker sees one.
    trainer.args._n_gpu = min(trainer.args.n_gpu, 1)
    timer = _Timer(clock)
    trainer.add_callback(timer)
    trainer.train()
    num_steps = math.ceil(num_rows["train"] / job.training.batch_size)
    row_s = timer.evaluations[-1] / work.tables["validation"].num_rows
    evaluation_s = row_s * num_rows["validation"] / job.scaling.bounds[1]
    seen = Evaluation(epoch=1, step=1, seconds=1, metrics={})
    trial = Trial(number=0, picks={}, params={}, seed=job.seed, evaluations=(seen,))
    trainer._save(TrialStore(work.run).weights(trial))
    began = clock()
    publish_winner(work, job, trial, device, 1)
    not_seen = [
        n - work.tables[split].num_rows for split, n in num_rows.items() if split != "train"
    ]
    return Cost(
        first_s=max(0.0, first_s - start_s + timer.steps[0] - timer.step_s),
        start_s=start_s,
        epoch_s=num_steps * timer.step_s + evaluation_s,
        publish_s=clock() - began + row_s * sum(not_seen),
    )


def _typical_batches(table: pa.Table, batch_size: int) -> pa.Table:
    """Return the rows of some batches of an epoch, evenly spaced by text length."""
    lengths = table["length"].to_numpy().astype(np.int64)
    batches = GlobalBatches(lengths, batch_size, 0, 0, 1).batches()
    whole = [batch for batch in batches if len(batch) == batch_size] or batches
    whole.sort(key=lambda batch: int(lengths[batch].sum()))
    count = min(NUM_STEPS, len(whole))
    chosen = [whole[(2 * i + 1) * len(whole) // (2 * count)] for i in range(count)]
    return table.take(pa.array(np.concatenate(chosen)))


class _Timer(TrainerCallback):  # type: ignore[misc]
    """Times steps and evaluations; stops training that takes too long."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.last, self.num_steps = clock, 0.0, 0
        self.steps: list[float] = []
        self.evaluations: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self.last, self.num_steps = self.clock(), state.max_steps // 2

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Record the time of a step, including data loading."""
        self._lap(self.steps)
        if sum(self.steps) > LIMIT_S and len(self.steps) >= MIN_STEPS:
            control.should_training_stop = True
        return control

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record the time of an evaluation."""
        self._lap(self.evaluations)

    def _lap(self, seconds: list[float]) -> None:
        before, self.last = self.last, self.clock()
        seconds.append(self.last - before)

    @property
    def step_s(self) -> float:
        """Mean seconds per step of the second epoch, or of all steps but the first if cut short."""
        second = self.steps[self.num_steps :]
        return float(np.mean(second if len(second) == self.num_steps else self.steps[1:]))
