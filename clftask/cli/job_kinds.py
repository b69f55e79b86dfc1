"""The functions behind the commands train, tune and score. Slow to import: Ray, torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clftask.cli.estimate_summaries import score_estimate, tune_estimate
from clftask.cli.progress import ScoreScreen, TrainScreen, TuneScreen
from clftask.cli.summaries import score_summary, train_summary, tune_summary
from clftask.config.results import Result
from clftask.distributed.estimate import estimate_score, estimate_tune
from clftask.distributed.score.driver import score
from clftask.distributed.train.driver import train
from clftask.distributed.tune.driver import tune


@dataclass(frozen=True)
class JobKind:
    """One kind of job.

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


KINDS = {
    "train": JobKind(train, lambda _: TrainScreen(), train_summary),
    "tune": JobKind(tune, lambda job: TuneScreen(job.goal, job.num_trials), tune_summary),
    "score": JobKind(score, lambda _: ScoreScreen(), score_summary),
}
# By kind: the function that measures a job, and the one that prints the estimate.
ESTIMATES: dict[str, tuple[Callable[..., Any], Callable[..., None]]] = {
    "tune": (estimate_tune, tune_estimate),
    "score": (estimate_score, score_estimate),
}
