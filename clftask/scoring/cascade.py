"""What the workers of a score table share: its precision, and the limit of a cascade.

The limit is fitted on a sample of the rows that both bundles score.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from clftask.array_types import Array, Bools
from clftask.components.decision.cascade import (
    CascadeLimit,
    certainty,
    fit_limit,
    is_enough,
    num_rows_to_compare,
)
from clftask.components.decision.decision import Outcome
from clftask.components.text import TextRecipe
from clftask.config.score import ScoreJob
from clftask.io.tempdirs import temporary_folder
from clftask.models.cascade import LocalBundle, Opener, fetch
from clftask.models.loading import quiet_loading
from clftask.scoring.manifest import Agreement, ScorePlan
from clftask.scoring.sample import random_texts

PILOT_SHARE = 4  # one more row for each four that are compared
_log = logging.getLogger(__name__)


def agree(job: ScoreJob, plan: ScorePlan, opener: Opener) -> Agreement:
    """Choose the precision of a new table, and the limit of a cascade in this precision.

    Args:
        job: The job.
        plan: Its plan.
        opener: Keeps the bundles open that it opens for this.

    Raises:
        ConfigError: A model does not work in the requested precision.
        ModelError: A bundle fails on a sampled row.
    """
    with temporary_folder() as scratch, quiet_loading():
        bundles = fetch(job, scratch)
        precision = plan.precision
        if precision is None:
            from clftask.scoring import precision as choice  # torch, which linear models lack

            precision = choice.agree(job, plan, opener, bundles)
        if job.agreement is None:
            return Agreement(precision)
        fit = _Fit(job, plan, bundles, opener, precision.used)
        return Agreement(precision, fit.limit(job.agreement))


class _Fit:
    """Both bundles and the rows to compare them on."""

    def __init__(
        self,
        job: ScoreJob,
        plan: ScorePlan,
        bundles: Sequence[LocalBundle],
        opener: Opener,
        precision: str,
    ) -> None:
        self.plan, self.opener, self.precision = plan, opener, precision
        self.small, self.large = bundles
        self.recipe = job.input.recipe(self.large.meta.text)

    def limit(self, promised: float) -> CascadeLimit:
        """Draw rows of the corpus and fit the limit.

        The small bundle scores all of them; the large one those of the limits that are tested.
        """
        most = _without_pilot(min(_sample_size(promised, self.plan), self.plan.num_rows))
        if not is_enough(promised, most):  # whatever the rows are
            return CascadeLimit(promised=promised, rows=most)
        text, pair = sample_of(self.plan, self.recipe, promised)
        num_rows = _without_pilot(len(text))
        if not is_enough(promised, num_rows):
            return CascadeLimit(promised=promised, rows=num_rows)
        _log.info("the bundles of the cascade score %d sampled rows", num_rows)
        found = self._fitted(promised, text, pair, len(text) - num_rows)
        _log.info("%s", found)
        return found

    def _fitted(
        self, promised: float, text: pa.ChunkedArray, pair: pa.ChunkedArray | None, pilot: int
    ) -> CascadeLimit:
        first, meta = self._scored(self.small, text, pair), self.small.meta
        sure = certainty(first.probabilities, meta.decision, meta.task)

        def agrees(rows: Array) -> Bools:
            chosen = pa.array(pilot + rows)
            other = None if pair is None else pair.take(chosen)
            second = self._scored(self.large, text.take(chosen), other)
            return np.asarray((first.decided[pilot + rows] == second.decided).all(1))

        return fit_limit(promised, sure[:pilot], sure[pilot:], agrees)

    def _scored(
        self, bundle: LocalBundle, text: pa.ChunkedArray, pair: pa.ChunkedArray | None
    ) -> Outcome:
        scorer = self.opener.open(bundle, self.precision)
        return scorer.answers(scorer.tokenise(text, pair)).outcome


def sample_of(
    plan: ScorePlan, recipe: TextRecipe, promised: float
) -> tuple[pa.ChunkedArray, pa.ChunkedArray | None]:
    """Return the texts, and second texts, of the rows on which a limit is fitted."""
    return random_texts(plan, recipe, _sample_size(promised, plan))


def _sample_size(promised: float, plan: ScorePlan) -> int:
    compared = num_rows_to_compare(promised, plan.num_rows)
    return compared + compared // PILOT_SHARE


def _without_pilot(num_rows: int) -> int:
    return num_rows - num_rows // (1 + PILOT_SHARE)
