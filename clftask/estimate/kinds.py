"""Which trials of a search cost the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clftask.components.search.space import Picks
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.errors import ConfigError
from clftask.estimate.steps import SEED
from clftask.tuning.trial_store import Trial

MAX_MEASURED = 8
_SHOWN = ("model.base", "model.max_length", "training.batch_size")  # of a single kind


@dataclass(frozen=True)
class Kind:
    """Trials that cost the same.

    Attributes:
        fields: What decides the cost and differs between kinds, by path of the training job.
        job: One of them.
        numbers: Of all of them.
    """

    fields: dict[str, Any]
    job: TrainJob
    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return ", ".join(
            f"{path.rpartition('.')[2]} {value}" for path, value in self.fields.items()
        )


def trials_of(job: TuneJob, known: Sequence[Trial]) -> dict[int, TrainJob]:
    """Return the trials by number: those that are known, or draws where a searcher decides.

    What is drawn and makes no training job is left out: it fails at once.
    """
    random, picks = np.random.default_rng(SEED), job.points()
    drawn = picks or [job.searched.draw(random) for _ in range(job.num_trials)]
    chosen = dict(enumerate(drawn)) | {trial.number: trial.picks for trial in known}
    built = {number: _built(job, found) for number, found in chosen.items()}
    return {number: trial for number, trial in built.items() if trial is not None}


def _built(job: TuneJob, picks: Picks) -> TrainJob | None:
    try:
        return job.trial(picks)
    except ConfigError:
        return None


def kinds_of(trials: dict[int, TrainJob]) -> list[Kind]:
    """Return the trials by what they cost."""
    found: dict[str, Kind] = {}
    for number, job in trials.items():
        fields = _fields(job)
        key = json.dumps(fields, sort_keys=True)
        kind = found.setdefault(key, Kind(fields, job, ()))
        found[key] = replace(kind, numbers=(*kind.numbers, number))
    kinds = list(found.values())
    values = {path: {json.dumps(k.fields[path], sort_keys=True) for k in kinds}
              for path in kinds[0].fields}  # fmt: skip
    paths = [path for path, known in values.items() if len(known) > 1] or _SHOWN
    return [replace(kind, fields={path: kind.fields[path] for path in paths}) for kind in kinds]


def _fields(job: TrainJob) -> dict[str, Any]:
    model, training = job.model.dump(), job.training.dump()
    of_model = ("base", "max_length", "long_text", "adapt")
    of_training = ("batch_size", "micro_batch_size", "optimizer", "precision", "hf")
    return (
        {f"model.{name}": model[name] for name in of_model}
        | {"model.head.kind": job.model.head.kind}
        | {f"training.{name}": training[name] for name in of_training}
    )


def spread(kinds: Sequence[Kind]) -> list[Kind]:
    """Return so many kinds as are measured, evenly from all."""
    places = np.linspace(0, len(kinds) - 1, min(MAX_MEASURED, len(kinds)))
    return [kinds[round(place)] for place in places]
