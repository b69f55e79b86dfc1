"""Tells the user how trials go, as Ray Tune hears of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune import Callback

from clftask.cluster.trial import FAILED
from clftask.search.schedulers import EPOCH, TRIAL
from clftask.search.searchers import Goal


class Watch(Callback):  # type: ignore[misc]
    """Shows a record for each evaluation and each end of a trial.

    Args:
        show: Takes the records.
        tidy: Takes the configuration of a trial that has ended.
        goal: What is optimised.
        is_final: Whether the trials are finalists.
    """

    def __init__(
        self,
        show: Callable[[dict[str, Any]], None],
        tidy: Callable[[dict[str, Any]], None] | None,
        goal: Goal,
        is_final: bool,
    ) -> None:
        self.show, self.tidy, self.goal, self.is_final = show, tidy, goal, is_final

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what talks to the user: Tune keeps a copy of its callbacks on disk."""
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Show that it has begun, or goes on."""
        self._record(trial, "running")

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
    ) -> None:
        """Show its value."""
        reason = result.get(FAILED)
        if reason:
            self._record(trial, "failed", reason=reason)
        else:
            value = result.get(self.goal.metric)
            self._record(trial, "running", epoch=result.get(EPOCH), value=value)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Show its end."""
        is_failed = FAILED in (trial.last_result or {})
        self._record(trial, "failed" if is_failed else "ended")
        if self.tidy is not None:
            self.tidy(trial.config)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Show that its worker is gone; it is tried again elsewhere, or has failed."""
        self._record(trial, "failed", reason="its worker is gone")

    def _record(self, trial: Any, state: str, **found: Any) -> None:
        config = trial.config
        known = {TRIAL: config[TRIAL], "state": state, "is_final": self.is_final}
        known |= {"seed": config["seed"]} if "seed" in config else {}
        self.show({**known, "id": trial.trial_id, **found})
