"""The fields of KubeRay's resources (ray.io/v1, KubeRay 1.7) as JSON schemas; pods by the schemas of Kubernetes.

KubeRay's own definitions are in no package registry; these are the fields of its API reference
(https://docs.ray.io/en/master/cluster/kubernetes/references/api.html). No other field is allowed.
"""

from __future__ import annotations

from typing import Any

import jsonschema
import kubernetes_validate

KUBERNETES = "1.33"

TEXT, FLAG, NUMBER = {"type": "string"}, {"type": "boolean"}, {"type": "number"}
OBJECT, LIST = {"type": "object"}, {"type": "array"}
COUNT = {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def closed(required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


AUTOSCALER = closed(
    **dict.fromkeys(("resources", "securityContext"), OBJECT),
    **dict.fromkeys(("env", "envFrom", "volumeMounts"), LIST),
    image=TEXT,
    imagePullPolicy=TEXT,
    idleTimeoutSeconds=COUNT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    version={"enum": ["v1", "v2"]},
)
GROUP = {"template": OBJECT, "rayStartParams": TEXTS, "resources": TEXTS, "labels": TEXTS}
HEAD = closed(("template",), **GROUP, headService=OBJECT, enableIngress=FLAG, ingressOptions=OBJECT, serviceType=TEXT)
WORKERS = closed(
    ("groupName", "template", "minReplicas", "maxReplicas"),
    **GROUP,
    groupName=TEXT,
    **dict.fromkeys(("replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds"), COUNT),
    scaleStrategy=OBJECT,
    suspend=FLAG,
)
AUTH = closed(mode={"enum": ["disabled", "token"]}, secretName=TEXT, enableK8sTokenAuth=FLAG)
CLUSTER = closed(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=AUTH,
    autoscalerOptions=AUTOSCALER,
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
    headServiceAnnotations=TEXTS,
    managedBy=TEXT,
    **dict.fromkeys(("enableInTreeAutoscaling", "suspend"), FLAG),
    **dict.fromkeys(("upgradeStrategy", "gcsFaultToleranceOptions", "historyServerOptions"), OBJECT),
    **dict.fromkeys(("networkPolicy", "tlsOptions"), OBJECT),
)
JOB = closed(
    rayClusterSpec=CLUSTER,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    **dict.fromkeys(("entrypoint", "runtimeEnvYAML", "jobId", "entrypointResources", "managedBy"), TEXT),
    **dict.fromkeys(("activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"), COUNT),
    preRunningDeadlineSeconds=COUNT,
    **dict.fromkeys(("entrypointNumCpus", "entrypointNumGpus"), NUMBER),
    **dict.fromkeys(("shutdownAfterJobFinishes", "suspend"), FLAG),
    **dict.fromkeys(("submitterPodTemplate", "submitterConfig", "deletionStrategy"), OBJECT),
    **dict.fromkeys(("metadata", "clusterSelector"), TEXTS),
)
CRON_JOB = closed(("schedule", "jobTemplate"), schedule=TEXT, timeZone=TEXT, suspend=FLAG, jobTemplate=JOB)
KINDS = {"RayCluster": CLUSTER, "RayJob": JOB, "RayCronJob": CRON_JOB}


def cluster_of(resource: dict[str, Any]) -> dict[str, Any]:
    """The specification of the cluster in a RayCluster, a RayJob or a RayCronJob."""
    spec = resource["spec"]
    found: dict[str, Any] = spec.get("jobTemplate", spec).get("rayClusterSpec", spec)
    return found


def validate(resource: dict[str, Any]) -> None:
    """Check a resource of KubeRay with the templates of its pods, or one of Kubernetes. Raises ValidationError."""
    if resource["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        return
    spec = KINDS[resource["kind"]]
    jsonschema.validate(resource, closed(("spec",), apiVersion=TEXT, kind=TEXT, metadata=OBJECT, spec=spec))
    cluster = cluster_of(resource)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
