"""Peak storage of a search, compared with `storage_budget` before it starts."""

from __future__ import annotations

from pydantic import ByteSize

from clftask.config.tfidf import TfidfSpec
from clftask.config.tune import TuneJob
from clftask.errors import ConfigError, Problem
from clftask.messages import counted
from clftask.models.loading import num_parameters

_BYTES = 4  # per weight: fp32


def peak_bytes(
    job: TuneJob, concurrency: int, num_weights: int, num_saved: int | None = None
) -> int:
    """Return the peak storage of a search.

    A running trial has a checkpoint (weights and optimizer state), and two while it replaces
    it; in a population, three. The best weights of each trial that may win are kept as well.

    Args:
        job: The search.
        concurrency: The number of concurrent trials.
        num_weights: The number of the model's weights.
        num_saved: The number of those in a checkpoint; None: all.
    """
    bundle = num_weights * _BYTES
    weights = bundle if num_saved is None else num_saved * _BYTES
    optimizers = {trial.training.optimizer for trial in job.probed()}
    state = weights * (1 + max(each.states_per_weight for each in optimizers))
    if job.scheduler.resumes:
        alive, checkpoints = job.num_trials, 3
    else:
        alive, checkpoints = concurrency, 2
    search = alive * checkpoints * state
    if job.finalists is None:
        return search + (2 * alive + 1) * weights + bundle
    num_finalists = _num_finalists(job)
    final = concurrency * 2 * state + (num_finalists + concurrency) * weights
    return max(search, final) + bundle


def needed_bytes(job: TuneJob, concurrency: int, num_labels: int) -> int:
    """Return `peak_bytes` for the largest model in the search space."""
    trials = job.probed()
    if job.train.is_linear:
        linear = (trial.model for trial in trials)
        most = max(m.num_bytes(num_labels) for m in linear if isinstance(m, TfidfSpec))
        return (2 * concurrency + 2) * most  # no checkpoints
    specs = [trial.transformer for trial in trials]
    models = {repr((spec.base, spec.layers, spec.adapt)): spec for spec in specs}
    sizes = [num_parameters(model, num_labels) for model in models.values()]
    most, most_saved = max(n.all for n in sizes), max(n.saved for n in sizes)
    return peak_bytes(job, concurrency, most, most_saved)


def check_disk(job: TuneJob, concurrency: int, num_labels: int) -> None:
    """Check that the search fits its `storage_budget`.

    Raises:
        ConfigError: The search needs more.
    """
    if job.storage_budget is None:
        return
    need = needed_bytes(job, concurrency, num_labels)
    if need > job.storage_budget:
        most = ByteSize(need).human_readable(decimal=True)
        allowed = f"the search needs up to {most}: {_parts(job, concurrency)}"
        remedy = "Raise it, or lower concurrency, finalists or trials."
        raise ConfigError(
            Problem(
                "storage_budget", job.storage_budget.human_readable(decimal=True), allowed, remedy
            )
        )


def _num_finalists(job: TuneJob) -> int:
    return min(job.finalists.top, job.num_trials) * job.finalists.seeds if job.finalists else 0


def _parts(job: TuneJob, concurrency: int) -> str:
    if job.scheduler.resumes:
        return f"{counted(job.num_trials, 'trial')} that {job.scheduler.kind} may resume"
    kept = _num_finalists(job) if job.finalists else 1
    return f"{counted(concurrency, 'trial')} at a time, {kept} sets of weights kept"
