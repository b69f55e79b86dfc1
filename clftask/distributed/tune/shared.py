"""Data of a search that its driver and its trials share; no torch here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import ray

from clftask.components.search.ray_schedulers import TRIAL
from clftask.components.truncation import LongTextSpec
from clftask.config.train import Encoder, TrainJob
from clftask.config.tune import TuneJob
from clftask.distributed.tune.placement import Slots
from clftask.tuning.trial_store import Trial

if TYPE_CHECKING:
    from clftask.training.features import Features
    from clftask.training.work import Work

SEED: Final = "seed"
FAILED: Final = "failed"
KNOWN: Final = "known"  # replayed from an interrupted search


@dataclass(frozen=True)
class Shared:
    """Data that all trials of a search share.

    Attributes:
        job: The search.
        run: Its folder.
        tables: Object references of the tokenised splits, by base, length and `long_text`.
        label_names: The labels, in order.
        data: Fingerprint and report, for the bundle.
        precision: Precision of all trials with `auto` whose model works in it.
        slots: Concurrency and resources of the trials.
        keeps_weights: Whether a trial of this phase may become the winner.
        features: Object references of the features of frozen encoders.
    """

    job: TuneJob
    run: str
    tables: dict[tuple[str, int, LongTextSpec], dict[str, ray.ObjectRef[Any]]]
    label_names: tuple[str, ...]
    data: dict[str, Any]
    precision: str
    slots: Slots
    keeps_weights: bool
    features: dict[Encoder | None, ray.ObjectRef[Any]] = field(default_factory=dict)

    def work(self, job: TrainJob) -> Work:
        """Return the work of a trial's worker."""
        from clftask.training.work import Work

        job = job.model_copy(update={"tracking": ()})
        refs = self.tables[job.model.tokens]
        tables = {split: ray.get(ref) for split, ref in refs.items()}
        return Work(job, self.run, tables, self.label_names, self.data, "", self.features_for(job))

    def precision_for(self, job: TrainJob) -> str:
        """Return the precision of a trial, unless its model does not work in it."""
        wanted = job.training.precision
        return self.precision if wanted == "auto" else wanted

    def features_for(self, job: TrainJob) -> Callable[[], Features | None] | None:
        """Return a function that gets the features of a trial; None if none are known."""
        ref = self.features.get(job.encoder)
        return None if ref is None else functools.partial(ray.get, ref)


def new_trial(search: TuneJob, config: dict[str, Any], precision: str) -> Trial:
    """Return the trial of a configuration, before it runs."""
    picks = {name: pick for name, pick in config.items() if name not in (TRIAL, SEED)}
    return Trial(
        number=config[TRIAL],
        picks=picks,
        params=search.searched.params(picks),
        seed=config.get(SEED, search.train.seed),
        is_finalist=SEED in config,
        precision=precision,
    )
