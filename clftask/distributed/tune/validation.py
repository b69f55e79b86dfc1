"""Checks before a search starts."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.distributed.capacity import capacity
from clftask.distributed.tune.placement import Slots, room_for
from clftask.errors import ClftaskError, ConfigError, Problem
from clftask.models.base_checks import check_base, check_base_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Found = TypeVar("_Found")


@contextlib.contextmanager
def named_as_in(job: TuneJob) -> Iterator[None]:
    """Rename fields in problems of the training job to those of the search's file."""
    try:
        yield
    except ClftaskError as error:
        raise type(error)(*map(job.renamed, error.problems)) from None


def check_packages(job: TuneJob) -> None:
    """Refuse a searcher whose packages are not installed.

    Raises:
        ConfigError: Names the packages and their install command.
    """
    for extra, packages in job.searcher.packages.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            allowed = f"needs {', '.join(missing)}, which is not installed"
            remedy = f"pip install 'clftask[{extra}]'"
            raise ConfigError(Problem("searcher.kind", job.searcher.kind, allowed, remedy))


def check_concurrency(job: TuneJob, chosen: Slots) -> None:
    """Refuse a limit that a scheduler which pauses trials cannot keep.

    Raises:
        ConfigError: More trials fit the cluster.
    """
    room = min(room_for(chosen, capacity()), job.num_trials)
    if job.scheduler.resumes and job.concurrency != "auto" and chosen.concurrency < room:
        allowed = f"trials of {job.scheduler.kind} fill the cluster, here {room} at a time"
        remedy = "Use auto, or a larger train.scaling.cpus_per_worker."
        raise ConfigError(Problem("concurrency", job.concurrency, allowed, remedy))


def check_trial_files(job: TuneJob) -> None:
    """Check what the files of each trial's base tell without a model library.

    Raises:
        ConfigError: A file is missing or damaged, or a model has too few positions.
    """
    if job.train.is_linear:
        return
    with named_as_in(job):
        _each_model(job, lambda trial: check_base_files(trial.transformer))


def check_trials(job: TuneJob) -> dict[str, PreTrainedTokenizerBase]:
    """Check the model of each trial; return the tokenizer of each base; linear models have none.

    Raises:
        ConfigError: A model cannot be used.
    """
    if job.train.is_linear:
        return {}
    has_pairs = job.train.data.text_pair is not None
    with named_as_in(job):
        return _each_model(job, lambda t: check_base(t.transformer, has_pairs, t.training))


def _each_model(job: TuneJob, check: Callable[[TrainJob], _Found]) -> dict[str, _Found]:
    """Return what a check returns for each base; raise the errors of all models at once."""
    checked = {repr(_checked_of(t)): t for t in job.probed()}
    mistakes: list[Problem] = []
    found = {}
    for trial in checked.values():
        try:
            found[trial.model.base] = check(trial)
        except ConfigError as error:
            mistakes += error.problems
    if mistakes:
        raise ConfigError(*(m for i, m in enumerate(mistakes) if m not in mistakes[:i]))
    return found


def _checked_of(trial: TrainJob) -> tuple[object, ...]:
    """Return what `check_base` reads of a trial."""
    model, training = trial.transformer, trial.training
    layers = training.layer_decay is not None, training.gradient_checkpointing
    return model.base, model.layers, model.max_length, model.head.kind, model.adapt, layers
