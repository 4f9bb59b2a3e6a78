"""What infra/ gives to Kubernetes, AWS and Google Cloud is valid by their schemas and closed by default."""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import __version__
from pipeline.config import RunConfig
from pipeline.config_file import load
from pipeline.evaluation.settings import EvaluateConfig

pytest.importorskip("kubernetes_validate", reason="needs the schemas of Kubernetes")

import jsonschema
import kubernetes_validate
import ray.autoscaler

from tests.support.kuberay import cluster_of, validate

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "infra/kubernetes"
FOLDERS = sorted(path.parent for path in KUBERNETES.glob("*/kustomization.yaml"))
LAUNCHERS = sorted((ROOT / "infra/launcher").glob("*.yaml"))
POLICIES = sorted((ROOT / "infra/iam").glob("*"))
IMAGE = f"fullcanvas:{__version__}-cuda"
JOBS = {"transcribe/rayjob": RunConfig, "growing/raycronjob": RunConfig, "nightly/raycronjob": EvaluateConfig}


def read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


def resources(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k` sends: the resources of a folder with those of the folders that it names."""
    found = []
    for name in read(folder / "kustomization.yaml")["resources"]:
        path = folder / name
        found += resources(path) if path.is_dir() else [read(path)]
    return found


CLUSTERS = [cluster_of(one) for folder in FOLDERS for one in resources(folder) if one["apiVersion"] == "ray.io/v1"]
GROUPS = [group for cluster in CLUSTERS for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
PODS = [group["template"]["spec"] for group in GROUPS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_every_resource_is_valid_and_every_file_is_used(folder: Path) -> None:
    assert [validate(resource) for resource in resources(folder)]
    named = {"kustomization.yaml", *read(folder / "kustomization.yaml")["resources"]}
    assert {path.name for path in folder.glob("*.yaml")} == {name for name in named if not name.startswith("..")}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "backofLimit"), 1),
        (("spec", "backoffLimit"), "3"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "open"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "comand"), ["sh"]),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "name"), None),
    ],
)
def test_a_wrong_field_is_seen(place: tuple[Any, ...], value: object) -> None:
    resource = read(KUBERNETES / "transcribe/rayjob.yaml")
    inner: Any = resource
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(resource)


@pytest.mark.parametrize("name", JOBS)
def test_the_entrypoint_is_a_command_for_a_cluster_of_its_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    resource = read(KUBERNETES / f"{name}.yaml")
    words = shlex.split(resource["spec"].get("jobTemplate", resource["spec"])["entrypoint"])
    job = {RunConfig: "transcribe", EvaluateConfig: "evaluate"}[JOBS[name]]
    assert words[:4] == ["python", "-m", f"jobs.{job}", "--config"]
    config: Any = load(JOBS[name], words[4], words[5:])
    assert config.compute.replicas_min == cluster_of(resource)["workerGroupSpecs"][0]["replicas"]


def test_every_cluster_has_the_ray_of_the_lock_and_asks_for_a_token() -> None:
    assert len(CLUSTERS) == 4
    assert {cluster["rayVersion"] for cluster in CLUSTERS} == {version("ray")}
    assert [cluster["authOptions"]["mode"] for cluster in CLUSTERS] == ["token"] * len(CLUSTERS)
    assert not any(key in head for head in GROUPS for key in ("serviceType", "enableIngress", "headService"))


def test_pods_are_not_root_have_no_capabilities_and_leave_the_command_to_kuberay() -> None:
    """KubeRay puts its own `command` before `ray start`, which replaces the image's entry point."""
    for pod in PODS:
        user = {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000}
        assert pod["securityContext"] == user | {"seccompProfile": {"type": "RuntimeDefault"}}
        assert pod["serviceAccountName"] == "fullcanvas"
        (container,) = pod["containers"]
        assert container["image"] == IMAGE
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert "command" not in container
        assert f"WORKDIR {container['workingDir']}" in (ROOT / "infra/Dockerfile").read_text()


def test_only_the_head_that_starts_pods_has_rights_in_kubernetes() -> None:
    account = read(KUBERNETES / "base/service-account.yaml")
    assert account["automountServiceAccountToken"] is False
    for cluster in CLUSTERS:
        head, *workers = (
            group["template"]["spec"].get("automountServiceAccountToken", False)
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
        )
        assert head is cluster.get("enableInTreeAutoscaling", False)
        assert not any(workers)


def test_pods_of_other_namespaces_reach_the_dashboard_alone_and_only_those_of_kuberay() -> None:
    spec = read(KUBERNETES / "base/network-policy.yaml")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    for rule in spec["ingress"]:
        assert rule["from"]  # without one, everybody is let in
        for peer in rule["from"]:
            if peer != {"podSelector": {}}:  # the pods of this namespace
                assert peer["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "kuberay-operator"}
                assert rule["ports"] == [{"protocol": "TCP", "port": 8265}]


def test_workers_of_the_large_cluster_come_and_go_on_spot_nodes_and_its_head_stays() -> None:
    cluster = cluster_of(read(KUBERNETES / "cluster/raycluster.yaml"))
    workers = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert cluster["enableInTreeAutoscaling"] is True
    assert {name: "nvidia.com/gpu" in str(group) for name, group in workers.items()} == {"cpu": False, "gpu": True}
    assert [group["minReplicas"] for group in workers.values()] == [0, 0]
    used = [str(group["template"]["spec"]["affinity"]) for group in (cluster["headGroupSpec"], *workers.values())]
    assert ["'NotIn'" in text for text in used] == [True, False, False]
    assert all("gke-spot" in text and "capacityType" in text and "karpenter.sh" in text for text in used)


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_a_launcher_file_is_valid_for_ray_asks_for_a_token_and_its_dashboard_is_local(path: Path) -> None:
    config = read(path)
    jsonschema.validate(config, json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text()))
    assert config["docker"]["image"].endswith(f"/{IMAGE}")
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert any(target.endswith("/.ray/auth_token") for target in config["file_mounts"])
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    kinds = config["available_node_types"]
    assert kinds.keys() == {"head", "cpu", "gpu"}
    spot = {name: "spot" in str(kind["node_config"]).lower() for name, kind in kinds.items()}
    assert spot == {"head": False, "cpu": True, "gpu": True}
    assert all(kinds[name]["min_workers"] == 0 for name in ("cpu", "gpu"))


def test_the_image_and_the_machines_have_what_the_launcher_needs() -> None:
    aws, gcp = (read(ROOT / f"infra/launcher/{name}.yaml") for name in ("aws", "gcp"))
    pip = "pip install -c /app/requirements.lock"
    assert f"botocore=={version('botocore')}" in (ROOT / "requirements.lock").read_text().splitlines()
    assert aws["head_setup_commands"] == [f"{pip} boto3=={version('botocore')}"]  # each boto3 wants its botocore
    (command,) = gcp["head_setup_commands"]
    assert re.fullmatch(rf"{pip} google-api-python-client==[\d.]+", command)
    line = next(line for line in (ROOT / "infra/Dockerfile").read_text().splitlines() if "apt-get install" in line)
    assert {"openssh-client", "rsync"} <= {word.split("=")[0] for word in line.split()}
    assert {kind["node_config"]["ImageId"] for kind in aws["available_node_types"].values()} == {"AMI-WITH-DRIVER-580"}
    zone = gcp["provider"]["availability_zone"]
    for kind in gcp["available_node_types"].values():
        (disk,) = kind["node_config"]["disks"]
        assert disk["initializeParams"]["diskType"] == f"zones/{zone}/diskTypes/pd-balanced"
        assert disk["initializeParams"]["sourceImage"].endswith("-nvidia-580")


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_a_policy_names_each_action_and_changes_nothing_but_its_own(path: Path) -> None:
    policy = read(path)  # JSON is YAML
    if "includedPermissions" in policy:
        assert all("*" not in one and one.count(".") == 2 for one in policy["includedPermissions"])
        return
    for statement in policy["Statement"]:
        actions, places = (
            one if isinstance(one, list) else [one] for one in (statement["Action"], statement["Resource"])
        )
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in actions)
        only_looks = all(action.split(":")[1].startswith("Describe") for action in actions)
        assert only_looks or "*" not in places
