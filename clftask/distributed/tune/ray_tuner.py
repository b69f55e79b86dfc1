"""Ray Tune launcher."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from dataclasses import dataclass
from typing import Any

from ray import tune

from clftask import garbage
from clftask.distributed.ray_errors import reason_of
from clftask.distributed.session import ray_storage
from clftask.distributed.tune.callback import TuneProgressCallback
from clftask.distributed.tune.search_adapter import Proposals
from clftask.distributed.tune.shared import Shared
from clftask.errors import ClftaskError
from clftask.io import storage

_OPTIONS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # of files and TensorBoard; `trials/` has all
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # with it, Ctrl-C only asks Tune to stop
    "RAY_AIR_NEW_OUTPUT": "0",  # Ray's new output prints a banner even at verbose=0
}


@dataclass(frozen=True)
class Phase:
    """The trials of one Ray Tune run.

    Attributes:
        shared: Data that all trials share.
        proposals: Proposes them.
        count: Number of trials.
        is_final: Whether they are finalists, which train all epochs.
    """

    shared: Shared
    proposals: Proposals
    count: int
    is_final: bool


def run_trials(phase: Phase, watch: TuneProgressCallback) -> list[tuple[dict[str, Any], str]]:
    """Run trials to their ends.

    Args:
        phase: The trials.
        watch: Shows their progress.

    Returns:
        The configurations of trials whose workers died too often, and the last error.
    """
    os.environ |= _OPTIONS
    if not os.environ.get("CLFTASK_DEBUG"):  # they log tracebacks; `watch` shows a line
        for name in ("ray.tune", "ray.train._internal.storage"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    shared = phase.shared
    bundles = [shared.slots.resources] * shared.slots.workers
    function = tune.with_parameters(_run_trial, shared=shared)
    tuner = tune.Tuner(
        tune.with_resources(function, tune.PlacementGroupFactory(bundles)),
        tune_config=_tune_config(phase),
        run_config=_run_config(phase, watch),
    )
    _forget_state(shared.run)  # of a search that was interrupted
    results = tuner.fit()
    _forget_state(shared.run)
    return [
        (result.config, reason_of(result.error))
        for result in results
        if result.error is not None and result.config
    ]


def _run_trial(config: dict[str, Any], shared: Shared) -> None:
    """Run one trial, in a process of its own: only this one imports torch."""
    garbage.collect_rarely()
    from clftask.distributed.tune.trial_actor import run_trial

    run_trial(config, shared)


def _forget_state(path: str) -> None:
    """Delete Tune's own state; while trials still report, this would make them fail."""
    with contextlib.suppress(ClftaskError):
        storage.delete(storage.join(path, ".ray"))


def _tune_config(phase: Phase) -> tune.TuneConfig:
    job, is_final = phase.shared.job, phase.is_final
    of_build = job.searched, job.goal, job.train.training.epochs, job.train.seed
    is_independent = is_final or not job.scheduler.resumes
    return tune.TuneConfig(
        search_alg=phase.proposals,
        scheduler=None if is_final else job.scheduler.build(*of_build),
        num_samples=phase.count,
        # A scheduler that pauses trials must know all of them; then only resources limit them.
        max_concurrent_trials=phase.shared.slots.concurrency if is_independent else None,
        time_budget_s=None if is_final else job.time_budget,
        reuse_actors=True,
        trial_name_creator=_trial_name,
        trial_dirname_creator=_trial_name,
    )


def _run_config(phase: Phase, watch: TuneProgressCallback) -> tune.RunConfig:
    """Return Tune's run configuration; a unique name keeps runs apart."""
    place, fs = ray_storage(phase.shared.run)
    return tune.RunConfig(
        name=f"ray-{secrets.token_hex(6)}",
        storage_path=place,
        storage_filesystem=fs,
        failure_config=tune.FailureConfig(max_failures=phase.shared.job.train.scaling.max_failures),
        callbacks=[watch],
        verbose=0,
    )


def _trial_name(trial: Any) -> str:
    """Return a short name: Tune's default contains all settings and may exceed 255 bytes."""
    return f"trial-{trial.trial_id}"
