"""What a scorer returns for the rows of a shard."""

from __future__ import annotations

from dataclasses import dataclass

from clftask.array_types import Bools
from clftask.components.decision.decision import Outcome


@dataclass(frozen=True)
class Answers:
    """Scored rows.

    Attributes:
        outcome: Their probabilities and labels.
        is_truncated: (rows,) whether the bundle that answered read only a part of the text.
        by_small: (rows,) whether the small bundle of a cascade answered; None without a cascade.
    """

    outcome: Outcome
    is_truncated: Bools
    by_small: Bools | None = None

    def slice(self, start: int, num_rows: int) -> Answers:
        """Return some consecutive rows."""
        rows = slice(start, start + num_rows)
        probabilities, decided, sets = self.outcome
        sets = None if sets is None else sets[rows]
        by_small = None if self.by_small is None else self.by_small[rows]
        outcome = Outcome(probabilities[rows], decided[rows], sets)
        return Answers(outcome, self.is_truncated[rows], by_small)
