"""Jobs as data: what a job file of each kind holds."""

from clftask.config.score import ScoreInput, ScoreJob, ScoreOutput
from clftask.config.train import (
    DataSpec,
    EarlyStopping,
    ModelSpec,
    RunSpec,
    ScalingSpec,
    TrainingSpec,
    TrainJob,
    WorkersSpec,
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
    "TrainJob",
    "TrainingSpec",
    "TuneJob",
    "WorkersSpec",
]
