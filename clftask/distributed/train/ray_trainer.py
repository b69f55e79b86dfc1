"""Ray Train launcher."""

from __future__ import annotations

import contextlib
import functools
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import (
    PlacementGroupCleanerCallback,
)
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from clftask.distributed.capacity import WorkerPlan
from clftask.distributed.ray_errors import reason_of
from clftask.distributed.session import is_private, ray_storage
from clftask.distributed.train.torch_backend import TorchWorkers
from clftask.errors import ClftaskError, JobError, Problem
from clftask.io import storage

# Rare, as Ray Train restarts all workers from the last checkpoint when one joins.
RESIZE_S = 300.0
_COORDINATOR = "AutoscalingCoordinator"
_TIMEOUT_S = 10.0


def run_workers(
    loop: Callable[[dict[str, Any]], None],
    loop_config: dict[str, Any],
    chosen: WorkerPlan,
    max_failures: int,
    path: str,
    lost: Callable[[], None] | None = None,
) -> JobError | None:
    """Run a loop in each worker; restart all of them from the checkpoint when one dies.

    Args:
        loop: The function that each worker runs.
        loop_config: Its argument.
        chosen: The workers.
        max_failures: How often workers may die.
        path: The run. It contains Ray's own state until this returns, under a unique name:
            with the name of a finished run, Ray Train returns without training.
        lost: Called in the process of Ray's controller whenever the workers fail.

    Returns:
        Why it failed; None if all workers finished.
    """
    trainer = _Trainer(
        lost or (lambda: None),
        # Not as `train_loop_config`: the controller would import what its values need.
        functools.partial(loop, loop_config),
        backend_config=TorchWorkers(),
        scaling_config=_scaling(chosen),
        run_config=_run_config(path, max_failures),
    )
    try:
        with _reservation(path, trainer.train_run_context.run_id):
            trainer.fit()
    except Exception as error:  # Ray wraps every exception of a worker
        return _job_error(path, error)
    finally:
        with contextlib.suppress(ClftaskError):
            storage.delete(storage.join(path, ".ray"))
    return None


def _scaling(chosen: WorkerPlan) -> ScalingConfig:
    most = chosen.most
    return ScalingConfig(
        num_workers=(chosen.least, most) if chosen.least else chosen.workers,
        elastic_resize_monitor_interval_s=RESIZE_S,
        use_gpu=chosen.use_gpu,
        resources_per_worker={
            "CPU": chosen.cpus_per_worker,
            **({"GPU": 1} if chosen.use_gpu else {}),
        },
    )


def _run_config(path: str, max_failures: int) -> RunConfig:
    place, fs = ray_storage(path)
    return RunConfig(
        name=f"{path.rpartition('/')[2]}-{secrets.token_hex(6)}",
        storage_path=place,
        storage_filesystem=fs,
        failure_config=FailureConfig(max_failures=max_failures),
    )


def _job_error(path: str, error: Exception) -> JobError:
    failures = getattr(error, "worker_failures", None) or {}
    reason = reason_of(next(iter(failures.values()), error)).rstrip(".")
    log = storage.join(path, "log.txt")
    remedy = f"See {log}; run.resume: true resumes from the last checkpoint."
    return JobError(Problem(path, None, f"training failed: {reason}", remedy))


# ------------------------------------------------------------------ gaps in Ray Train 2.60


class _Trainer(DataParallelTrainer):  # type: ignore[misc]
    def __init__(self, lost: Callable[[], None], loop: Any, **options: Any) -> None:
        super().__init__(loop, **options)
        self.lost = lost
        self.controller: Any = None

    def fit(self) -> Any:
        """Train; end the controller on an interrupt, else it would request resources again."""
        try:
            return super().fit()
        except BaseException:
            if self.controller is not None:
                _end(self.controller)
            raise

    def _create_default_callbacks(self) -> list[Any]:
        """Return clftask's callbacks before Ray's, one of which may raise.

        Those of Ray Data and of detached placement groups start an actor each: 2 s of imports.
        """
        left_out = [DatasetsCallback]
        if is_private():  # placement groups end with Ray
            left_out.append(PlacementGroupCleanerCallback)
        found = super()._create_default_callbacks()
        kept = [one for one in found if not isinstance(one, tuple(left_out))]
        return [_WaitingForMachines(self.lost), _QuietController(), *kept]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        """Run Ray's controller with clftask's policies."""
        options["failure_policy"] = _FailurePolicy(self.run_config.failure_config)
        if is_private() and isinstance(options["scaling_policy"], FixedScalingPolicy):
            options["scaling_policy"] = _AloneScalingPolicy(self.scaling_config)
        return super()._initialize_and_run_controller(**options)

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave Ctrl-C to the command line: Ray's handler exits without a message."""
        self.controller = controller


def _end(controller: Any) -> None:
    """Abort a controller so that it releases its workers and resources; then kill it."""
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(controller.abort.remote(), timeout=_TIMEOUT_S)
    ray.kill(controller)


class _FailurePolicy(DefaultFailurePolicy):  # type: ignore[misc]
    """Retries after deaths of workers, but not after a `ClftaskError`.

    Deaths during the start of the worker group count like others. Ray Train itself either gives
    up at once or retries without limit, depending on when the worker dies.
    """

    def make_decision(self, training_failed_error: Any) -> Any:
        """Return whether Ray retries."""
        failures = getattr(training_failed_error, "worker_failures", {}).values()
        if any(isinstance(failure, ClftaskError) for failure in failures):
            return FailureDecision.RAISE
        cause = getattr(training_failed_error, "controller_failure", None)
        if isinstance(cause, (ray.exceptions.RayError, WorkerGroupStartupFailedError)):
            training_failed_error = WorkerGroupError(str(cause), {0: cause})
        return super().make_decision(training_failed_error)


class _AloneScalingPolicy(FixedScalingPolicy):  # type: ignore[misc]
    """A fixed number of workers without a reservation, which needs an actor of its own.

    Ray Train reserves resources so that jobs on one cluster know of each other.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called when the controller starts."""

    def _maybe_send_resource_request(self) -> None:
        """Called before each decision."""


class _WaitingForMachines(ControllerCallback, WorkerGroupCallback):  # type: ignore[misc]
    """Releases the resources of a worker group that failed to start; Ray Train keeps them."""

    def __init__(self, lost: Callable[[], None]) -> None:
        self.lost = lost
        self.held: Any = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Called when the workers exist but do not train yet."""
        self.held = worker_group.get_worker_group_state()

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """Called when all workers train; from now on Ray releases them."""
        self.held = None

    def before_controller_execute_failure_decision(self, failure_decision: Any) -> None:
        """Called after any failure."""
        self.lost()
        if self.held is not None:
            self.held.shutdown()
            self.held = None


class _QuietController(ControllerCallback):  # type: ignore[misc]
    """Makes Ray's controller sleep while it waits for resources; it polls without a pause."""

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called after each step of the controller's loop."""
        if current_state is previous_state:
            time.sleep(0.5)


# ------------------------------------------------------------------ resource requests


@contextlib.contextmanager
def _reservation(path: str, run_id: str) -> Iterator[None]:
    """Cancel a run's resource request when it ends for any reason.

    Ray Train's coordinator keeps an elastic request for 180 s after its run has died, and gives its
    resources to no other elastic run. A resumed run cancels the request of its killed predecessor,
    whose id is on storage.
    """
    place = storage.join(path, ".ray", "reservation")
    with contextlib.suppress(ClftaskError):
        if storage.exists(place):
            _give_back(storage.read_bytes(place).decode())
        storage.put(place, run_id.encode())
    try:
        yield
    finally:
        _give_back(run_id)


def _give_back(run_id: str) -> None:
    # No actor means no requests (ValueError); RayError means that Ray has ended.
    with contextlib.suppress(ValueError, ray.exceptions.RayError):
        coordinator = ray.get_actor(_COORDINATOR, namespace=_COORDINATOR)
        ray.get(coordinator.cancel_request.remote(f"train-{run_id}"), timeout=_TIMEOUT_S)
