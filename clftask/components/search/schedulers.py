"""Trial schedulers: early stopping, and exploitation of other trials.

To add one: subclass `SchedulerSpec`, build it with `time_attr=EPOCH`, and add the class to
`Scheduler`.
"""

from __future__ import annotations

import itertools
import math
import random
from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from clftask.components.search.goal import Goal
from clftask.components.search.ray_schedulers import keeping_number, never_stuck
from clftask.components.search.space import Distribution, Space
from clftask.errors import Problem
from clftask.spec import BareKind, Spec

EPOCH = "epoch"  # the `time_attr` in the results of trials
_MAX_DRAWS = 5_000  # simulated trials, to estimate their epochs

# Fields that PBT can change during training: neither shapes nor batches depend on them.
_IN_PLACE = {
    f"training.{name}"
    for name in ("learning_rate", "head_learning_rate", "weight_decay", "max_grad_norm", "warmup")
}


class SchedulerSpec(Spec):
    """Base class of the schedulers.

    Attributes:
        resumes: Whether a trial can resume from its own or another trial's checkpoint.
        mutates: Whether hyperparameters change during a trial.
        searchers: The supported searchers; None: all.
    """

    kind: str
    resumes: ClassVar[bool] = False
    mutates: ClassVar[bool] = False
    searchers: ClassVar[tuple[str, ...] | None] = None

    def problems(self, space: Space, searcher: str, epochs: int) -> list[Problem]:
        """Return why this scheduler does not support a space or a searcher."""
        found = []
        if self.searchers is not None and searcher not in self.searchers:
            allowed = f"{self.kind} requires searcher {' or '.join(self.searchers)}"
            found.append(Problem("searcher.kind", searcher, allowed))
        elif searcher == "bohb" and self.kind != "bohb":
            allowed = "the bohb searcher requires the bohb scheduler"
            found.append(Problem("scheduler.kind", self.kind, allowed))
        if "training.epochs" in space.paths and self.kind != "fifo":
            allowed = f"{self.kind} compares trials by their epochs"
            remedy = "Set train.training.epochs to the maximum, or use scheduler: fifo."
            found.append(Problem("space.training.epochs", None, allowed, remedy))
        return found + self._own_problems(space, epochs)

    def _own_problems(self, space: Space, epochs: int) -> list[Problem]:
        return []

    def typical_epochs(self, num_trials: int, epochs: int) -> float:
        """Return the expected epochs of all trials together, if all are equally good.

        Args:
            num_trials: Number of trials.
            epochs: Maximum epochs of a trial.
        """
        return float(num_trials * epochs)

    @abstractmethod
    def build(self, space: Space, goal: Goal, epochs: int, seed: int) -> Any:
        """Return a scheduler of Ray Tune.

        Args:
            space: The search space.
            goal: The metric and its direction.
            epochs: Maximum epochs of a trial.
            seed: Random seed.
        """


class _Graceful(SchedulerSpec):
    """Base class of schedulers with a grace period."""

    grace_epochs: int = Field(1, ge=1)

    def _own_problems(self, space: Space, epochs: int) -> list[Problem]:
        if self.grace_epochs <= epochs:
            return []
        allowed = f"must be at most train.training.epochs ({epochs})"
        return [Problem("scheduler.grace_epochs", self.grace_epochs, allowed)]


class Fifo(SchedulerSpec):
    """Every trial trains to its end."""

    kind: Literal["fifo"] = "fifo"

    def build(self, space: Space, goal: Goal, epochs: int, seed: int) -> Any:
        from ray.tune.schedulers import FIFOScheduler

        return FIFOScheduler()


class Asha(_Graceful):
    """Asynchronous successive halving (Li et al., 2020).

    After grace_epochs · reduction_factor^k epochs a trial continues only if it is among the
    best 1/reduction_factor of the trials that reached this rung.
    """

    kind: Literal["asha"] = "asha"
    reduction_factor: float = Field(3, gt=1)

    def typical_epochs(self, num_trials: int, epochs: int) -> float:
        """Return the mean over simulated searches with random scores, constant over rungs."""
        count = max(4, _MAX_DRAWS // num_trials)
        rng = np.random.default_rng(0)
        return sum(self._epochs_of(rng.random(num_trials), epochs) for _ in range(count)) / count

    def _epochs_of(self, scores: Any, epochs: int) -> int:
        """Return the total epochs of sequential trials with these scores."""
        rungs = [float(self.grace_epochs)]
        while rungs[-1] * self.reduction_factor < epochs:
            rungs.append(rungs[-1] * self.reduction_factor)
        total, known = 0, {rung: list[float]() for rung in rungs if rung < epochs}
        for score in scores:
            total += next((math.ceil(r) for r, k in known.items() if self._stops(score, k)), epochs)
        return total

    def _stops(self, score: float, known: list[float]) -> bool:
        """Tell whether a score is below the quantile of earlier ones; add it to them."""
        share = 1 - 1 / self.reduction_factor
        is_below = bool(known) and bool(score < np.quantile(known, share))
        known.append(score)
        return is_below

    def build(self, space: Space, goal: Goal, epochs: int, seed: int) -> Any:
        from ray.tune.schedulers import ASHAScheduler

        return ASHAScheduler(
            time_attr=EPOCH,
            metric=goal.metric,
            mode=goal.mode,
            max_t=epochs,
            grace_period=self.grace_epochs,
            reduction_factor=self.reduction_factor,
        )


class _Brackets(SchedulerSpec):
    """Base class of HyperBand schedulers: trials of a bracket pause until all reach its rung.

    Attributes:
        of_ray: The class name in `ray.tune.schedulers`.
    """

    resumes = True
    of_ray: ClassVar[str]
    reduction_factor: float = Field(3, gt=1)

    def typical_epochs(self, num_trials: int, epochs: int) -> float:
        """Return the epochs of Ray Tune's brackets, if no trial fails."""
        factor, total = self.reduction_factor, 0.0
        most = round(math.log(epochs) / math.log(factor))
        sizes = itertools.cycle(self._order(most))
        while num_trials > 0:
            halvings = next(sizes)
            room, alive = math.ceil((most + 1) / (halvings + 1) * factor**halvings), num_trials
            reached = int(epochs * factor**-halvings)
            if reached == 0:
                continue
            alive = min(room, num_trials)
            num_trials -= alive
            total += alive * reached
            for _ in range(halvings):
                room, before = math.ceil(room / factor), reached
                alive, reached = min(room, alive), int(min(reached * factor, epochs))
                total += alive * (reached - before)
        return total

    def _order(self, most: int) -> list[int]:
        """Return the number of halvings of each bracket of a band, in the order of filling."""
        return list(range(most + 1))

    def build(self, space: Space, goal: Goal, epochs: int, seed: int) -> Any:
        from ray.tune import schedulers

        return never_stuck(getattr(schedulers, self.of_ray))(
            time_attr=EPOCH,
            metric=goal.metric,
            mode=goal.mode,
            max_t=epochs,
            reduction_factor=self.reduction_factor,
        )


class HyperBand(_Brackets):
    """HyperBand (Li et al., 2018)."""

    kind: Literal["hyperband"] = "hyperband"
    of_ray = "HyperBandScheduler"


class Median(_Graceful):
    """Stops a trial below the median of the others' running means (Golovin et al., 2017)."""

    kind: Literal["median"] = "median"
    min_trials: int = Field(3, ge=1)

    def typical_epochs(self, num_trials: int, epochs: int) -> float:
        """Return the approximate epochs if learning curves rise and do not cross.

        Half of the trials after the first `min_trials` then stop after the grace period.
        """
        stopped = max(0, num_trials - self.min_trials) / 2
        return num_trials * epochs - stopped * (epochs - self.grace_epochs)

    def build(self, space: Space, goal: Goal, epochs: int, seed: int) -> Any:
        from ray.tune.schedulers import MedianStoppingRule

        return MedianStoppingRule(
            time_attr=EPOCH,
            metric=goal.metric,
            mode=goal.mode,
            grace_period=self.grace_epochs,
            min_samples_required=self.min_trials,
            min_time_slice=math.inf,  # never pauses trials: it only stops them
        )


class _Population(SchedulerSpec):
    """Base class of PBT schedulers: bad trials clone good ones with perturbed hyperparameters."""

    resumes = True
    mutates = True
    searchers = ("random", "grid")
    perturbation_epochs: int = Field(1, ge=1)
    quantile: float = Field(0.25, gt=0, le=0.5)

    def _own_problems(self, space: Space, epochs: int) -> list[Problem]:
        allowed = f"{self.kind} can only change rates, decay and the loss during training"
        return [
            Problem(f"space.{name}", None, allowed, "Fix it in train, or use another scheduler.")
            for name in space.names()
            if name not in _IN_PLACE and (name.split(".")[0] != "loss" or "[" in name)
        ]

    def _built(self, scheduler: Any, goal: Goal, seed: int, **options: Any) -> Any:
        """Return a scheduler of Ray Tune, which draws from the global generators."""
        random.seed(seed)
        np.random.seed(seed)
        return keeping_number(scheduler)(
            time_attr=EPOCH,
            metric=goal.metric,
            mode=goal.mode,
            perturbation_interval=self.perturbation_epochs,
            quantile_fraction=self.quantile,
            log_config=False,
            synch=True,  # asynchronous PBT loops for ever with more trials than slots
            **options,
        )


class Pbt(_Population):
    """Population based training (Jaderberg et al., 2017)."""

    kind: Literal["pbt"] = "pbt"
    resample_probability: float = Field(0.25, ge=0, le=1)

    def build(self, space: Space, goal: Goal, epochs: int, seed: int) -> Any:
        from ray.tune.schedulers import PopulationBasedTraining

        return self._built(
            PopulationBasedTraining,
            goal,
            seed,
            resample_probability=self.resample_probability,
            hyperparam_mutations={name: _mutation(d) for name, d in space.names().items()},
            custom_explore_fn=space.clip,
        )


class Pb2(_Population):
    """Population based bandits (Parker-Holder et al., 2020): a Gaussian process explores."""

    kind: Literal["pb2"] = "pb2"

    def _own_problems(self, space: Space, epochs: int) -> list[Problem]:
        allowed = "pb2 searches numbers between bounds: uniform or loguniform"
        return super()._own_problems(space, epochs) + [
            Problem(f"space.{name}", d.kind, allowed, "Use scheduler: pbt.")
            for name, d in space.names().items()
            if not d.is_continuous
        ]

    def build(self, space: Space, goal: Goal, epochs: int, seed: int) -> Any:
        from ray.tune.schedulers.pb2 import PB2

        bounds = {name: [d.probes()[0], d.probes()[-1]] for name, d in space.names().items()}
        return self._built(PB2, goal, seed, hyperparam_bounds=bounds)


class BohbScheduler(_Brackets):
    """HyperBand of BOHB (Falkner et al., 2018), which fills the largest bracket first."""

    kind: Literal["bohb"] = "bohb"
    of_ray = "HyperBandForBOHB"
    searchers = ("bohb",)

    def _order(self, most: int) -> list[int]:
        return list(range(most, -1, -1))


Scheduler = Annotated[
    Fifo | Asha | HyperBand | Median | Pbt | Pb2 | BohbScheduler,
    Field(discriminator="kind"),
    BareKind(),
]


def _mutation(distribution: Distribution) -> Any:
    """Return the mutations of PBT: a list to step through, or a domain to sample from."""
    return distribution.probes() if distribution.is_listed else distribution.domain()
