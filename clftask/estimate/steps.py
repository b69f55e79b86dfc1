"""What training costs: real steps and evaluations of a trial, in this process."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import TrainerCallback

from clftask.config.train import TrainJob
from clftask.data.batching import GlobalBatches
from clftask.data.prepare import Prepared
from clftask.io.tempdirs import temporary_folder
from clftask.training.worker import Work, build_trainer
from clftask.tuning.trial_worker import reason_of

NUM_STEPS = 6  # of a pass; the first pass warms up
MIN_STEPS, LIMIT_S = 3, 30.0  # of a pass that is not finished
SAMPLE_ROWS = {"train": 4_000, "validation": 500}
SEED = 0


@dataclass(frozen=True)
class Cost:
    """What trials of one kind cost.

    Attributes:
        startup_s: To open the model.
        step_s: A training step.
        steps: Of an epoch.
        evaluation_s: After each epoch.
        reason: Why such trials fail; empty if they do not.
    """

    startup_s: float = 0.0
    step_s: float = 0.0
    steps: int = 0
    evaluation_s: float = 0.0
    reason: str = ""

    @property
    def epoch_s(self) -> float:
        """An epoch with its evaluation."""
        return self.steps * self.step_s + self.evaluation_s


def sampled(prepared: Prepared, batch_size: int) -> Prepared:
    """Return some of the rows at random, enough for steps of the largest batch."""
    random, tables = np.random.default_rng(SEED), {}
    for split, most in SAMPLE_ROWS.items():
        table = prepared.tables[split]
        count = min(table.num_rows, max(most, NUM_STEPS * batch_size if split == "train" else 0))
        chosen = np.sort(random.permutation(table.num_rows)[:count])
        tables[split] = table.take(pa.array(chosen))
    return replace(prepared, tables=tables)


def measure(
    job: TrainJob,
    tables: dict[str, pa.Table],
    label_names: tuple[str, ...],
    num_rows: dict[str, int],
    device: str,
) -> Cost:
    """Train a few steps of a trial, twice, and evaluate; one worker's share of each batch.

    Args:
        job: The trial, its precision known.
        tables: Tokens of the sampled rows.
        label_names: The labels, in order.
        num_rows: Of the whole splits.
        device: cpu or cuda.
    """
    (_, workers), batch_size = job.scaling.bounds, job.training.batch_size
    share = batch_size // workers
    some = {**tables, "train": _of_typical_steps(tables["train"], share)}
    try:
        startup_s, clock = _trained(_short(job, share), some, label_names, device)
    except Exception as error:  # whatever it is, such trials fail, and the search goes on
        return Cost(reason=reason_of(error))
    whole = num_rows["validation"] / tables["validation"].num_rows / workers
    steps = math.ceil(num_rows["train"] / batch_size)
    return Cost(startup_s, clock.step_s, steps, clock.evaluations[-1] * whole)


def _short(job: TrainJob, batch_size: int) -> TrainJob:
    """Return a job of two epochs, at a rate at which no loss stops being a number."""
    update = {"epochs": 2, "batch_size": batch_size, "learning_rate": 1e-6}
    training = job.training.model_copy(update={**update, "head_learning_rate": "auto"})
    return job.model_copy(update={"training": training, "tracking": ()})


def _trained(
    job: TrainJob, tables: dict[str, pa.Table], label_names: tuple[str, ...], device: str
) -> tuple[float, _Clock]:
    """Train; return the seconds until then, and the clock."""
    with temporary_folder() as scratch:
        began = time.perf_counter()
        work = Work(job, scratch, tables, label_names, {}, "")
        trainer = build_trainer(work, 1, device, job.training.precision, scratch)
        startup_s = time.perf_counter() - began
        trainer.args.save_strategy = "no"
        trainer.args._n_gpu = min(trainer.args.n_gpu, 1)  # as a worker sees it
        clock = _Clock()
        trainer.add_callback(clock)
        trainer.train()
    return startup_s, clock


def _of_typical_steps(table: pa.Table, batch_size: int) -> pa.Table:
    """Return the rows of some batches of an epoch: from short texts to long ones, evenly."""
    lengths = table["length"].to_numpy().astype(np.int64)
    batches = GlobalBatches(lengths, batch_size, SEED, 0, 1).batches()
    whole = [batch for batch in batches if len(batch) == batch_size] or batches
    whole.sort(key=lambda batch: int(lengths[batch].sum()))
    count = min(NUM_STEPS, len(whole))
    places = [(2 * i + 1) * len(whole) // (2 * count) for i in range(count)]
    return table.take(pa.array(np.concatenate([whole[place] for place in places])))


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Times steps and evaluations, and ends what takes too long."""

    def __init__(self) -> None:
        self.began = self.last = 0.0
        self.steps: list[float] = []
        self.evaluations: list[float] = []
        self.num_of_pass = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self.num_of_pass = state.max_steps // 2
        self.began = self.last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Take the time of a step, its data loaded."""
        self.steps.append(self._lap())
        if self.last - self.began > LIMIT_S and len(self.steps) >= MIN_STEPS:
            control.should_training_stop = True
        return control

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the time of an evaluation."""
        self.evaluations.append(self._lap())

    def _lap(self) -> float:
        before, self.last = self.last, time.perf_counter()
        return self.last - before

    @property
    def step_s(self) -> float:
        """The mean of the second pass; if that was cut short, of all steps but the first."""
        second = self.steps[self.num_of_pass :]
        measured = second if len(second) == self.num_of_pass else self.steps[1:]
        return float(np.mean(measured))
