"""Package of a submitted job: job file, code, runtime environment."""

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

from clftask.config.jobs import Job
from clftask.errors import ConfigError, Problem

# No secrets: the dashboard shows a job's runtime environment.
PASSED_ON = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "CLFTASK_S3_SSE",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "HF_HUB_OFFLINE",
    "CLFTASK_LOG",
)
# Installed on every cluster, built for its nodes.
CLUSTERS_OWN = {"ray", "torch"}
MAX_COMMAND = 100_000  # characters, below the limit of shells


@dataclass(frozen=True)
class Shipping:
    """How a job finds files and packages on the cluster.

    Attributes:
        shared: Folders that all nodes of the cluster mount at the same path.
        packages: Whether Ray installs clftask's requirements, in the versions used here.
        image: A container image with clftask and its requirements, in which the job runs.
    """

    shared: tuple[str, ...] = ()
    packages: bool = False
    image: str | None = None


def check_paths(job: Job, shared: Iterable[str]) -> None:
    """Refuse paths on this machine's disk.

    Args:
        job: A job with absolute paths.
        shared: Folders that all nodes of the cluster mount at the same path.

    Raises:
        ConfigError: Names all such paths.
    """
    seen = [str(Path(folder).expanduser().absolute()) for folder in shared]
    problems = [
        Problem(
            field,
            path,
            "is a local path, which the cluster cannot read",
            "Put it into object storage (s3://…), or use --shared FOLDER if every node of the "
            "cluster has that folder.",
        )
        for field, path in job.paths.items()
        if path.startswith("/") and not any(PurePosixPath(path).is_relative_to(s) for s in seen)
    ]
    if problems:
        raise ConfigError(*problems)


def write_code(job: Job, folder: Path) -> None:
    """Write the working directory: the resolved job and this version of clftask."""
    (folder / "job.yaml").write_text(job.to_yaml(), encoding="utf-8")
    package = Path(__file__).parents[2]
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(package, folder / package.name, ignore=ignored)


def environment(folder: str, shipping: Shipping) -> dict[str, Any]:
    """Return Ray's `runtime_env` of a job whose code is in a local folder or an image."""
    variables = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    if shipping.image:  # Ray accepts `image_uri` only with `env_vars`
        return {"image_uri": shipping.image, "env_vars": variables}
    found: dict[str, Any] = {"working_dir": folder, "env_vars": variables}
    if shipping.packages:
        found["pip"] = {"packages": pinned(), "pip_check": False}
    return found


def command(kind: str, job: Job, shipping: Shipping, as_json: bool) -> str:
    """Return the entrypoint, a shell command; with an image it contains the job file.

    Raises:
        ConfigError: The job file is too large, or --pip and --image are both set.
    """
    clftask, options = f"python -m clftask {kind}", " --json" if as_json else ""
    if not shipping.image:
        return f"{clftask} job.yaml{options}"
    if shipping.packages:
        allowed = "cannot be combined with --image, which has its own packages"
        raise ConfigError(Problem("--pip", None, allowed, "Leave one of them out."))
    packed = base64.b64encode(gzip.compress(job.to_yaml().encode())).decode()
    if len(packed) > MAX_COMMAND:
        allowed = "the job file is too large for the command line"
        raise ConfigError(Problem("--image", shipping.image, allowed, "Use --pip."))
    return f"echo {packed} | base64 -d | gunzip | {clftask} /dev/stdin{options}"


def pinned() -> list[str]:
    """Return clftask's requirements that a cluster lacks, pinned to the versions used here."""
    needed = importlib.metadata.requires("clftask") or []
    names = [re.split(r"[\s\[<>=!~;]", line)[0] for line in needed if "extra ==" not in line]
    return [
        f"{name}=={importlib.metadata.version(name)}" for name in names if name not in CLUSTERS_OWN
    ]
