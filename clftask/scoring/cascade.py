"""The limit of a cascade: fitted on a sample of the rows that both bundles score."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from clftask.components.decision.cascade import (
    CascadeLimit,
    certainty,
    fit_limit,
    is_enough,
    num_rows_to_compare,
)
from clftask.components.decision.decision import Outcome
from clftask.config.score import ScoreJob
from clftask.io.tempdirs import temporary_folder
from clftask.models.cascade import LocalBundle, fetch
from clftask.models.loading import quiet_loading
from clftask.models.predictor import open_scorer
from clftask.scoring.manifest import Agreement, ScorePlan
from clftask.scoring.precision import agree as agree_on_precision
from clftask.scoring.sample import random_texts

PILOT_SHARE = 4  # one more row for each four that are compared
_log = logging.getLogger(__name__)


def agree(job: ScoreJob, plan: ScorePlan, device: str) -> Agreement:
    """Choose the precision of a new table, and the limit of a cascade in this precision.

    Raises:
        ConfigError: A model does not work in the requested precision.
        ModelError: A bundle fails on a sampled row.
    """
    precision = plan.precision or agree_on_precision(job, plan, device)
    if job.agreement is None:
        return Agreement(precision)
    with temporary_folder() as scratch, quiet_loading():
        bundles = fetch(job, scratch)
        limit = _fitted(job.agreement, job, bundles, plan, device, precision.used)
    return Agreement(precision, limit)


def _fitted(
    promised: float,
    job: ScoreJob,
    bundles: Sequence[LocalBundle],
    plan: ScorePlan,
    device: str,
    precision: str,
) -> CascadeLimit:
    small, large = bundles
    compared = num_rows_to_compare(promised, plan.num_rows)
    rows = compared + compared // PILOT_SHARE
    text, pair = random_texts(plan, job.input.recipe(large.meta.text), rows)
    pilot = len(text) // (1 + PILOT_SHARE)
    if not is_enough(promised, len(text) - pilot):
        return CascadeLimit(promised=promised, rows=len(text) - pilot)
    _log.info("both bundles of the cascade score %d sampled rows", len(text) - pilot)
    first = _outcome(small, device, precision, text, pair)
    pair = None if pair is None else pair.slice(pilot)
    second = _outcome(large, device, precision, text.slice(pilot), pair)
    sure = certainty(first.probabilities, small.meta.decision, small.meta.task)
    agrees = (first.decided[pilot:] == second.decided).all(1)
    found = fit_limit(promised, sure[:pilot], sure[pilot:], agrees)
    _log.info("%s", found)
    return found


def _outcome(found: LocalBundle, device: str, precision: str, text: Any, pair: Any) -> Outcome:
    scorer = open_scorer(found.folder, found.meta, device, precision)
    return scorer.answers(scorer.tokenise(text, pair)).outcome
