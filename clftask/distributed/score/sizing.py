"""How many workers a scoring job has, and their resources."""

from __future__ import annotations

from clftask.config.score import ScoreJob, ScoreWorkersSpec
from clftask.distributed.capacity import Capacity, WorkerPlan, capacity, plan
from clftask.models.bundle_meta import BundleMeta
from clftask.scoring.plan import Planned

# On two CPUs, two workers of one thread score 1.6 times as many rows as one of two threads. Each
# holds the model, and needs about ten CPU seconds to start.
MAX_AUTO = 8
ROWS_PER_WORKER = {False: 10_000, True: 100_000}  # by whether it has a GPU


def chosen_workers(job: ScoreJob, meta: BundleMeta, planned: Planned) -> WorkerPlan:
    """Choose the workers of a job on the connected cluster. A linear model does not use GPUs.

    Raises:
        ConfigError: They never fit the cluster.
    """
    found, spec = capacity(), job.scaling
    if meta.is_linear:
        spec = spec.model_copy(update={"use_gpu": False})
    rows = sum(shard.num_rows for shard in planned.missing)
    return plan(without_auto(spec, found, rows), found, len(planned.missing))


def without_auto(spec: ScoreWorkersSpec, found: Capacity, rows: int) -> ScoreWorkersSpec:
    """Return the workers with a number or a range instead of `auto`.

    `auto` fills the largest node: a worker for each of its GPUs, or shares of one; without GPUs one
    for each CPU, or for `cpus_per_worker`, at most `MAX_AUTO`. Workers for fewer than
    `ROWS_PER_WORKER` rows are left out. Nodes that an autoscaler may add are used by a range only.

    Args:
        spec: The scaling fields of the job.
        found: Resources of the cluster.
        rows: The rows to score.
    """
    if spec.workers != "auto":
        return spec
    most_gpus = max((gpus for _, gpus in found.nodes), default=0.0)
    use_gpu = spec.use_gpu is True or (spec.use_gpu == "auto" and most_gpus >= 1)
    if use_gpu:
        most = int(max(most_gpus, 1.0)) * int(1 / spec.gpu_share + 1e-9)
    else:
        cpus = max((cpus for cpus, _ in found.nodes), default=1.0)
        each = 1.0 if spec.cpus_per_worker == "auto" else spec.cpus_per_worker
        most = min(int(cpus / each + 1e-9), MAX_AUTO)
    workers = max(1, min(most, rows // ROWS_PER_WORKER[use_gpu]))
    return spec.model_copy(update={"workers": (1, workers) if workers > 1 else 1})
