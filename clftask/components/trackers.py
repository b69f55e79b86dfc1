"""Experiment trackers: requirements and output folders. To add one: add a member."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Self

from clftask.errors import ConfigError, Problem
from clftask.io import filesystems, storage
from clftask.logs import errors_logged


class Tracker(StrEnum):
    """A tracker by its name in job files, which is also the name of its pip extra.

    Attributes:
        package: The package that must be installed.
        server: The environment variable of its server, required if the run is on S3.
    """

    package: str
    server: str | None

    TENSORBOARD = "tensorboard", "tensorboard"
    MLFLOW = "mlflow", "mlflow", "MLFLOW_TRACKING_URI"
    WANDB = "wandb", "wandb"

    def __new__(cls, name: str, package: str, server: str | None = None) -> Self:
        member = str.__new__(cls, name)
        member._value_, member.package, member.server = name, package, server
        return member


def check(trackers: Iterable[Tracker], runs: str) -> None:
    """Check that the packages are installed and that each tracker can write.

    Args:
        trackers: The job's trackers.
        runs: The job's `run.storage`.

    Raises:
        ConfigError: A package or a server is missing.
    """
    for tracker in trackers:
        if tracker.server and filesystems.is_url(runs) and tracker.server not in os.environ:
            allowed = "requires a server, or run.storage on disk"
            problem = Problem("tracking", str(tracker), allowed, f"Set {tracker.server}.")
            raise ConfigError(problem)
    missing = [str(t) for t in trackers if importlib.util.find_spec(t.package) is None]
    if missing:
        remedy = f"pip install 'clftask[{','.join(missing)}]'"
        raise ConfigError(Problem("tracking", ", ".join(missing), "is not installed", remedy))


@contextmanager
def writing_to(run: str, scratch: str) -> Iterator[None]:
    """Direct the local files of trackers to the run's folder."""
    if "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ["MLFLOW_TRACKING_URI"] = f"file://{run}/mlruns"
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # mlflow rejects file stores otherwise
    place = storage.join(run, "tensorboard")
    folder = f"{scratch}/tensorboard" if filesystems.is_url(place) else place
    os.environ["TENSORBOARD_LOGGING_DIR"] = folder
    try:
        yield
    finally:
        if Path(folder).is_dir() and folder != place:
            with errors_logged("the files of tensorboard are not uploaded"):
                storage.upload(folder, place)
