"""Search algorithm for Ray Tune: wraps a list or a searcher, and numbers the trials."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from ray.tune.search import Searcher

from clftask.components.search.goal import Goal
from clftask.components.search.ray_schedulers import TRIAL


@dataclass(frozen=True)
class NumberedSearcher:
    """A searcher, and the numbers of known trials.

    Attributes:
        searcher: A Ray Tune searcher.
        numbers: Numbers of the trials of the interrupted search, which it proposes first.
    """

    searcher: Any
    numbers: list[int]


class Proposals(Searcher):  # type: ignore[misc]
    """Numbers the trials of a searcher, or proposes those of a list.

    Args:
        source: Configurations with their numbers, or a `NumberedSearcher`.
        goal: The metric and its direction.
    """

    def __init__(self, source: Any, goal: Goal) -> None:
        super().__init__(metric=goal.metric, mode=goal.mode)
        has_searcher = isinstance(source, NumberedSearcher)
        self.inner: Any = source.searcher if has_searcher else None
        self.listed = [] if has_searcher else list(source)
        self.known = list(source.numbers) if has_searcher else []
        self.num_proposed = 0

    def suggest(self, trial_id: str) -> Any:
        """Return the next configuration."""
        if self.inner is None:
            return self.listed.pop(0) if self.listed else Searcher.FINISHED
        found = self.inner.suggest(trial_id)
        return {TRIAL: self._next_number(), **found} if isinstance(found, dict) else found

    def _next_number(self) -> int:
        """Return the numbers of the known trials, then unused ones."""
        self.num_proposed += 1
        if self.num_proposed <= len(self.known):
            return int(self.known[self.num_proposed - 1])
        free = (number for number in itertools.count() if number not in self.known)
        return next(itertools.islice(free, self.num_proposed - len(self.known) - 1, None))

    def on_trial_result(self, trial_id: str, result: Any) -> None:
        """Forward a result."""
        if self.inner is not None:
            self.inner.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Forward the end of a trial."""
        if self.inner is not None:
            self.inner.on_trial_complete(trial_id, result=result, error=error)

    def on_pause(self, trial_id: str) -> None:
        """Forward a pause, which BOHB counts."""
        if hasattr(self.inner, "on_pause"):
            self.inner.on_pause(trial_id)

    def on_unpause(self, trial_id: str) -> None:
        """Forward the end of a pause."""
        if hasattr(self.inner, "on_unpause"):
            self.inner.on_unpause(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the trial records contain all proposals."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: `save` saves nothing."""
