"""Schedulers of Ray Tune whose trials wait for each other, but never for those that are gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

TRIAL = "trial"  # the name of its number in what Ray Tune hands it


def never_stuck(scheduler: Any) -> Any:
    """Return a scheduler of brackets that judges those who wait when nobody else is left.

    Ray Tune does so only when a trial of the bracket reports; the last may end by itself, fail,
    or begin anew in another bracket.
    """

    class NeverStuck(scheduler):  # type: ignore[misc]
        def choose_trial_to_run(self, tune_controller: Any, **options: Any) -> Any:
            """Return a trial that may run, of those that wait if all others have ended."""
            found = super().choose_trial_to_run(tune_controller, **options)
            if found is not None or not _all_wait(tune_controller):
                return found
            for bracket in [b for band in self._hyperbands for b in band if b is not None]:
                if bracket.current_trials() and bracket.cur_iter_done():
                    self._process_bracket(tune_controller, bracket)
            return super().choose_trial_to_run(tune_controller, **options)

    return NeverStuck


def keeping_number(scheduler: Any) -> Any:
    """Return a population scheduler whose trials copy another's settings, but not its number."""

    class Keeping(scheduler):  # type: ignore[misc]
        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            """Take a trial; it is not told of the searcher, which merely reads from a list."""
            super().on_trial_add(SimpleNamespace(search_alg=None), trial)

        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            """Let waiting trials go on when all that they waited for have ended."""
            found = super().choose_trial_to_run(tune_controller)
            if found is not None or not _all_wait(tune_controller):
                return found
            paused = [t for t in tune_controller.get_trials() if t.status == "PAUSED"]
            first = min(self._trial_state[trial].last_train_time for trial in paused)
            self._next_perturbation_sync = first + self._perturbation_interval
            return super().choose_trial_to_run(tune_controller)

        def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
            """Wait no longer for a trial whose worker is gone; one that is tried again is new."""
            super().on_trial_error(tune_controller, trial)
            tune_controller.get_live_trials().discard(trial)

        def _get_new_config(self, trial: Any, trial_to_clone: Any) -> Any:
            config, operations = super()._get_new_config(trial, trial_to_clone)
            return {**config, TRIAL: trial.config[TRIAL]}, operations

    return Keeping


def _all_wait(tune_controller: Any) -> bool:
    """Tell whether there are trials that wait, and none that runs or is about to."""
    statuses = {trial.status for trial in tune_controller.get_trials()}
    return "PAUSED" in statuses and not statuses & {"RUNNING", "PENDING"}
