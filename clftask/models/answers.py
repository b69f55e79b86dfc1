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
        parts = (None if part is None else part[rows] for part in self.outcome)
        by_small = None if self.by_small is None else self.by_small[rows]
        return Answers(Outcome(*parts), self.is_truncated[rows], by_small)
