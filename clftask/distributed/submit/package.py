"""What a job on another machine's cluster is sent with: its file, the code, packages, an image."""

from __future__ import annotations

import base64
import gzip
import importlib.metadata
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.errors import ConfigError, Problem

Job = TrainJob | TuneJob | ScoreJob
KINDS: dict[str, type[Job]] = {"train": TrainJob, "tune": TuneJob, "score": ScoreJob}

# Where things are, but nothing secret: what a job is sent with can be read on the dashboard.
PASSED_ON = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "CLFTASK_S3_SSE",
    "HF_HUB_OFFLINE",
    "CLFTASK_LOG",
)
# What a cluster has already, built for its own machines.
CLUSTERS_OWN = {"ray", "torch"}
MAX_COMMAND = 100_000  # characters that a shell surely takes


@dataclass(frozen=True)
class Shipping:
    """How a job finds what it needs on the cluster.

    Attributes:
        shared: Folders that all machines of the cluster see by the same name.
        packages: Whether the cluster installs what clftask needs, in the versions used here.
        image: A container image that has all of it, clftask too, to run the job in.
    """

    shared: tuple[str, ...] = ()
    packages: bool = False
    image: str | None = None


def load(kind: str, path: str, overrides: Iterable[str]) -> Job:
    """Read a job file.

    Raises:
        ConfigError: All its mistakes; or there is no such kind of job.
    """
    if kind not in KINDS:
        raise ConfigError(Problem("submit", kind, f"must be {', '.join(KINDS)}"))
    return KINDS[kind].load(path, overrides)


def check_paths(job: Job, shared: Iterable[str]) -> None:
    """Refuse places on this machine's disk.

    Args:
        job: Its paths are absolute.
        shared: Folders that all machines of the cluster see by the same name.

    Raises:
        ConfigError: Names all of them.
    """
    seen = [str(Path(folder).expanduser().absolute()) for folder in shared]
    problems = [
        Problem(
            field,
            path,
            "is on this machine, where the cluster does not see it",
            "Put it into object storage (s3://…), or say --shared FOLDER if every node of the "
            "cluster has that folder.",
        )
        for field, path in job.paths.items()
        if path.startswith("/") and not any(PurePosixPath(path).is_relative_to(s) for s in seen)
    ]
    if problems:
        raise ConfigError(*problems)


def write_code(job: Job, folder: Path) -> None:
    """Write what the cluster runs: the resolved job, and this very version of clftask."""
    (folder / "job.yaml").write_text(job.to_yaml(), encoding="utf-8")
    package = Path(__file__).parents[2]
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(package, folder / package.name, ignore=ignored)


def environment(folder: str, shipping: Shipping) -> dict[str, Any]:
    """Return Ray's `runtime_env` of a job whose code is in a local folder, or in an image."""
    variables = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    if shipping.image:  # with which Ray takes nothing else
        return {"image_uri": shipping.image, "env_vars": variables}
    found: dict[str, Any] = {"working_dir": folder, "env_vars": variables}
    if shipping.packages:
        found["pip"] = {"packages": pinned(), "pip_check": False}
    return found


def command(kind: str, job: Job, shipping: Shipping, as_json: bool) -> str:
    """Return what the cluster runs: a shell's command, with the job in it if an image is all.

    Raises:
        ConfigError: The job is too large for that; or packages are asked for beside an image.
    """
    clftask, options = f"python -m clftask {kind}", " --json" if as_json else ""
    if not shipping.image:
        return f"{clftask} job.yaml{options}"
    if shipping.packages:
        allowed = "cannot go with --image, which has its own packages"
        raise ConfigError(Problem("--pip", None, allowed, "Leave one of them out."))
    packed = base64.b64encode(gzip.compress(job.to_yaml().encode())).decode()
    if len(packed) > MAX_COMMAND:
        allowed = "takes no job file as large as this one"
        raise ConfigError(Problem("--image", shipping.image, allowed, "Use --pip."))
    return f"echo {packed} | base64 -d | gunzip | {clftask} /dev/stdin{options}"


def pinned() -> list[str]:
    """Return what clftask needs but what a cluster has, in the versions used here."""
    needed = importlib.metadata.requires("clftask") or []
    names = [re.split(r"[\s\[<>=!~;]", line)[0] for line in needed if "extra ==" not in line]
    return [
        f"{name}=={importlib.metadata.version(name)}" for name in names if name not in CLUSTERS_OWN
    ]
