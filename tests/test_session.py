"""How a job fits on a cluster: decided without one."""

from __future__ import annotations

import socket

import pytest

from clftask.cluster.session import Capacity, Plan, connected, plan
from clftask.config import ScalingSpec
from clftask.errors import ConfigError

LAPTOP = Capacity(8, 0, ((8, 0),))
GPU_NODE = Capacity(16, 4, ((8, 0), (8, 4)))  # a head without GPU, as most clusters have
GROWING = Capacity(40, 8, ((4, 0),), can_grow=True)


@pytest.mark.parametrize(
    ("capacity", "spec", "expected"),
    [
        (LAPTOP, {"workers": 2}, Plan(2, False, 4)),
        (LAPTOP, {"workers": 3}, Plan(3, False, 2)),
        (LAPTOP, {"workers": 8}, Plan(8, False, 1)),
        (LAPTOP, {"workers": 4, "cpus_per_worker": 0.5}, Plan(4, False, 0.5)),
        (GPU_NODE, {"workers": 4}, Plan(4, True, 2)),
        (GPU_NODE, {"workers": 1}, Plan(1, True, 8)),
        (GPU_NODE, {"workers": 4, "use_gpu": False}, Plan(4, False, 4)),
        (GPU_NODE, {"workers": 5}, Plan(5, False, 2)),
        (GROWING, {"workers": 8}, Plan(8, True, 4)),
        (GROWING, {"workers": 2, "use_gpu": False}, Plan(2, False, 4)),
    ],
)
def test_plans(capacity, spec, expected):
    assert plan(ScalingSpec(**spec), capacity) == expected


@pytest.mark.parametrize(
    ("capacity", "spec", "field"),
    [
        (LAPTOP, {"workers": 9}, "scaling.workers"),
        (LAPTOP, {"workers": 2, "cpus_per_worker": 5}, "scaling.workers"),
        (LAPTOP, {"workers": 1, "use_gpu": True}, "scaling.use_gpu"),
        (GPU_NODE, {"workers": 5, "use_gpu": True}, "scaling.use_gpu"),
        (GPU_NODE, {"workers": 4, "cpus_per_worker": 3}, "scaling.workers"),
        (GROWING, {"workers": 50, "use_gpu": False}, "scaling.workers"),
    ],
)
def test_refusals_say_what_the_cluster_has(capacity, spec, field):
    with pytest.raises(ConfigError, match=rf"{capacity.cpus:g} CPUs and") as refused:
        plan(ScalingSpec(**spec), capacity)
    assert refused.value.problems[0].path == field


def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS: does not answer.*{address}"), connected():
        pass
