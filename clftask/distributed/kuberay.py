"""Asks Kubernetes what the autoscaler of this pod's cluster may add."""

from __future__ import annotations

import logging
import os
from typing import Any


def autoscaling_of_pod() -> dict[str, Any] | None:
    """Return what Ray's autoscaler makes of the RayCluster that this pod belongs to.

    The form is that of `ray up`. None outside of KubeRay, without autoscaling, or where the pod
    may not read its cluster: KubeRay grants that to the head, where submitted jobs run.
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
    except OSError as error:  # no token, no answer, or no right to read it
        logging.getLogger(__name__).warning("cannot read what the autoscaler may add: %s", error)
        return None
    if not cluster["spec"].get("enableInTreeAutoscaling"):
        return None
    found: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(cluster)
    return found
