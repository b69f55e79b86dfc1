"""A trial's worker group on real Ray."""

from __future__ import annotations

import time
from typing import Any

import pytest

from clftask.distributed.tune import trial_workers
from clftask.distributed.tune.placement import Slots


def _first_worker(path: str) -> tuple[str, str, float]:
    """Return the error of the first worker, the reason of the second, and the seconds between."""
    import torch.distributed as dist

    began = time.monotonic()

    def task(rank: int, world: int, device: str) -> None:
        nonlocal began
        dist.barrier()
        began = time.monotonic()
        if rank == 1:
            raise ValueError("spoilt")
        dist.barrier()

    group = trial_workers.Group(path, Slots(1, 2, 1.0, 0.0))
    try:
        group.run(task)
    except Exception as error:
        return type(error).__name__, group.close(), time.monotonic() - began
    raise AssertionError("no error")


@pytest.mark.slow
def test_a_failure_of_the_second_worker_ends_the_first_before_its_last_words(
    ray_cluster: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    place = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}])
    strategy = PlacementGroupSchedulingStrategy(
        place, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )
    first = ray.remote(num_cpus=1, scheduling_strategy=strategy)(_first_worker)
    try:
        error, reason, seconds = ray.get(first.remote(str(tmp_path)))
    finally:
        ray.util.remove_placement_group(place)
    assert (error, reason) == ("RuntimeError", "ValueError: spoilt")
    assert seconds < trial_workers.LAST_WORDS_S
