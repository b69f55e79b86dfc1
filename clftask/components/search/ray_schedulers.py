"""Ray Tune schedulers that do not wait for trials that have ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

TRIAL = "trial"  # key of the trial's number in Ray Tune's config


def never_stuck(scheduler: Any) -> Any:
    """Return a HyperBand scheduler that processes a bracket when only paused trials are left.

    Ray Tune processes a bracket only when one of its trials reports. Its last running trial can
    end without a report, fail, or restart in another bracket; the others then wait for ever.
    """

    class NeverStuck(scheduler):  # type: ignore[misc]
        def choose_trial_to_run(self, tune_controller: Any, **options: Any) -> Any:
            """Return a trial to run; if only paused trials are left, process their brackets."""
            found = super().choose_trial_to_run(tune_controller, **options)
            if found is not None or not _all_wait(tune_controller):
                return found
            for bracket in [b for band in self._hyperbands for b in band if b is not None]:
                if bracket.current_trials() and bracket.cur_iter_done():
                    self._process_bracket(tune_controller, bracket)
            return super().choose_trial_to_run(tune_controller, **options)

    return NeverStuck


def keeping_number(scheduler: Any) -> Any:
    """Return a PBT scheduler that does not copy the trial number of the source trial.

    Ray Tune's PBT copies the whole config, including the number.
    """

    class Keeping(scheduler):  # type: ignore[misc]
        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            """Add a trial, but hide the searcher: PBT rejects every Searcher, even a list."""
            super().on_trial_add(SimpleNamespace(search_alg=None), trial)

        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            """Resume paused trials if no running trial is left; synchronous PBT never does."""
            found = super().choose_trial_to_run(tune_controller)
            if found is not None or not _all_wait(tune_controller):
                return found
            paused = [t for t in tune_controller.get_trials() if t.status == "PAUSED"]
            first = min(self._trial_state[trial].last_train_time for trial in paused)
            self._next_perturbation_sync = first + self._perturbation_interval
            return super().choose_trial_to_run(tune_controller)

        def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
            """Stop waiting for a failed trial; its retry counts as a new trial."""
            super().on_trial_error(tune_controller, trial)
            tune_controller.get_live_trials().discard(trial)

        def _get_new_config(self, trial: Any, trial_to_clone: Any) -> Any:
            config, operations = super()._get_new_config(trial, trial_to_clone)
            return {**config, TRIAL: trial.config[TRIAL]}, operations

    return Keeping


def _all_wait(tune_controller: Any) -> bool:
    """Tell whether trials are paused, and none is running or pending."""
    statuses = {trial.status for trial in tune_controller.get_trials()}
    return "PAUSED" in statuses and not statuses & {"RUNNING", "PENDING"}
