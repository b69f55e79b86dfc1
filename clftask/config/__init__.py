"""Jobs as data: what a job file of each kind holds."""

from clftask.config.score import ScoreInput, ScoreJob, ScoreOutput, ScoreScaling
from clftask.config.train import (
    DataSpec,
    EarlyStopping,
    ModelSpec,
    RunSpec,
    ScalingSpec,
    TrainingSpec,
    TrainJob,
)
from clftask.config.tune import Finalists, TuneJob

__all__ = [
    "DataSpec",
    "EarlyStopping",
    "Finalists",
    "ModelSpec",
    "RunSpec",
    "ScalingSpec",
    "ScoreInput",
    "ScoreJob",
    "ScoreOutput",
    "ScoreScaling",
    "TrainJob",
    "TrainingSpec",
    "TuneJob",
]
