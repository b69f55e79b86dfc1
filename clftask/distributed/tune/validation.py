"""Checks before a search starts."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

from clftask.config.tune import TuneJob
from clftask.distributed.capacity import capacity
from clftask.distributed.tune.placement import Slots, room_for
from clftask.errors import ClftaskError, ConfigError, Problem
from clftask.models.base_checks import check_base

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def check_trials(job: TuneJob) -> dict[str, PreTrainedTokenizerBase]:
    """Check the model of each trial; return the tokenizer of each base; linear models have none.

    Raises:
        ConfigError: A model cannot be used.
    """
    trials = job.probed()
    if job.train.is_linear:
        return {}
    of_trials = [trial.transformer for trial in trials]
    models = {(m.base, m.max_length, m.head.kind): m for m in of_trials}
    mistakes: list[Problem] = []
    tokenizers = {}
    for model in models.values():
        try:
            tokenizers[model.base] = check_base(model, job.train.data.text_pair is not None)
        except ConfigError as error:
            mistakes += error.problems
    if mistakes:
        raise ConfigError(*(m for i, m in enumerate(mistakes) if m not in mistakes[:i]))
    return tokenizers
