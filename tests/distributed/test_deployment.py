"""The files that start clusters, checked with Ray, EC2's API model and the example jobs.

Each rule is a function that returns what breaks it: none for the files, one for a changed copy.
"""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.model import ListShape, Shape, StructureShape
from botocore.validate import ParamValidator
from ray.autoscaler._private.aws.config import _create_default_inbound_rules
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import prepare_config, validate_config

import clftask
from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.distributed.capacity import Capacity, WorkerPlan, grown, node_types, plan
from clftask.distributed.tune.placement import Slots, slots
from clftask.errors import ConfigError

ROOT = Path(__file__).parents[2]
JOBS = ROOT / "jobs"
DEPLOYED = [ROOT / "cluster.yaml", *sorted((JOBS / "kuberay").iterdir())]
PINNED = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
)
RELEASE = clftask.__version__


def changed(config: Any, path: str, value: Any) -> Any:
    """Return a copy with another value at a path like `a.b`."""
    copied = copy.deepcopy(config)
    *parents, last = path.split(".")
    place = copied
    for key in parents:
        place = place[key]
    place[last] = value
    return copied


# ------------------------------------------------------------------ cluster.yaml, by Ray

CLUSTER: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
TYPES = CLUSTER["available_node_types"]


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as Ray validates and resolves it."""
    found: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(found)
    return found


def test_ray_takes_it_and_workers_come_from_zero() -> None:
    found = prepared(CLUSTER)["available_node_types"]
    limits = {name: (kind["min_workers"], kind["max_workers"]) for name, kind in found.items()}
    assert limits == {"head": (0, 0), "cpu": (0, 8), "gpu": (0, 4)}
    assert CLUSTER["max_workers"] == 12
    assert 0 < CLUSTER["idle_timeout_minutes"] <= 15


def test_ray_fills_in_no_setup_of_its_own() -> None:
    found = prepared(CLUSTER)
    assert found["head_setup_commands"] == CLUSTER["setup_commands"]
    assert found["worker_setup_commands"] == CLUSTER["setup_commands"]


# ------------------------------------------------------------------ cluster.yaml, by EC2


def ec2_mistakes(config: dict[str, Any]) -> list[str]:
    """Return the errors of botocore's model of `run_instances` in all node_configs."""
    model = botocore.session.get_session().get_service_model("ec2")
    shape = model.operation_model("RunInstances").input_shape
    found = []
    for kind in config["available_node_types"].values():
        # Ray adds these counts, and changes nothing else in these files.
        request = kind["node_config"] | {"MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(request, shape)
        found += report.generate_report().splitlines() if report.has_errors() else []
        found += unknown_values(request, shape)
    return found


def unknown_values(value: Any, shape: Shape) -> Iterator[str]:
    """Yield the strings that are none of those that the model lists for them."""
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        for key in value.keys() & shape.members.keys():
            yield from unknown_values(value[key], shape.members[key])
    elif isinstance(shape, ListShape) and isinstance(value, list):
        for item in value:
            yield from unknown_values(item, shape.member)
    elif value not in (getattr(shape, "enum", None) or [value]):
        yield f"{value} is no {shape.name}"


def test_ec2_takes_every_node() -> None:
    assert ec2_mistakes(CLUSTER) == []


# vCPUs by size, the same in all families; a g6 up to 8xlarge has one GPU.
NUM_CPUS = {"large": 2, "xlarge": 4, "2xlarge": 8, "4xlarge": 16, "8xlarge": 32}


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_workers_offer_what_their_machines_have(name: str) -> None:
    family, size = TYPES[name]["node_config"]["InstanceType"].split(".")
    gpus = {"GPU": 1} if family.startswith("g") else {}
    assert TYPES[name]["resources"] == {"CPU": NUM_CPUS[size], **gpus}


def test_the_head_takes_no_work_but_the_driver() -> None:
    assert TYPES["head"]["resources"] == {"CPU": 0}


def test_workers_with_a_gpu_are_spot_machines() -> None:
    assert TYPES["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


@pytest.mark.parametrize("name", list(TYPES))
def test_disks_have_room_and_are_encrypted(name: str) -> None:
    (mapping,) = TYPES[name]["node_config"]["BlockDeviceMappings"]
    disk = mapping["Ebs"]
    assert disk["VolumeSize"] >= 200
    assert (disk["VolumeType"], disk["Encrypted"], disk["DeleteOnTermination"]) == (
        "gp3",
        True,
        True,
    )


# ------------------------------------------------------------------ cluster.yaml: ports, tokens


def open_to_the_world(config: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the ranges of ports that any address may reach, by the rules that Ray writes."""
    own = config["provider"].get("security_group", {}).get("IpPermissions")
    return [
        (rule["FromPort"], rule["ToPort"])
        for rule in _create_default_inbound_rules({"sg-1"}, own)
        if rule.get("IpRanges") or rule.get("Ipv6Ranges") or rule.get("PrefixListIds")
    ]


def test_no_port_but_ssh_is_open() -> None:
    assert open_to_the_world(CLUSTER) == [(22, 22)]
    # A group that is named for a node would replace that of Ray.
    assert not any("SecurityGroupIds" in kind["node_config"] for kind in TYPES.values())


def without_token(config: dict[str, Any]) -> list[str]:
    """Return the commands that start Ray unguarded, and the steps that a token's file misses."""
    starts = [
        command
        for kind in ("head", "worker")
        for command in config[f"{kind}_start_ray_commands"]
        if "ray start" in command
    ]
    found = [command for command in starts if "RAY_AUTH_MODE=token ray start" not in command]
    if len(starts) != 2:
        found.append("ray start")
    if config["file_mounts"].get("~/.ray/auth_token") != "~/.ray/auth_token":
        found.append("file_mounts")
    if not any("chmod 600 ~/.ray/auth_token" in command for command in config["setup_commands"]):
        found.append("chmod")
    return found


def test_all_nodes_ask_for_the_token() -> None:
    assert without_token(CLUSTER) == []
    start = shlex.split(CLUSTER["head_start_ray_commands"][1])
    assert "--dashboard-host=127.0.0.1" in start
    assert not {part for part in start if "0.0.0.0" in part}


SECRETS = (
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    r"\b[0-9a-f]{40,}\b",
    r"\b(hf|ghp|github_pat)_\w{20,}",
    r"(?i)(secret_access_key|password|auth_token|api_key)\"?\s*[:=]\s*[\"']?[\w/+]{8,}",
)


def secrets_in(text: str) -> list[str]:
    return [pattern for pattern in SECRETS if re.search(pattern, text)]


@pytest.mark.parametrize("path", DEPLOYED, ids=lambda path: path.name)
def test_no_secret_stands_in_a_file(path: Path) -> None:
    assert secrets_in(path.read_text()) == []


# ------------------------------------------------------------------ versions


def versions(text: str) -> dict[str, set[str]]:
    """Return the versions of clftask and Ray in a file."""
    patterns = {
        "clftask": r"clftask\[cluster,demo\]==([\w.]+)|clftask:([\d.]+)-ray",
        "ray": r'\bray\S*==([\w.]+)|rayproject/ray:([\d.]+)-|-ray([\d.]+)\s|rayVersion: "([\d.]+)"',
    }
    return {
        name: {part for found in re.findall(pattern, text) for part in found if part}
        for name, pattern in patterns.items()
    }


@pytest.mark.parametrize("path", DEPLOYED, ids=lambda path: path.name)
def test_versions_are_those_of_the_project(path: Path) -> None:
    # Nodes of cluster.yaml install Ray by the constraints, which travel to them.
    rays = set() if path.name == "cluster.yaml" else {PINNED["ray"]}
    assert versions(path.read_text()) == {"clftask": {RELEASE}, "ray": rays}


@pytest.mark.parametrize("source", [CLUSTER["setup_commands"][-1], "Dockerfile"])
def test_nodes_install_the_pinned_versions(source: str) -> None:
    text = (JOBS / "kuberay" / source).read_text() if source == "Dockerfile" else source
    assert re.search(r"pip install .*--constraint \S+/constraints\.txt", text)


def test_the_constraints_travel_to_the_nodes() -> None:
    assert CLUSTER["file_mounts"]["~/constraints.txt"] == "constraints.txt"
    assert (ROOT / CLUSTER["file_mounts"]["~/constraints.txt"]).is_file()
    dockerfile = (JOBS / "kuberay" / "Dockerfile").read_text()
    assert "COPY constraints.txt /tmp/constraints.txt" in dockerfile


# ------------------------------------------------------------------ KubeRay

MANIFESTS = {
    name: list(yaml.safe_load_all((JOBS / "kuberay" / f"{name}.yaml").read_text()))
    for name in ("raycluster", "rayjob-train")
}


def ray_cluster(name: str) -> dict[str, Any]:
    """Return the specification of a manifest's cluster."""
    spec: dict[str, Any] = MANIFESTS[name][-1]["spec"]
    return spec.get("rayClusterSpec", spec)


def autoscaling(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the autoscaler configuration of a RayCluster, which Ray validates."""
    metadata = {"name": "clftask", "namespace": "default"}
    found: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(
        {"metadata": metadata, "spec": spec}
    )
    return found


def test_kinds() -> None:
    kinds = {
        name: [(one["apiVersion"], one["kind"]) for one in found]
        for name, found in MANIFESTS.items()
    }
    assert kinds == {
        "raycluster": [("v1", "ServiceAccount"), ("ray.io/v1", "RayCluster")],
        "rayjob-train": [
            ("v1", "ConfigMap"),
            ("v1", "ServiceAccount"),
            ("ray.io/v1", "RayJob"),
        ],
    }


@pytest.mark.parametrize("name", MANIFESTS)
def test_ray_scales_the_groups_from_zero(name: str) -> None:
    spec = ray_cluster(name)
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    found = autoscaling(spec)["available_node_types"]
    limits = {key: (kind["min_workers"], kind["max_workers"]) for key, kind in found.items()}
    assert limits == {"headgroup": (0, 0), "cpu": (0, 8), "gpu": (0, 4)}
    resources = {key: kind["resources"] for key, kind in found.items()}
    assert resources == {
        "headgroup": {"CPU": 0, "memory": 16 * 2**30},
        "cpu": {"CPU": 7, "memory": 28 * 2**30},
        "gpu": {"CPU": 3, "GPU": 1, "memory": 12 * 2**30},
    }


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the specifications of head and workers."""
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def unguarded(spec: dict[str, Any]) -> list[str]:
    """Return the security problems: open access, visible secrets, excess pod permissions."""
    found = [] if spec.get("authOptions") == {"mode": "token"} else ["authOptions"]
    head = spec["headGroupSpec"]
    if head.get("serviceType", "ClusterIP") != "ClusterIP" or head.get("enableIngress"):
        found.append("service")
    for pod in pods(spec):
        (container,) = pod["containers"]
        found += [variable["name"] for variable in container.get("env", []) if "value" in variable]
        found += [place for place in container["envFrom"] if "secretRef" not in place]
        if not pod["securityContext"].get("runAsNonRoot"):
            found.append("runAsNonRoot")
        if container["securityContext"].get("allowPrivilegeEscalation") is not False:
            found.append("allowPrivilegeEscalation")
        if not pod.get("serviceAccountName"):
            found.append("serviceAccountName")
    workers = pods(spec)[1:]
    found += ["token" for pod in workers if pod.get("automountServiceAccountToken") is not False]
    return found


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_are_guarded(name: str) -> None:
    assert unguarded(ray_cluster(name)) == []
    assert not [one for one in MANIFESTS[name] if one["kind"] == "Secret"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_requests_are_limits_and_gpu_pods_go_where_gpus_are(name: str) -> None:
    for pod in pods(ray_cluster(name)):
        (container,) = pod["containers"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert resources["requests"]["ephemeral-storage"] == "100Gi"
        has_gpu = "nvidia.com/gpu" in resources["limits"]
        tolerated = [one["key"] for one in pod.get("tolerations", [])]
        assert tolerated == (["nvidia.com/gpu"] if has_gpu else [])


def test_the_job_finds_its_file_and_ends() -> None:
    files, _, job = MANIFESTS["rayjob-train"]
    head = pods(job["spec"]["rayClusterSpec"])[0]
    (mount,) = head["containers"][0]["volumeMounts"]
    (volume,) = head["volumes"]
    (file,) = files["data"]
    assert volume == {"name": mount["name"], "configMap": {"name": files["metadata"]["name"]}}
    assert job["spec"]["entrypoint"] == f"clftask train {mount['mountPath']}/{file}"
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    loaded = TrainJob.load(yaml.safe_load(files["data"][file]))
    assert loaded.run.resume  # the second attempt
    assert loaded.run.storage.startswith("s3://")
    assert loaded.data.train.startswith("s3://")


# ------------------------------------------------------------------ the example jobs


def full(config: dict[str, Any]) -> Capacity:
    """Return the capacity of a cluster that has scaled up to its limits."""
    return grown([(0, 0)], node_types(config), config["max_workers"])


GROWN = {
    "cluster": full(prepared(CLUSTER)),
    **{name: full(autoscaling(ray_cluster(name))) for name in MANIFESTS},
}
CONFIGS = sorted((JOBS / "configs").iterdir())


def fitted(path: Path, capacity: Capacity) -> WorkerPlan | Slots:
    """Return how a job would run.

    Raises:
        ConfigError: No node that may be added holds one of its workers.
    """
    text = yaml.safe_load(path.read_text())
    if "bundle" in text:
        return plan(ScoreJob.load(path).scaling, capacity, most_useful=1000)
    if "trials" in text:
        job = TuneJob.load(path)
        return slots(job.train.scaling, job.concurrency, job.num_trials, capacity)
    return plan(TrainJob.load(path).scaling, capacity)


@pytest.mark.parametrize("name", GROWN)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_worker_of_every_job_fits_on_a_node(path: Path, name: str) -> None:
    found = fitted(path, GROWN[name])
    if isinstance(found, Slots):
        cpus, gpus = found.cpus, found.gpus
    else:
        cpus, gpus = found.cpus_per_worker, float(found.use_gpu)
    assert any(has >= cpus and has_gpus >= gpus for has, has_gpus in GROWN[name].nodes)
    assert gpus == 1  # all leave it to the cluster, and this one has some


def test_how_some_jobs_run() -> None:
    aws, kubernetes = GROWN["cluster"], GROWN["rayjob-train"]
    corpus, search = JOBS / "configs/score-corpus.yaml", JOBS / "configs/tune-debian-tags.yaml"
    assert (str(aws), str(kubernetes)) == ("80 CPUs and 4 GPUs", "68 CPUs and 4 GPUs")
    assert fitted(corpus, aws) == WorkerPlan(4, True, 4, least=1)
    assert fitted(corpus, kubernetes) == WorkerPlan(4, True, 3, least=1)
    assert fitted(search, aws) == Slots(4, 1, 4, 1)
    (file,) = MANIFESTS["rayjob-train"][0]["data"].values()
    assert plan(TrainJob.load(yaml.safe_load(file)).scaling, kubernetes) == WorkerPlan(2, True, 3)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("available_node_types.gpu.max_workers", 0),
        ("available_node_types.gpu.resources", {"CPU": 4}),
    ],
)
def test_a_cluster_without_gpus_scores_on_cpus(path: str, value: Any) -> None:
    found = fitted(
        JOBS / "configs/score-corpus.yaml", full(changed(prepared(CLUSTER), path, value))
    )
    assert isinstance(found, WorkerPlan)
    assert (found.workers, found.use_gpu) == (16, False)


def test_a_job_that_no_node_holds_is_refused() -> None:
    job = TrainJob.load(JOBS / "configs/imdb.yaml", ["scaling.cpus_per_worker=9"])
    message = r"9 CPUs and a GPU each must fit: .* at most 80 CPUs and 4 GPUs"
    with pytest.raises(ConfigError, match=message):
        plan(job.scaling, GROWN["cluster"])
    only_a_head = full(changed(prepared(CLUSTER), "max_workers", 0))
    with pytest.raises(ConfigError, match="at most 0 CPUs and 0 GPUs"):
        fitted(JOBS / "configs/imdb.yaml", only_a_head)
