"""Autoscaler configuration of this pod's RayCluster, read from the Kubernetes API."""

from __future__ import annotations

import logging
import os
from typing import TypedDict


class NodeType(TypedDict, total=False):
    """A type of node: what each has, and how many may start."""

    resources: dict[str, float]
    max_workers: int


class Autoscaling(TypedDict, total=False):
    """The parts of a configuration of `ray up` that limit the size of a cluster."""

    available_node_types: dict[str, NodeType]
    head_node_type: str
    max_workers: int


def autoscaling_of_pod() -> Autoscaling | None:
    """Return the autoscaler configuration of the RayCluster that this pod belongs to.

    Ray has only private functions for it. None outside of KubeRay, without autoscaling, or if
    the pod has no permission to read its RayCluster; KubeRay grants it to the head pod only.
    """
    name, namespace = (os.environ.get(f"RAY_CLUSTER_{key}") for key in ("NAME", "NAMESPACE"))
    if not name or not namespace:
        return None
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    try:
        cluster = KubernetesHttpApiClient(namespace).get(f"rayclusters/{name}")
    except OSError as error:  # no service account token, no connection, or no permission
        logging.getLogger(__name__).warning("cannot read the autoscaler's limits: %s", error)
        return None
    if not cluster["spec"].get("enableInTreeAutoscaling"):
        return None
    found: Autoscaling = _derive_autoscaling_config_from_ray_cr(cluster)
    return found
