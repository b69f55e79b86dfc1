"""Ray Tune callback that shows the progress of trials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ray.exceptions import RayActorError
from ray.tune import Callback
from ray.tune.result import DONE

from clftask.components.search.goal import Goal
from clftask.components.search.ray_schedulers import TRIAL
from clftask.components.search.schedulers import EPOCH
from clftask.distributed.ray_errors import reason_of
from clftask.distributed.tune.shared import FAILED, KNOWN, SEED
from clftask.tuning.trial_store import TrialRecord


class TuneProgressCallback(Callback):  # type: ignore[misc]
    """Shows a record for each evaluation and each end of a trial.

    Args:
        show: Receives the records.
        tidy: Called with the configuration of each trial that ends.
        goal: The metric and its direction.
        is_final: Whether the trials are finalists.
    """

    def __init__(
        self,
        show: Callable[[TrialRecord], None],
        tidy: Callable[[dict[str, Any]], None] | None,
        goal: Goal,
        is_final: bool,
    ) -> None:
        self.show, self.tidy, self.goal, self.is_final = show, tidy, goal, is_final

    def __getstate__(self) -> dict[str, Any]:
        """Pickle no attributes: Tune saves its callbacks with its own state."""
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        self._record(trial, "running")

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
    ) -> None:
        reason = result.get(FAILED)
        if reason:
            self._record(trial, "failed", reason=reason)
        else:
            value = result.get(self.goal.metric)
            known = {"is_known": True} if result.get(KNOWN) else {}
            known |= {"is_cut": True} if result.get(DONE) else {}  # the scheduler stopped it
            self._record(trial, "running", epoch=result.get(EPOCH), value=value, **known)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        is_failed = FAILED in (trial.last_result or {})
        known = {"is_cut": True} if trial.status == trial.PAUSED else {}
        self._record(trial, "failed" if is_failed else "ended", **known)
        if self.tidy is not None:
            self.tidy(trial.config)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Show an error; Tune retries the trial, or it has failed."""
        self._record(trial, "failed", reason=_reason(trial))

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Show an error after which the trial resumes."""
        self._record(trial, "running", reason=f"{_reason(trial)}; it resumes")

    def _record(self, trial: Any, state: str, **found: Any) -> None:
        known = {"id": trial.trial_id, "state": state, "is_final": self.is_final}
        known |= {key: trial.config[key] for key in (TRIAL, SEED) if key in trial.config}
        self.show(cast(TrialRecord, known | found))


def _reason(trial: Any) -> str:
    """Return in one line why a trial's function did not return."""
    try:
        error = trial.get_pickled_error()
    except Exception:  # the error is on storage, which may be down
        return "storage does not answer"
    if isinstance(error, RayActorError) or error is None:
        return "its worker died"
    return reason_of(error)
