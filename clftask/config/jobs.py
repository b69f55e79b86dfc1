"""The three kinds of job, and how a file of any kind is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.errors import ConfigError, Problem
from clftask.yaml_io import read_yaml

Job = TrainJob | TuneJob | ScoreJob
JOBS: Final[dict[str, type[Job]]] = {"train": TrainJob, "tune": TuneJob, "score": ScoreJob}


def kind_of(document: Mapping[str, Any]) -> str:
    """Return the kind of job that has most of a document's fields."""
    return max(JOBS, key=lambda kind: len(document.keys() & JOBS[kind].model_fields.keys()))


def load_any_job(path: str, overrides: Iterable[str] = ()) -> Job:
    """Read the file of a job of any kind.

    Raises:
        ConfigError: It is invalid.
    """
    document = read_yaml(path)
    return JOBS[kind_of(document)].load(document, overrides)


def load_job(kind: str, path: str, overrides: Iterable[str] = (), command: str = "clftask") -> Job:
    """Read a job file; a valid file of another kind is refused as a whole, not field by field.

    Args:
        kind: train, tune or score.
        path: The file.
        overrides: `path=value` pairs.
        command: What the kind follows on the command line, for the remedy.

    Raises:
        ConfigError: The kind is unknown, or the file is invalid or of another kind.
    """
    if kind not in JOBS:
        raise ConfigError(Problem(command, kind, f"must be {', '.join(JOBS)}"))
    document = read_yaml(path)
    other = kind_of(document)
    is_other = document.keys() <= JOBS[other].model_fields.keys()
    if is_other and not document.keys() <= JOBS[kind].model_fields.keys():
        raise ConfigError(Problem(path, None, f"is a {other} job", f"Use {command} {other}."))
    return JOBS[kind].load(document, overrides)
