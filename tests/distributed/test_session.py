"""Number of workers and their resources, without a cluster."""

from __future__ import annotations

import os
import socket
import tempfile
from typing import Any

import pytest
from conftest import environment

from clftask.config.score import ScoreWorkersSpec
from clftask.config.sections import ScalingSpec
from clftask.distributed import session
from clftask.distributed.auth import authenticate, ensure_token
from clftask.distributed.capacity import (
    Capacity,
    WorkerPlan,
    autoscaling_config,
    grown,
    grown_by,
    has_autoscaler,
    node_types,
    plan,
)
from clftask.distributed.score.sizing import without_auto
from clftask.distributed.session import connected
from clftask.errors import ConfigError, JobError

LAPTOP = Capacity(((8, 0),))
GPU_NODE = Capacity(((8, 0), (8, 4)))  # a head without GPU, as most clusters have
GROWING = grown([(4, 0)], [((4, 1), 8), ((4, 0), 2)])


@pytest.mark.parametrize(
    ("capacity", "spec", "expected"),
    [
        (LAPTOP, {"workers": 2}, WorkerPlan(2, False, 4)),
        (LAPTOP, {"workers": 3}, WorkerPlan(3, False, 2)),
        (LAPTOP, {"workers": 8}, WorkerPlan(8, False, 1)),
        (LAPTOP, {"workers": 4, "cpus_per_worker": 0.5}, WorkerPlan(4, False, 0.5)),
        (GPU_NODE, {"workers": 4}, WorkerPlan(4, True, 2)),
        (GPU_NODE, {"workers": 1}, WorkerPlan(1, True, 8)),
        (GPU_NODE, {"workers": 4, "use_gpu": False}, WorkerPlan(4, False, 4)),
        (GPU_NODE, {"workers": 5}, WorkerPlan(5, False, 2)),
        (GROWING, {"workers": 8}, WorkerPlan(8, True, 4)),
        (GROWING, {"workers": 2, "use_gpu": False}, WorkerPlan(2, False, 4)),
    ],
)
def test_plans(capacity, spec, expected):
    assert plan(ScalingSpec(**spec), capacity) == expected


def test_whoever_asks_for_more_cpus_than_stand_beside_a_gpu_hears_of_both_ways_out():
    capacity = Capacity((*[(8, 0)] * 8, *[(4, 1)] * 4))
    message = r"8 CPUs and a GPU each must fit.* Lower cpus_per_worker, scaling\.use_gpu: false"
    with pytest.raises(ConfigError, match=message):
        plan(ScalingSpec(workers=1, cpus_per_worker=8), capacity)
    assert plan(ScalingSpec(workers=8, cpus_per_worker=8, use_gpu=False), capacity).workers == 8


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


@pytest.mark.parametrize(
    ("capacity", "spec", "expected"),
    [
        (LAPTOP, {"workers": (2, 4)}, WorkerPlan(4, False, 2, least=2)),
        (LAPTOP, {"workers": (2, 20)}, WorkerPlan(8, False, 1, least=2, more=12)),
        (GPU_NODE, {"workers": (1, 8)}, WorkerPlan(4, True, 2, least=1, more=4)),
        (LAPTOP, {"workers": (8, 20)}, WorkerPlan(8, False, 1, least=8, more=12)),
        (GROWING, {"workers": (2, 100)}, WorkerPlan(8, True, 4, least=2)),
    ],
)
def test_a_range_takes_what_fits(capacity, spec, expected):
    assert plan(ScalingSpec(**spec), capacity) == expected


def test_a_range_takes_no_more_than_there_is_work_for():
    assert plan(ScalingSpec(workers=(1, 8)), LAPTOP, most_useful=3) == WorkerPlan(
        3, False, 2, least=1
    )
    assert str(WorkerPlan(3, False, 2, least=1)) == "1 to 3 CPU workers, 2 CPUs each"


@pytest.mark.parametrize(
    ("share", "workers", "cpus", "room"),
    [(0.5, 8, 1.0, 8), (0.25, 16, 0.5, 16), (0.4, 8, 1.0, 8), (0.7, 4, 2.0, 4), (1.0, 4, 2.0, 4)],
)
def test_workers_of_a_scoring_job_share_gpus(share, workers, cpus, room):
    """A share is of one GPU: four GPUs have room for eight workers with 0.4 of one, not for ten."""
    assert GPU_NODE.num_shares(share) == room
    spec = {"workers": workers, "gpus_per_worker": share, "cpus_per_worker": cpus}
    found = plan(ScoreWorkersSpec(**spec), GPU_NODE)
    assert found == WorkerPlan(workers, True, cpus, gpu_share=share)
    assert found.gpus == share
    more = ScoreWorkersSpec(**spec | {"workers": workers + 1, "use_gpu": True})
    with pytest.raises(ConfigError, match=r"^scaling\.use_gpu: needs .*GPU"):
        plan(more, GPU_NODE)
    elastic = plan(ScoreWorkersSpec(**spec | {"workers": (1, 99)}), GPU_NODE)
    assert (elastic.workers, elastic.gpus) == (workers, share)


@pytest.mark.parametrize(
    ("capacity", "rows", "spec", "workers", "cpus"),
    [
        (LAPTOP, 19_999, {}, 1, 8),
        (LAPTOP, 20_000, {}, 2, 4),
        (LAPTOP, 10**9, {}, 8, 1),
        (LAPTOP, 10**9, {"cpus_per_worker": 4}, 2, 4),
        (Capacity(((64, 0), (32, 0))), 10**9, {}, 8, 10),
        (GROWING, 10**9, {}, 1, 4),
        (GPU_NODE, 10**9, {}, 4, 2),
        (GPU_NODE, 250_000, {"gpus_per_worker": 0.5}, 2, 4),
        (GPU_NODE, 10**9, {"use_gpu": False}, 8, 2),
        (LAPTOP, 10**9, {"workers": 3}, 3, 2),
    ],
)
def test_auto_fills_a_node_if_there_are_enough_rows(capacity, rows, spec, workers, cpus):
    asked = ScoreWorkersSpec(**{"workers": "auto"} | spec)
    found = plan(without_auto(asked, capacity, rows), capacity)
    assert (found.workers, found.cpus_per_worker) == (workers, cpus)


def test_a_share_of_a_gpu_is_told_and_not_used_on_cpus():
    assert str(WorkerPlan(2, True, 4.0, gpu_share=0.5)) == "2 GPU workers, 0.5 GPUs and 4 CPUs each"
    found = plan(ScoreWorkersSpec(workers=2, gpus_per_worker=0.5), LAPTOP)
    assert (found.use_gpu, found.gpus, str(found)) == (False, 0.0, "2 CPU workers, 4 CPUs each")


def test_machines_that_join_make_room_for_more():
    chosen = plan(ScalingSpec(workers=(1, 4)), Capacity(((1, 0),)))
    assert chosen == WorkerPlan(1, False, 1, least=1, more=3)
    assert str(chosen) == "1 CPU worker, 1 CPU each, 3 more if nodes join"
    assert chosen.widened(Capacity(((1, 0), (2, 0)))) == WorkerPlan(3, False, 1, least=1, more=1)
    assert chosen.widened(Capacity(((1, 0), (9, 0)))) == WorkerPlan(4, False, 1, least=1)
    assert chosen.widened(Capacity(((0, 0),))) == chosen


def test_of_an_open_cluster_nothing_is_refused():
    unknown = Capacity(((4, 0),), is_open=True)
    assert plan(ScalingSpec(workers=50), unknown) == WorkerPlan(50, False, 1)
    assert plan(ScalingSpec(workers=2, use_gpu=True), unknown) == WorkerPlan(2, True, 2)


@pytest.mark.parametrize(
    ("there", "types", "most", "expected"),
    [
        # Only a head: the nodes that may join count.
        ([(0, 0)], [((8, 1), 2)], None, ((0, 0), (8, 1), (8, 1))),
        # Nodes that are alive count once.
        ([(0, 0), (8, 1)], [((8, 1), 2)], None, ((0, 0), (8, 1), (8, 1))),
        # The limit does not allow all: the largest come first.
        ([(0, 0)], [((8, 0), 5), ((4, 1), 1)], 2, ((0, 0), (4, 1), (8, 0))),
        ([(0, 0), (8, 0)], [((8, 0), 5)], 1, ((0, 0), (8, 0))),
    ],
)
def test_a_cluster_counts_as_grown(there, types, most, expected):
    assert grown(there, types, most).nodes == expected


def test_a_configuration_of_ray_up_is_read(tmp_path, monkeypatch):
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "max_workers: 3\nhead_node_type: head\navailable_node_types:\n"
        "  head: {resources: {CPU: 4}, max_workers: 0}\n"
        "  spot: {resources: {CPU: 8, GPU: 1}, max_workers: 2}\n"
        "  any: {resources: {CPU: 16}}\n"
    )
    monkeypatch.setenv("CLFTASK_AUTOSCALING_CONFIG", str(file))
    assert node_types(autoscaling_config()) == [((8.0, 1.0), 2), ((16.0, 0.0), 3)]
    monkeypatch.setenv("CLFTASK_AUTOSCALING_CONFIG", str(tmp_path / "absent"))
    assert autoscaling_config() is None


def test_a_head_like_its_workers_is_none_of_them():
    document = {
        "max_workers": 2,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 8}},
            "worker": {"resources": {"CPU": 8}, "max_workers": 2},
        },
    }
    head = {"Resources": {"CPU": 8.0, "node:__internal_head__": 1.0}}
    assert grown_by(document, [head]).nodes == ((8, 0),) * 3
    assert grown_by(document, [{"Resources": {"CPU": 8.0}}, head]).nodes == ((8, 0),) * 3


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ({"ray.io/node-id": "ab"}, ["node_ab"], False),  # Ray's monitor runs without one, too
        ({"ray.io/node-id": "ab"}, ["ray.head.default"], True),
        ({"ray.io/node-group": "gpu"}, [], True),
        ({}, [], False),
    ],
)
def test_an_autoscaler_is_distinguished_from_a_monitor(labels, names, expected):
    mapping = {str(i): name for i, name in enumerate(names)}
    status = {"autoscaler_report": {"node_type_mapping": mapping}} if names else {}
    assert has_autoscaler([{"Labels": labels}], status) is expected


# ------------------------------------------------------------------ tokens


def test_a_token_is_for_its_owner_alone(tmp_path):
    file = tmp_path / ".ray" / "auth_token"
    ensure_token(file)
    token = file.read_text()
    assert len(token) == 64
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    file.chmod(0o644)  # as Ray writes it
    ensure_token(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == token


def test_a_mode_that_is_set_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    authenticate()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert not (tmp_path / "token").exists()


def test_a_token_that_has_no_place_is_a_user_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file" / "token"))
    with pytest.raises(ConfigError, match=r"RAY_AUTH_TOKEN_PATH.*cannot be used.*can write"):
        authenticate()


@pytest.mark.parametrize("address", [None, "192.0.2.1:6379"])
def test_a_cluster_of_another_python_is_refused_and_not_left_aside(monkeypatch, address):
    import ray

    def init(address: str | None = None, **options: Any) -> None:
        if address == "local":
            pytest.fail("runs alone")
        raise RuntimeError("Version mismatch: The cluster was started with: Python: 3.12.3")

    monkeypatch.setattr(ray, "init", init)
    with environment({"RAY_ADDRESS": address}), pytest.raises(ConfigError) as refused:
        session._init()
    assert "3.12.3" in str(refused.value)
    assert "exact Python and Ray versions" in str(refused.value)


def test_a_start_that_takes_too_long_is_not_an_internal_error(monkeypatch):
    import ray

    def init(**options: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen because …")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(JobError, match="did not start on this machine in 30 s"):
        session._init()


def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS: does not answer.*{address}"), connected():
        pass


@pytest.mark.ray
def test_what_killed_workers_left_is_removed_when_a_job_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with connected():
        left = tmp_path / "clftask-work-dead"
        left.mkdir()
        (left / ".lock").touch()
    assert not left.exists()
