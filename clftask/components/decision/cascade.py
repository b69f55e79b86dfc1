"""Cascades: where a small bundle answers in place of a large one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from clftask.array_types import Array, Bools, Floats
from clftask.components.decision.decision import Decision
from clftask.components.labels import Task
from clftask.messages import are, counted
from clftask.spec import Spec

CONFIDENCE = 0.95
# Of the rows; with fewer, a cascade saves little time.
SHARES = np.arange(30, 101, 2) / 100
MOST, LEAST, FIRST = 40, 10, 5  # rows compared and tested first, in units of 1 / (1 − promised)
_LEAST = 1e-7  # float32 has probabilities of 0 and 1


class CascadeLimit(Spec):
    """Above which certainty the small bundle of a cascade answers, and what a sample has shown.

    Attributes:
        promised: The share of the rows that the small bundle answers on which its decision is
            that of the large one.
        limit: The least certainty with which the small bundle answers; None: it never does.
        rows: Sampled rows that the small bundle scored; the large one, those that were tested.
        answered: Those that the small bundle answers. Without a limit: those tested first, of
            which it is most certain.
        agreed: Those of them on which both decide the same.
        at_least: The lower bound of this share that the test of the limit compared with `promised`.
    """

    promised: float
    limit: float | None = None
    rows: int = Field(0, ge=0)
    answered: int = Field(0, ge=0)
    agreed: int = Field(0, ge=0)
    at_least: float = 0.0

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        least = 0 if self.limit is None else 1
        if not least <= self.answered <= self.rows or self.agreed > self.answered:
            raise ValueError("rows, answered and agreed contradict each other")
        return self

    def answers(self, certainty: Floats) -> Bools:
        """Return (rows,) bool: whether the small bundle answers."""
        limit = math.inf if self.limit is None else self.limit
        return np.asarray(certainty >= limit)

    def __str__(self) -> str:
        if self.limit is not None:
            share = f"{self.answered / self.rows:.0%} of {counted(self.rows, 'sampled row')}"
            same = f"{self.agreed / self.answered:.2%} of them with the labels of the large one"
            # Of the limit that was selected, the tests show the promise, not the bound.
            bound = f"at least {self.promised:.4g} in the corpus with 95 % confidence"
            return f"the small bundle answers {share}, {same}; {bound}"
        none = f"the large bundle answers all rows: no limit reaches {self.promised:.4g}"
        if self.agreed == self.answered:
            return (
                f"{none}, as {counted(self.rows, 'sampled row')} {are(self.rows)} too few to tell"
            )
        same = f"{self.agreed:,} of the {self.answered:,} sampled rows with the most certain labels"
        bound = f"at least {self.at_least:.2%} with 95 % confidence"
        return f"{none}; the small one agrees on {same}, {bound}"


def certainty(probabilities: Floats, decision: Decision, task: Task) -> Floats:
    """Return (rows,) float64: how certain a bundle is of its decision; it orders rows.

    Multiclass: the highest probability. Multilabel: the probability that all labels are decided
    right, if they are independent, and if a label at its threshold is as likely right as wrong.

    Args:
        probabilities: (rows, labels), calibrated.
        decision: The bundle's decision.
        task: multiclass or multilabel.
    """
    if task == "multiclass":
        return np.asarray(probabilities.max(1), np.float64)
    thresholds = np.asarray(decision.thresholds(probabilities.shape[1]))
    found = np.clip(probabilities.astype(np.float64), _LEAST, 1 - _LEAST)
    distance = np.abs(_log_odds(found) - _log_odds(thresholds))
    return np.asarray(np.exp(-np.logaddexp(0, -distance).sum(1)))


def fit_limit(
    promised: float, pilot: Floats, found: Floats, agrees: Callable[[Array], Bools]
) -> CascadeLimit:
    """Return the lowest limit that is shown to keep a promise.

    Limits are tested from the strictest one on, until a test fails, so all that passed hold at
    once with 95 % confidence: fixed sequence testing, as in Learn then Test (Angelopoulos et al.
    2021). A test is the Clopper-Pearson bound (1934) of the rows that a limit selects. It is
    exact for rows drawn independently from the corpus, because the limits, at which the small
    bundle answers about 30, 32, … 100 % of the rows, come from the pilot rows alone. The first
    one selects so many rows that one of them may differ.

    Args:
        promised: The share of equal decisions among the rows that the small bundle answers.
        pilot: (pilot rows,) certainty of the small bundle; these rows are not tested.
        found: (rows,) certainty of the small bundle.
        agrees: Returns whether both bundles decide the same on some rows, given by their numbers.
            It is called for a row at most once, and not for rows below the limits that are tested.
    """
    best = CascadeLimit(promised=promised, rows=len(found))
    known, is_same = np.zeros(len(found), np.bool_), np.zeros(len(found), np.bool_)
    shares = SHARES[[is_enough(promised, share * len(found)) for share in SHARES]]
    for limit in map(float, np.quantile(pilot, 1 - shares) if len(shares) else shares):
        chosen = found >= limit
        new = np.flatnonzero(chosen & ~known)
        known[new], is_same[new] = True, agrees(new)
        answered, agreed = int(chosen.sum()), int(is_same[chosen].sum())
        at_least = lower_bound(agreed, answered)
        tested = {"answered": answered, "agreed": agreed, "at_least": at_least}
        if at_least < promised:
            return best if best.limit is not None else best.model_copy(update=tested)
        best = best.model_copy(update={**tested, "limit": limit})
    return best


def lower_bound(agreed: int, rows: int) -> float:
    """Return the one-sided Clopper-Pearson lower bound of a share, with 95 % confidence."""
    from scipy.stats import beta

    return float(beta.ppf(1 - CONFIDENCE, agreed, rows - agreed + 1)) if agreed else 0.0


def is_enough(promised: float, rows: float) -> bool:
    """Tell whether so many rows can show that a promise is kept."""
    return rows * (1 - promised) >= FIRST - 1e-9


def num_rows_to_compare(promised: float, num_rows: int) -> int:
    """Return how many rows of a corpus are sampled to fit the limit, beside the pilot.

    So many that the small bundle may err on some of them: 40 / (1 − promised), or a tenth of a
    smaller corpus, but no fewer than a test needs.
    """
    most, least = (math.ceil(factor / (1 - promised) - 1e-9) for factor in (MOST, LEAST))
    return max(least, min(most, num_rows // 10))


def _log_odds(probabilities: Floats) -> Floats:
    return np.asarray(np.log(probabilities) - np.log1p(-probabilities))
