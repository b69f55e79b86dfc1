"""Experiment trackers: what each needs, and where it writes. To add one: add a member."""

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


class Tracker(StrEnum):
    """A tracker by its name in job files, which is also that of its extra.

    Attributes:
        package: That must be installed.
        server: The environment variable of its server, which a run outside a disk needs.
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
    """Refuse a tracker whose package is not installed, or that has no place to write to.

    Args:
        trackers: Those of a job.
        runs: Its `run.storage`.

    Raises:
        ConfigError: Names the package and its install command, or the variable to set.
    """
    for tracker in trackers:
        if tracker.server and filesystems.is_url(runs) and tracker.server not in os.environ:
            allowed = "needs a server, or a local run"
            problem = Problem("tracking", str(tracker), allowed, f"Set {tracker.server}.")
            raise ConfigError(problem)
    missing = [str(t) for t in trackers if importlib.util.find_spec(t.package) is None]
    if missing:
        remedy = f"pip install 'clftask[{','.join(missing)}]'"
        raise ConfigError(Problem("tracking", ", ".join(missing), "is not installed", remedy))


@contextmanager
def writing_to(run: str, scratch: str) -> Iterator[None]:
    """Let what trackers write to disk end up in the run's folder."""
    if "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ["MLFLOW_TRACKING_URI"] = f"file://{run}/mlruns"
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    place = storage.join(run, "tensorboard")
    folder = f"{scratch}/tensorboard" if filesystems.is_url(place) else place
    os.environ["TENSORBOARD_LOGGING_DIR"] = folder
    try:
        yield
    finally:
        if Path(folder).is_dir() and folder != place:
            storage.upload(folder, place)
