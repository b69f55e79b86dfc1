"""Search algorithm for Ray Tune: a list, or a searcher, whose trials have numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ray.tune.search import Searcher

from clftask.components.search.goal import Goal
from clftask.components.search.ray_schedulers import TRIAL
from clftask.components.search.searchers import MAX_TRIALS


class Proposals(Searcher):  # type: ignore[misc]
    """Proposes the configurations of a list, then those of a searcher, which it numbers.

    Args:
        goal: The metric and its direction.
        listed: Configurations with their numbers.
        searcher: A Ray Tune searcher.
        known: Numbers of the trials of the interrupted search, which the searcher proposes first.
    """

    def __init__(
        self,
        goal: Goal,
        listed: Iterable[dict[str, Any]] = (),
        searcher: Any = None,
        known: Iterable[int] = (),
    ) -> None:
        super().__init__(metric=goal.metric, mode=goal.mode)
        self.listed, self.inner, known = list(listed), searcher, list(known)
        # A list, because Tune pickles the object.
        self.numbers = [*known, *(i for i in range(MAX_TRIALS) if i not in known)]

    def suggest(self, trial_id: str) -> Any:
        if self.inner is None:
            return self.listed.pop(0) if self.listed else Searcher.FINISHED
        found = self.inner.suggest(trial_id)
        return {TRIAL: self.numbers.pop(0), **found} if isinstance(found, dict) else found

    def on_trial_result(self, trial_id: str, result: Any) -> None:
        if self.inner is not None:
            self.inner.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        if self.inner is not None:
            self.inner.on_trial_complete(trial_id, result=result, error=error)

    def on_pause(self, trial_id: str) -> None:
        """Forward a pause, which BOHB counts; other searchers have no such method."""
        if hasattr(self.inner, "on_pause"):
            self.inner.on_pause(trial_id)

    def on_unpause(self, trial_id: str) -> None:
        if hasattr(self.inner, "on_unpause"):
            self.inner.on_unpause(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the trial records contain all proposals."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: `save` saves nothing."""
