"""What a search will take: time, trials, disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clftask.components.truncation import LongTextSpec
from clftask.data.prepare import Prepared, tokenise
from clftask.errors import JobError, Problem
from clftask.estimate.kinds import Kind, kinds_of, spread, trials_of
from clftask.estimate.machine import WorkerResources, as_worker, not_as_large
from clftask.estimate.spending import Plan, Search
from clftask.estimate.steps import Cost, measure, sampled
from clftask.messages import counted
from clftask.models.precision import bf16_pays, resolve_precision

NOT_MEASURED = (
    "the start of workers, and of trials on them",
    "checkpoints, and how fast they are written over a network",
    "early stopping, which may end trials before",
    "machines other than this one",
)
Say = Callable[[str], None]
Tables = dict[tuple[str, int, LongTextSpec], dict[str, pa.Table]]


def estimate(search: Search, say: Say) -> dict[str, Any]:
    """Train a few steps of each kind of trial, and say what all of them will take.

    Args:
        search: The search.
        say: Takes lines for the user.

    Returns:
        What `--json` prints.

    Raises:
        JobError: No trial can be trained on this machine.
    """
    asked = search.asked
    trials = trials_of(search.job, [trial for trial in search.known if not trial.is_finalist])
    kinds = kinds_of(trials)
    chosen = spread(kinds)
    tables, prepare_s = _tokens(search, chosen)
    with as_worker(asked.cpus) as cpus:
        costs = _costs(search, chosen, tables, say)
    plan = Plan(search, trials, _by_trial(kinds, chosen, costs), prepare_s)
    return {
        "storage": search.job.run.storage,
        **plan.counts(),
        "kinds": [_shown(kind, cost) for kind, cost in zip(chosen, costs, strict=True)],
        "kinds_not_measured": len(kinds) - len(chosen),
        "device": asked.device,
        "cpus": cpus,
        "workers": asked.workers,
        "concurrency": search.concurrency,
        **plan.times(search.concurrency),
        "by_concurrency": plan.by_concurrency(),
        "bytes_stored": search.needed_bytes,
        "storage_budget": search.job.storage_budget,
        "warnings": [*_failing(chosen, costs), *plan.warnings(), *not_as_large(asked, cpus)],
        "not_measured": [*NOT_MEASURED, *_of_many(asked)],
    }


# ------------------------------------------------------------------ the measurement


def _tokens(search: Search, kinds: Sequence[Kind]) -> tuple[Tables, float]:
    """Tokenise some rows for each model; return also the seconds that all rows take."""
    largest = max(kind.job.training.batch_size for kind in kinds)
    some = sampled(search.prepared, largest)
    began, tables = time.perf_counter(), {}
    for model in {kind.job.model.tokens: kind.job.model for kind in kinds}.values():
        tables[model.tokens] = tokenise(some, search.tokenizers[model.base], model)
    seconds = (time.perf_counter() - began) / len(tables) * len(search.job.token_models)
    return tables, seconds * _num_rows(search.prepared) / _num_rows(some)


def _num_rows(prepared: Prepared) -> int:
    return sum(table.num_rows for table in prepared.tables.values())


def _costs(search: Search, kinds: Sequence[Kind], tables: Tables, say: Say) -> list[Cost]:
    """Measure each kind.

    Raises:
        JobError: All of them fail.
    """
    device = search.asked.device
    num_rows = {split: table.num_rows for split, table in search.prepared.tables.items()}
    names, pays, costs = search.prepared.space.names, bf16_pays(device), []
    for kind in kinds:
        say(f"measuring steps of {counted(len(kind.numbers), 'trial')}: {kind}")
        training = kind.job.training
        precision = resolve_precision(training.precision, device, pays)
        training = training.model_copy(update={"precision": precision})
        job = kind.job.model_copy(update={"training": training})
        costs.append(measure(job, tables[job.model.tokens], names, num_rows, device))
    if all(cost.reason for cost in costs):
        remedy = "Lower max_length or batch_size, or use a larger machine."
        raise JobError(
            Problem("train", None, f"no trial can train here: {costs[0].reason}", remedy)
        )
    return costs


def _by_trial(
    kinds: Sequence[Kind], measured: Sequence[Kind], costs: Sequence[Cost]
) -> dict[int, Cost]:
    """Return what each trial costs: the mean, where its kind was not measured."""
    known = {id(kind): cost for kind, cost in zip(measured, costs, strict=True)}
    able = [(kind, cost) for kind, cost in zip(measured, costs, strict=True) if not cost.reason]
    weights = [len(kind.numbers) for kind, _ in able]
    names = ("startup_s", "step_s", "steps", "evaluation_s")
    means = {n: float(np.average([getattr(c, n) for _, c in able], weights=weights)) for n in names}
    mean = Cost(means["startup_s"], means["step_s"], round(means["steps"]), means["evaluation_s"])
    return {number: known.get(id(kind), mean) for kind in kinds for number in kind.numbers}


def _shown(kind: Kind, cost: Cost) -> dict[str, Any]:
    return {
        "fields": kind.fields,
        "trials": len(kind.numbers),
        "steps": cost.steps,
        "seconds_per_step": round(cost.step_s, 4),
        "seconds_per_evaluation": round(cost.evaluation_s, 3),
        "seconds_per_epoch": round(cost.epoch_s, 2),
        "startup_s": round(cost.startup_s, 2),
        "fails": cost.reason or None,
    }


def _failing(kinds: Sequence[Kind], costs: Sequence[Cost]) -> list[str]:
    return [
        f"{counted(len(kind.numbers), 'trial')} ({kind}) cannot train here: {cost.reason}"
        for kind, cost in zip(kinds, costs, strict=True)
        if cost.reason
    ]


def _of_many(asked: WorkerResources) -> list[str]:
    """Return what several workers of a trial, or several trials on a GPU, do to each other."""
    if asked.workers > 1:
        return ["how long the workers of a trial wait for each other"]
    if 0 < asked.gpus < 1:
        return ["trials that share a GPU: each is taken to have its share of the speed"]
    return []
