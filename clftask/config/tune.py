"""The search job: training job, search space, searcher, scheduler and finalists."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, ByteSize, Field, PlainSerializer, field_validator

from clftask.components.metrics import LOWER_IS_BETTER
from clftask.components.search.goal import Goal
from clftask.components.search.schedulers import Asha, Fifo, Scheduler
from clftask.components.search.searchers import MAX_TRIALS, Random, Searcher
from clftask.components.search.space import AnyDistribution, Picks, Space
from clftask.config.from_trainer import INSTEAD_IN_SEARCH
from clftask.config.sections import AnyModel, ModelSpec, RunSpec
from clftask.config.tfidf import TFIDF, TfidfSpec
from clftask.config.train import TrainJob, cross_field_errors, problem_of_metric
from clftask.errors import ConfigError, Problem
from clftask.spec import Spec, is_path, put
from clftask.yaml_io import parse_yaml, read_yaml

_MAX_SHOWN = 5  # invalid values of one field
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# Fields that cannot be searched, and why.
_SHARED = {
    "data": "all trials share the rows and their split",
    "model": "name the field: model.base, model.head …",
    "task": "trials of different tasks cannot be compared",
    "training": "name the field: training.learning_rate, training.batch_size …",
    "seed": "the best seed is due to chance; finalists.seeds tries several",
    "decision": "it is fitted after training",
    "scaling": "all trials run on the same resources",
    "tracking": "it does not change a model",
    "run": "it does not change a model",
    "training.metric": "all trials are compared by the same metric",
    "training.keep_checkpoints": "it does not change a model",
}
_SEARCHED = ("model", "training")  # only their fields, not the whole section


def _seconds(value: Any) -> Any:
    """Parse a duration such as 90s, 30m, 2h or 1d."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", str(value))
    if match is None or float(match[1]) == 0:
        raise ValueError("must be a duration above 0 such as 90s, 30m, 2h or 1d")
    try:
        return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    except OverflowError:
        raise ValueError("must be below a billion days") from None


Duration = Annotated[
    timedelta,
    BeforeValidator(_seconds),
    PlainSerializer(lambda value: f"{value.total_seconds():.15g}s", return_type=str),
]


class Finalists(Spec):
    """The best trials, retrained with other seeds: the winner has the best mean."""

    top: int = Field(3, ge=1)
    seeds: int = Field(1, ge=1)


class TuneJob(Spec):
    """A search over training jobs.

    Attributes:
        trials: Number of trials; null: 16, or all combinations of a grid.
        metric: The validation metric to optimise; null: that of the training job.
        finalists: Default: the best three with one more seed; null: the best trial wins.
    """

    # The messages of an unknown field of the training job name its path without `train`.
    INSTEAD: ClassVar[Mapping[str, str]] = INSTEAD_IN_SEARCH

    train: TrainJob
    space: dict[str, AnyDistribution] = Field(min_length=1)
    metric: str | None = None
    trials: int | None = Field(None, ge=1, le=MAX_TRIALS)
    scheduler: Scheduler = Asha()
    searcher: Searcher = Random()
    concurrency: int | Literal["auto"] = "auto"
    time_budget: Duration | None = None
    storage_budget: ByteSize | None = None
    finalists: Finalists | None = Finalists()
    run: RunSpec = Field(default_factory=RunSpec)

    @field_validator("space", mode="before")
    @classmethod
    def _absolute_bases(cls, value: Any) -> Any:
        """Make local paths of `model.base` absolute: workers have other working folders."""
        base = value.get("model.base") if isinstance(value, dict) else None
        if not isinstance(base, dict) or not isinstance(base.get("values"), list | tuple):
            return value
        values = [v if v == TFIDF or not isinstance(v, str) or not v else ModelSpec(base=v).base
                  for v in base["values"]]  # fmt: skip
        return {**value, "model.base": {**base, "values": values}}

    @field_validator("concurrency")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if value != "auto" and value < 1:
            raise ValueError("must be above 0, or auto")
        return value

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Self:
        """Read a search, and its training job if that is a separate file.

        Raises:
            ConfigError: Lists all invalid fields, or all invalid combinations, or all invalid
                trials of the space.
        """
        document = dict(source) if isinstance(source, Mapping) else read_yaml(source)
        overrides = list(overrides)
        named = [o for o in overrides if o.startswith("train=")]
        for override in named:
            document["train"] = parse_yaml(override.removeprefix("train="), override)
        if isinstance(document.get("train"), str):
            document["train"] = read_yaml(document["train"])
        within = [o for o in overrides if o.startswith("space.") and "=" in o]
        for override in within:
            _override_space(document, override)
        job = super().load(document, [o for o in overrides if o not in (*named, *within)])
        is_linear = job.train.is_linear
        if (job.scheduler.mutates or is_linear) and "finalists" not in job.model_fields_set:
            job = job.model_copy(update={"finalists": None})
        if is_linear and "scheduler" not in job.model_fields_set:
            job = job.model_copy(update={"scheduler": Fifo()})
        for check in (_of_train, _of_space, _of_search, _of_trials):
            mistakes = check(job)
            if mistakes:
                raise ConfigError(*mistakes)
        return job

    @property
    def paths(self) -> dict[str, str]:
        """The paths that the search reads and writes, by field."""
        of_train = {f"train.{field}": path for field, path in self.train.paths.items()}
        of_train["run.storage"] = self.run.storage
        del of_train["train.run.storage"]
        if "model.base" in self.space:
            of_train.pop("train.model.base", None)
            bases = dict.fromkeys(trial.model.base for trial in self.probed())
            of_train |= {f"space.model.base={base}": base for base in bases}
        return of_train

    @property
    def goal(self) -> Goal:
        """The metric to optimise and its direction."""
        metric = self.metric or self.train.training.metric
        return Goal(metric=metric, greater_is_better=metric not in LOWER_IS_BETTER)

    @property
    def searched(self) -> Space:
        """The search space."""
        return Space(self.space)

    def points(self) -> list[Picks] | None:
        """Return all trials if they do not depend on results, else None."""
        return self.searcher.points(self.searched, self.trials, self.train.seed)

    @property
    def num_trials(self) -> int:
        """The number of trials."""
        return self.searcher.num_trials(self.searched, self.trials, self.train.seed)

    def probed(self) -> list[TrainJob]:
        """Return training jobs with all bounds and all listed values of the space."""
        return [self.trial(picks) for picks in self.searched.probes()]

    @property
    def token_models(self) -> list[AnyModel]:
        """The models with different tokenisation: trials can combine all listed values."""
        models = [trial.model for trial in self.probed()]
        if isinstance(models[0], TfidfSpec):
            return models[:1]
        return _combined(models, "base", "max_length", "long_text")

    @property
    def frozen(self) -> list[TrainJob]:
        """A trial of each frozen encoder; empty if there may be more of them than trials."""
        points = self.points()
        trials = self.probed() if points is None else [self.trial(picks) for picks in points]
        trials = [trial for trial in trials if trial.encoder is not None]
        if points is None and trials:
            names = "base", "layers", "max_length", "long_text", "head"
            models = _combined([trial.model for trial in trials], *names)
            kept = {(t.training.precision, t.training.weights): t for t in trials}.values()
            trials = [t.model_copy(update={"model": m}) for t in kept for m in models]
        found = {trial.encoder: trial for trial in trials}
        return list(found.values()) if len(found) <= self.num_trials else []

    def trial(self, picks: Picks, seed: int | None = None) -> TrainJob:
        """Return the training job of a trial.

        Args:
            picks: The picks of a searcher.
            seed: Replaces the job's seed.

        Raises:
            ConfigError: The values do not form a valid training job.
        """
        document = copy.deepcopy(self.train.dump())
        for path, value in self.searched.values(picks).items():
            put(TrainJob, document, path, value)
        document["training"]["metric"] = self.goal.metric
        if self.scheduler.mutates:  # the scheduler itself replaces trials that stop improving
            document["training"]["early_stopping"] = None
        document["seed"] = self.train.seed if seed is None else seed
        return TrainJob.load(document)

    def renamed(self, problem: Problem) -> Problem:
        """Return a problem of the training job with the field's path in the search."""
        fields = TrainJob.model_fields.keys() - type(self).model_fields.keys()
        return _of_section(self, problem) if problem.path.split(".")[0] in fields else problem

    def identity(self) -> dict[str, Any]:
        """Return what a resumed search must match: all except resources, budgets and run."""
        free = ("concurrency", "time_budget", "storage_budget", "run", "train")
        found = {k: v for k, v in self.dump().items() if k not in free}
        return {**found, "train": self.train.identity()}


def _combined(models: Sequence[AnyModel], *names: str) -> list[AnyModel]:
    """Return models with all combinations of the values of some fields."""
    values = (dict.fromkeys(getattr(model, name) for model in models) for name in names)
    updates = (dict(zip(names, found, strict=True)) for found in itertools.product(*values))
    return [models[0].model_copy(update=update) for update in updates]


def _override_space(document: dict[str, Any], override: str) -> None:
    """Apply `space.training.learning_rate.low=1e-4`; the keys of a space contain dots."""
    path, _, text = override.removeprefix("space.").partition("=")
    space, value = dict(document.get("space") or {}), parse_yaml(text, override)
    name = next((name for name in space if path.startswith(f"{name}.")), None)
    if name is None:
        space[path] = value
    elif not isinstance(space[name], dict):
        raise ConfigError(Problem(f"space.{path}", space[name], f"{name} has no fields"))
    else:
        space[name] = dict(space[name])
        put(Spec, space[name], path.removeprefix(f"{name}."), value)
    document["space"] = space


def _of_train(job: TuneJob) -> list[Problem]:
    mistakes = [_below("train", problem) for problem in cross_field_errors(job.train)]
    if job.metric is not None:
        mistakes += problem_of_metric(job.train, "metric", job.metric)
    if job.train.scaling.shard is not None:
        allowed = "is for a training job: the models of trials are whole"
        remedy = "Remove it, and train the best job with it."
        mistakes.append(Problem("train.scaling.shard", job.train.scaling.shard, allowed, remedy))
    least, most = job.train.scaling.bounds
    if least != most:
        allowed = "must be a number in a search: a trial keeps its workers"
        mistakes.append(Problem("train.scaling.workers", [least, most], allowed))
    return mistakes


def _of_space(job: TuneJob) -> list[Problem]:
    """Reject invalid paths, fields that cannot be searched, and nested paths."""
    found = []
    for path in job.space:
        if not is_path(path):
            found.append(Problem(f"space.{path}", None, "must be a dotted path of the job"))
        for shared, why in _SHARED.items():
            if path == shared or (path.startswith(f"{shared}.") and shared not in _SEARCHED):
                found.append(Problem(f"space.{path}", None, f"cannot be searched: {why}"))
        for other in job.space:
            if path.startswith(f"{other}."):
                remedy = "Put the field into the values, or list the fields one by one."
                found.append(Problem(f"space.{path}", None, f"is inside {other}", remedy))
    return found + _of_bases(job)


def _of_bases(job: TuneJob) -> list[Problem]:
    """Reject a search over pretrained and linear models: they have different fields."""
    picks = job.searched.probes() if "model.base" in job.space else []
    bases = [job.train.model.base, *(job.searched.values(pick)["model.base"] for pick in picks)]
    if TFIDF not in bases or all(base == TFIDF for base in bases):
        return []
    allowed = "tfidf cannot be searched together with pretrained models"
    remedy = "Set train.baseline: true to compare with it, or search each by itself."
    return [Problem("space.model.base", TFIDF, allowed, remedy)]


def _of_search(job: TuneJob) -> list[Problem]:
    space, epochs = job.searched, job.train.epochs
    found = job.scheduler.problems(space, job.searcher.kind, epochs)
    found += job.searcher.problems(space, job.trials)
    if job.scheduler.mutates and job.finalists is not None:
        allowed = f"{job.scheduler.kind} changes hyperparameters in training: no job can repeat it"
        found.append(Problem("finalists", "set", allowed, "Set finalists: null."))
    if job.train.is_linear:
        found += _of_linear(job)
    if job.finalists is not None and job.train.seed + job.finalists.seeds >= 2**32:
        allowed = "finalists take the seeds after it, which must stay below 2**32"
        found.append(Problem("train.seed", job.train.seed, allowed))
    for path, distribution in space.names().items():
        plain = re.sub(r"\[\d+\]", "", path)  # without the indices of choices
        is_of_tokens = plain.startswith(("model.max_length", "model.long_text"))
        if is_of_tokens and not distribution.is_listed:
            allowed = "must be choice or grid: all texts are tokenised before the search"
            found.append(Problem(f"space.{path}.kind", distribution.kind, allowed))
    return found


def _of_linear(job: TuneJob) -> list[Problem]:
    found = []
    if job.scheduler.kind != "fifo":
        allowed = "must be fifo with model.base: tfidf: a trial has one evaluation, at its end"
        found.append(Problem("scheduler.kind", job.scheduler.kind, allowed, "Remove it."))
    if job.finalists is not None:
        allowed = "must be null with model.base: tfidf: other seeds give the same model"
        found.append(Problem("finalists", "set", allowed, "Remove it."))
    return found


def _of_trials(job: TuneJob) -> list[Problem]:
    """Validate all trials known in advance, and those at the bounds of every distribution."""
    by_place: dict[tuple[str, str], list[Problem]] = {}
    for picks in [*job.searched.probes(), *(job.points() or [])]:
        try:
            job.trial(picks)
        except ConfigError as error:
            for problem in error.problems:
                found = _of_section(job, problem)
                known = by_place.setdefault((found.path, found.allowed), [])
                if found not in known and len(known) < _num_shown(job, problem):
                    known.append(found)
    return [problem for known in by_place.values() for problem in known]


def _num_shown(job: TuneJob, problem: Problem) -> int:
    """Return the maximum number of invalid values to show for a field: one for a range."""
    tops = [d for path, d in job.space.items() if f"{problem.path}.".startswith(f"{path}.")]
    return _MAX_SHOWN if any(d.is_listed for d in tops) else 1


def _of_section(job: TuneJob, problem: Problem) -> Problem:
    """Return a trial's problem with the field's path in the search."""
    for path in job.space:
        if path.startswith(f"{problem.path}."):  # the problem is in a parent of the searched field
            return replace(problem, path=f"space.{path}")
    is_searched = any(f"{problem.path}.".startswith(f"{path}.") for path in job.space)
    return _below("space" if is_searched else "train", problem)


def _below(section: str, problem: Problem) -> Problem:
    return replace(problem, path=f"{section}.{problem.path}")
