"""The three kinds of job, and how a file of any kind is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.errors import ConfigError, Problem
from clftask.yaml_io import read_yaml

Job = TrainJob | TuneJob | ScoreJob
JOBS: Final[dict[str, type[Job]]] = {"train": TrainJob, "tune": TuneJob, "score": ScoreJob}
_OWN_FIELD = {"train": "model", "tune": "space", "score": "bundle"}  # only this kind has it


def load_job(kind: str, path: str, overrides: Iterable[str] = (), command: str = "clftask") -> Job:
    """Read a job file; a file of another kind is refused as a whole, not field by field.

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
    for other, field in _OWN_FIELD.items():
        if field in document and _OWN_FIELD[kind] not in document:
            raise ConfigError(Problem(path, None, f"is a {other} job", f"Use {command} {other}."))
    return JOBS[kind].load(document, overrides)
