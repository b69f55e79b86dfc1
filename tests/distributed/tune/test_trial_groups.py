"""A trial's worker group on real Ray."""

from __future__ import annotations

from typing import Any

import pytest

from clftask.distributed.tune.placement import Slots


@pytest.mark.slow
def test_a_failure_of_the_second_worker_ends_the_first(ray_cluster: Any, tmp_path: Any) -> None:
    """The second one would exit by itself after a day only."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    def first_worker(path: str) -> tuple[str, str]:
        """Return the error of the first worker, and the reason of the second."""
        import torch.distributed as dist

        from clftask.distributed.tune import trial_workers

        def task(rank: int, world: int, device: str) -> None:
            dist.barrier()
            if rank == 1:
                trial_workers.LAST_WORDS_S = 86_400.0
                raise ValueError("spoilt")
            dist.barrier()

        group = trial_workers.Group(path, Slots(1, 2, 1.0, 0.0))
        try:
            group.run(task)
        except Exception as error:
            return type(error).__name__, group.close()
        raise AssertionError("no error")

    place = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}])
    strategy = PlacementGroupSchedulingStrategy(
        place, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )
    first = ray.remote(num_cpus=1, scheduling_strategy=strategy)(first_worker)
    try:
        found = ray.get(first.remote(str(tmp_path)), timeout=300)
    finally:
        ray.util.remove_placement_group(place)
    assert found == ("RuntimeError", "ValueError: spoilt")
