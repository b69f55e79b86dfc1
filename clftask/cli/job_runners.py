"""The functions behind the commands train, tune and score.

Importing a driver imports Ray and torch, which takes seconds. So a command imports only its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clftask.config.results import Result


@dataclass(frozen=True)
class JobRunner:
    """How the command line runs one kind of job.

    Attributes:
        drive: Runs a job: `drive(job, say, show)`.
        screen: Returns the progress display of a job.
        summarise: Prints a result: `summarise(result, file)`.
    """

    drive: Callable[..., Any]
    screen: Callable[[Any], Any]
    summarise: Callable[..., None]

    def run(self, job: Any) -> Result:
        """Run a job and show its progress."""
        with self.screen(job) as screen:
            result: Result = self.drive(job, screen.say, screen.show)
        return result


def _train() -> JobRunner:
    from clftask.cli.progress import TrainScreen
    from clftask.cli.summaries import train_summary
    from clftask.distributed.train.driver import train

    return JobRunner(train, lambda job: TrainScreen(job.training.metric), train_summary)


def _tune() -> JobRunner:
    from clftask.cli.progress import TuneScreen
    from clftask.cli.summaries import tune_summary
    from clftask.distributed.tune.driver import tune

    return JobRunner(tune, lambda job: TuneScreen(job.goal, job.num_trials), tune_summary)


def _score() -> JobRunner:
    from clftask.cli.progress import ScoreScreen
    from clftask.cli.summaries import score_summary
    from clftask.distributed.score.driver import score

    return JobRunner(score, lambda _: ScoreScreen(), score_summary)


def job_runner(name: str) -> JobRunner:
    """Return the runner of a command: train, tune or score."""
    return {"train": _train, "tune": _tune, "score": _score}[name]()


def estimator(name: str) -> tuple[Callable[..., Any], Callable[..., None]]:
    """Return the function that measures a job of tune or score, and the one that prints it."""
    from clftask.cli.estimate_summaries import score_estimate, tune_estimate
    from clftask.distributed.estimate import estimate_score, estimate_tune

    if name == "tune":
        return estimate_tune, tune_estimate
    return estimate_score, score_estimate
