"""The objective of a search."""

from __future__ import annotations

from clftask.spec import Spec


class Goal(Spec):
    """The metric that is optimised, and its direction."""

    metric: str
    greater_is_better: bool

    @property
    def mode(self) -> str:
        """The direction as Ray Tune's `mode`."""
        return "max" if self.greater_is_better else "min"

    @property
    def sign(self) -> int:
        """1, or -1 if lower is better."""
        return 1 if self.greater_is_better else -1
