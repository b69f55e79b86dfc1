"""The features of frozen encoders: each encoder runs once in a search, for all its trials.

Ray holds the features: trials on a node share their memory, and a task runs again if the node
that has them is lost.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import ray

from clftask import logs
from clftask.config.train import TrainJob
from clftask.distributed.ray_errors import reason_of
from clftask.distributed.tune.shared import Shared

_log = logging.getLogger(__name__)


def with_features(shared: Shared, say: Callable[[str], None]) -> Shared:
    """Return the data of trials with the features of each frozen encoder.

    A trial that finds none here computes its own, or fails by itself.

    Args:
        shared: The data that trials share.
        say: Receives a line for each encoder.
    """
    started = {job.encoder: (job, _start(shared, job)) for job in shared.job.frozen}
    found = {}
    for encoder, (job, (features, line)) in started.items():
        try:
            done = ray.get(line)
        except ray.exceptions.RayError as error:
            _log.warning("each trial runs its frozen encoder: %s", reason_of(error))
            continue
        say(f"{job.transformer.base}, {job.transformer.max_length} tokens: {done}")
        found[encoder] = features
    return dataclasses.replace(shared, features=found)


def _start(shared: Shared, job: TrainJob) -> tuple[Any, Any]:
    """Start an encoder with the resources of a trial's worker.

    Returns:
        References of its features and of what was done.
    """

    def task(shared: Shared) -> tuple[Any, str]:
        from clftask.tuning.trial_features import compute

        logs.quiet_libraries()
        shared.slots.limit_process()
        return compute(shared.work(job), shared.precision_for(job), shared.slots.device)

    sizes = {"num_cpus": shared.slots.cpus, "num_gpus": shared.slots.gpus}
    named = {"name": "clftask-tune:features", "num_returns": 2, "max_calls": 1}
    features, line = ray.remote(**sizes, **named)(task).remote(shared)
    return features, line
