"""Number of concurrent trials and their resources, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from clftask.config.sections import ScalingSpec
from clftask.distributed.capacity import Capacity, grown
from clftask.distributed.tune.placement import Slots, slots
from clftask.errors import ConfigError, Problem

LAPTOP = Capacity(((8, 0),))
TWO = Capacity(((4, 0), (4, 0)))
UNEVEN = Capacity(((5, 0), (3, 0)))
ONE_GPU = Capacity(((16, 1),))
TWO_GPUS = Capacity(((16, 2),))
GPU_NODES = Capacity(((8, 0), (8, 2), (8, 2)))  # a head without GPU, as most clusters have
GROWING = grown([(4, 0)], [((4, 1), 8), ((4, 0), 2)])


def share(capacity: Capacity, num_trials: int, concurrency: Any = "auto", **scaling: Any) -> Slots:
    return slots(ScalingSpec(**scaling), concurrency, num_trials, capacity)


def refused(capacity: Capacity, num_trials: int, concurrency: Any, **scaling: Any) -> Problem:
    with pytest.raises(ConfigError) as caught:
        share(capacity, num_trials, concurrency, **scaling)
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    return problem


# ------------------------------------------------------------------ CPUs


@pytest.mark.parametrize(
    ("capacity", "num_trials", "expected"),
    [
        (LAPTOP, 16, Slots(8, 1, 1.0, 0.0)),
        (LAPTOP, 8, Slots(8, 1, 1.0, 0.0)),
        (LAPTOP, 4, Slots(4, 1, 2.0, 0.0)),
        (LAPTOP, 3, Slots(3, 1, 2.0, 0.0)),
        (LAPTOP, 1, Slots(1, 1, 8.0, 0.0)),
        (TWO, 1, Slots(1, 1, 4.0, 0.0)),
        (TWO, 2, Slots(2, 1, 4.0, 0.0)),
        (TWO, 3, Slots(3, 1, 2.0, 0.0)),
        (UNEVEN, 2, Slots(2, 1, 3.0, 0.0)),
        (GROWING, 100, Slots(40, 1, 1.0, 0.0)),
        (GROWING, 4, Slots(4, 1, 4.0, 0.0)),
    ],
)
def test_auto_takes_a_cpu_a_trial_or_more_if_there_are_few(
    capacity: Capacity, num_trials: int, expected: Slots
) -> None:
    assert share(capacity, num_trials, use_gpu=False) == expected


@pytest.mark.parametrize(
    ("capacity", "num_trials", "concurrency", "expected"),
    [
        (LAPTOP, 16, 2, Slots(2, 1, 4.0, 0.0)),
        (LAPTOP, 16, 3, Slots(3, 1, 2.0, 0.0)),
        (LAPTOP, 16, 8, Slots(8, 1, 1.0, 0.0)),
        (LAPTOP, 2, 8, Slots(2, 1, 4.0, 0.0)),
        (TWO, 16, 1, Slots(1, 1, 4.0, 0.0)),
        (UNEVEN, 16, 2, Slots(2, 1, 3.0, 0.0)),
    ],
)
def test_a_number_of_trials_shares_the_cpus(
    capacity: Capacity, num_trials: int, concurrency: int, expected: Slots
) -> None:
    assert share(capacity, num_trials, concurrency) == expected


def test_several_workers_a_trial() -> None:
    assert share(LAPTOP, 16, workers=2) == Slots(4, 2, 1.0, 0.0)
    assert share(LAPTOP, 2, workers=2) == Slots(2, 2, 2.0, 0.0)
    assert share(LAPTOP, 16, 1, workers=2) == Slots(1, 2, 4.0, 0.0)
    assert share(LAPTOP, 16, workers=3) == Slots(2, 3, 1.0, 0.0)
    assert share(TWO, 1, workers=2) == Slots(1, 2, 4.0, 0.0)
    assert share(UNEVEN, 16, workers=8) == Slots(1, 8, 1.0, 0.0)


def test_cpus_of_a_worker_may_be_said() -> None:
    assert share(LAPTOP, 16, cpus_per_worker=3) == Slots(2, 1, 3, 0.0)
    assert share(TWO, 16, cpus_per_worker=3) == Slots(2, 1, 3, 0.0)
    assert share(LAPTOP, 16, cpus_per_worker=0.5) == Slots(16, 1, 0.5, 0.0)
    assert share(Capacity(((1, 0),)), 16, cpus_per_worker=0.1) == Slots(10, 1, 0.1, 0.0)
    assert share(LAPTOP, 16, 2, workers=2, cpus_per_worker=2) == Slots(2, 2, 2, 0.0)


# ------------------------------------------------------------------ GPUs


@pytest.mark.parametrize(
    ("capacity", "scaling", "expected"),
    [
        (ONE_GPU, {}, Slots(1, 1, 16.0, 1.0)),
        (TWO_GPUS, {}, Slots(2, 1, 8.0, 1.0)),
        (TWO_GPUS, {"use_gpu": True}, Slots(2, 1, 8.0, 1.0)),
        (TWO_GPUS, {"use_gpu": False}, Slots(9, 1, 1.0, 0.0)),
        (TWO_GPUS, {"workers": 2}, Slots(1, 2, 8.0, 1.0)),
        (TWO_GPUS, {"workers": 3}, Slots(5, 3, 1.0, 0.0)),
        (GPU_NODES, {}, Slots(4, 1, 4.0, 1.0)),
        (GPU_NODES, {"workers": 2}, Slots(2, 2, 4.0, 1.0)),
        (GPU_NODES, {"workers": 3}, Slots(1, 3, 4.0, 1.0)),
        (GPU_NODES, {"cpus_per_worker": 5}, Slots(2, 1, 5, 1.0)),
        (GROWING, {}, Slots(8, 1, 4.0, 1.0)),
        (GROWING, {"workers": 4}, Slots(2, 4, 4.0, 1.0)),
        (LAPTOP, {"use_gpu": "auto"}, Slots(8, 1, 1.0, 0.0)),
    ],
)
def test_auto_takes_a_gpu_a_worker(
    capacity: Capacity, scaling: dict[str, Any], expected: Slots
) -> None:
    assert share(capacity, 9, **scaling) == expected


@pytest.mark.parametrize(
    ("capacity", "num_trials", "concurrency", "expected"),
    [
        (ONE_GPU, 16, 4, Slots(4, 1, 4.0, 0.25)),
        (TWO_GPUS, 16, 3, Slots(3, 1, 5.0, 0.5)),
        (TWO_GPUS, 16, 4, Slots(4, 1, 4.0, 0.5)),
        (TWO_GPUS, 16, 5, Slots(5, 1, 3.0, 0.3333)),
        (TWO_GPUS, 16, 2, Slots(2, 1, 8.0, 1.0)),
        (TWO_GPUS, 16, 1, Slots(1, 1, 16.0, 1.0)),
        (TWO_GPUS, 2, 8, Slots(2, 1, 8.0, 1.0)),
        (ONE_GPU, 16, 6, Slots(6, 1, 2.0, 0.1666)),
        (ONE_GPU, 16, 7, Slots(7, 1, 2.0, 0.1428)),
        (GPU_NODES, 16, 8, Slots(8, 1, 2.0, 0.5)),
    ],
)
def test_more_trials_than_gpus_share_them(
    capacity: Capacity, num_trials: int, concurrency: int, expected: Slots
) -> None:
    found = share(capacity, num_trials, concurrency)
    assert found == expected
    on_one_gpu = 1 / found.gpus
    assert round(on_one_gpu) * found.gpus <= 1  # Ray does not place what exceeds one


def test_a_cluster_that_can_grow_counts_as_grown() -> None:
    assert share(GROWING, 16, 16) == Slots(16, 1, 2.0, 0.5)
    assert share(GROWING, 9, use_gpu=False, cpus_per_worker=4) == Slots(9, 1, 4, 0.0)


# ------------------------------------------------------------------ errors


def test_workers_of_one_trial_do_not_share_gpus() -> None:
    problem = refused(TWO_GPUS, 16, 2, workers=2)
    assert (problem.path, problem.value) == ("concurrency", 2)
    assert problem.allowed == "trials of several workers do not share GPUs; there are 2"
    assert share(TWO_GPUS, 1, 2, workers=2) == Slots(1, 2, 8.0, 1.0)
    assert share(TWO_GPUS, 16, 2, workers=2, use_gpu=False) == Slots(2, 2, 4.0, 0.0)


@pytest.mark.parametrize(("capacity", "workers"), [(LAPTOP, 1), (ONE_GPU, 2)])
def test_gpus_that_are_not_there_are_refused(capacity: Capacity, workers: int) -> None:
    problem = refused(capacity, 16, "auto", use_gpu=True, workers=workers)
    assert (problem.path, problem.value) == ("train.scaling.use_gpu", True)
    wanted = "1 GPU" if workers == 1 else f"{workers} GPUs"
    assert problem.allowed == f"needs {wanted}; the cluster has {capacity.gpus}"


def test_a_trial_that_does_not_fit_is_refused() -> None:
    assert refused(LAPTOP, 16, "auto", workers=9) == Problem(
        "train.scaling.workers",
        9,
        "9 workers a trial with 1 CPU each: the cluster has 8 CPUs and 0 GPUs",
        "There is room for 0 trials.",
    )
    assert refused(TWO, 1, 1, cpus_per_worker=5).path == "train.scaling.workers"
    assert refused(GPU_NODES, 9, "auto", cpus_per_worker=9).path == "train.scaling.workers"


@pytest.mark.parametrize(
    ("capacity", "concurrency", "scaling", "room"),
    [
        (LAPTOP, 9, {}, 8),
        (LAPTOP, 5, {"workers": 2}, 4),
        (LAPTOP, 3, {"cpus_per_worker": 3}, 2),
        (GPU_NODES, 4, {"cpus_per_worker": 5}, 2),
        (ONE_GPU, 17, {}, 16),
    ],
)
def test_more_trials_than_there_is_room_for_are_refused(
    capacity: Capacity, concurrency: int, scaling: dict[str, Any], room: int
) -> None:
    problem = refused(capacity, 20, concurrency, **scaling)
    assert (problem.path, problem.value) == ("concurrency", concurrency)
    assert problem.remedy == f"There is room for {room} trials."


# ------------------------------------------------------------------ text for the user


def test_slots_say_what_ray_reserves() -> None:
    assert Slots(4, 1, 4.0, 0.25).resources == {"CPU": 4.0, "GPU": 0.25}
    assert Slots(4, 1, 4.0, 0.0).resources == {"CPU": 4.0}
    assert (Slots(4, 1, 4.0, 0.25).device, Slots(4, 1, 4.0, 0.0).device) == ("cuda", "cpu")


def test_slots_are_a_sentence() -> None:
    assert str(Slots(4, 1, 2.0, 0.25)) == "4 trials at a time, a worker with 2 CPUs and 0.25 GPUs"
    assert str(Slots(2, 3, 1.0, 0.0)) == "2 trials at a time, 3 workers, each with 1 CPU"
