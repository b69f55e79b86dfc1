"""The limits of KubeRay's autoscaler count, read as the autoscaler reads them."""

from __future__ import annotations

from typing import Any

import pytest
from ray.autoscaler._private.kuberay import node_provider

from clftask.distributed.capacity import autoscaling_config, grown, node_types
from clftask.distributed.kuberay import autoscaling_of_pod


def group(cpus: str, most: int, **more: Any) -> dict[str, Any]:
    """Return a group of pods, as KubeRay describes it."""
    container = {"resources": {"limits": {"cpu": cpus, **more}}}
    template = {"spec": {"containers": [container]}}
    return {"minReplicas": 0, "maxReplicas": most, "template": template}


SPEC: dict[str, Any] = {
    "enableInTreeAutoscaling": True,
    "headGroupSpec": group("4", 0) | {"rayStartParams": {"num-cpus": "0"}},
    "workerGroupSpecs": [
        group("7500m", 2) | {"groupName": "cpu"},
        group("4", 1, **{"nvidia.com/gpu": "1"}) | {"groupName": "gpu"},
    ],
}


@pytest.fixture(autouse=True)
def pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """What KubeRay sets in every pod."""
    monkeypatch.setenv("RAY_CLUSTER_NAME", "texts")
    monkeypatch.setenv("RAY_CLUSTER_NAMESPACE", "science")
    monkeypatch.setenv("CLFTASK_AUTOSCALING_CONFIG", "/absent")


def serve(monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any]) -> None:
    """Fake the Kubernetes API with one RayCluster."""

    class Kubernetes:
        def __init__(self, namespace: str) -> None:
            self.namespace = namespace

        def get(self, path: str) -> dict[str, Any]:
            assert (self.namespace, path) == ("science", "rayclusters/texts")
            return {"metadata": {"name": "texts", "namespace": "science"}, "spec": spec}

    monkeypatch.setattr(node_provider, "KubernetesHttpApiClient", Kubernetes)


def test_a_head_that_is_alone_counts_what_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, SPEC)
    config = autoscaling_config()
    assert config is not None
    assert node_types(config) == [((8.0, 0.0), 2), ((4.0, 1.0), 1)]
    found = grown([(0, 0)], node_types(config), config["max_workers"])
    assert found.nodes == ((0, 0), (4, 1), (8, 0), (8, 0))


def test_without_autoscaling_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, SPEC | {"enableInTreeAutoscaling": False})
    assert autoscaling_of_pod() is None


def test_a_pod_that_may_not_ask_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert autoscaling_of_pod() is None
    assert "cannot read the autoscaler's limits" in caplog.text


def test_outside_of_kuberay_nobody_is_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RAY_CLUSTER_NAME")
    assert autoscaling_of_pod() is None
    assert caplog.text == ""
