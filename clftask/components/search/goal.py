"""What a search optimises."""

from __future__ import annotations

from clftask.spec import Spec


class Goal(Spec):
    """The metric that is optimised, and its direction."""

    metric: str
    greater_is_better: bool

    @property
    def mode(self) -> str:
        """The direction, as Ray Tune names it."""
        return "max" if self.greater_is_better else "min"
