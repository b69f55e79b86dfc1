"""Lets the processes of a job's workers import its modules while the driver reads and checks.

Ray gives an actor an idle process with the same runtime environment, if there is one.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clftask import garbage, logs
from clftask.distributed.session import is_private

PATIENCE_S = 60.0


@contextmanager
def warming_up(module: str, count: int, env: dict[str, str] | None = None) -> Iterator[None]:
    """Import a module in `count` processes beside the block, and wait for them at its end.

    Only in a Ray that this job has started: elsewhere it is not known which node runs the actors.

    Args:
        module: The module.
        count: The number of actors.
        env: The variables of the actors' runtime environment.
    """
    import ray

    options: dict[str, Any] = {"num_cpus": 0, "runtime_env": {"env_vars": env or {}}}
    started = count if is_private() else 0
    tasks = [ray.remote(**options)(_load).remote(module) for _ in range(started)]
    yield
    with logs.errors_logged("the workers' processes were not prepared"):
        ray.wait(tasks, num_returns=len(tasks), timeout=PATIENCE_S) if tasks else None


def _load(module: str) -> None:
    garbage.collect_rarely()
    importlib.import_module(module)
