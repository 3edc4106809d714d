"""The schema of KubeRay's CRDs, reduced to the fields that a user may set in a RayCluster, a RayJob or a
RayCronJob.

Written from the types that the CRDs are generated from (ray-operator/apis/ray/v1/raycluster_types.go, rayjob_types.go
and raycronjob_types.go of KubeRay 1.7.0): names, types, required fields, and enumerations. Left out: TLS, network
policies, ingress, history server, and storage of the GCS, which are rejected here although KubeRay accepts them. Pod
templates are Kubernetes' own and are checked by its strict schema (package kubernetes-validate).
"""

from typing import Any

import kubernetes_validate

STRING: dict[str, Any] = {"type": "string"}
BOOLEAN: dict[str, Any] = {"type": "boolean"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
NUMBER: dict[str, Any] = {"type": "number"}
ANY_OBJECT: dict[str, Any] = {"type": "object"}
STRINGS: dict[str, Any] = {"type": "object", "additionalProperties": STRING}


def one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


def closed(required: tuple[str, ...] = (), **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


AUTOSCALER_OPTIONS = closed(
    version=one_of("v1", "v2"),
    idleTimeoutSeconds=COUNT,
    upscalingMode=one_of("Default", "Aggressive", "Conservative"),
    image=STRING,
    imagePullPolicy=one_of("Always", "Never", "IfNotPresent"),
    resources=ANY_OBJECT,
    securityContext=ANY_OBJECT,
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
    command={"type": "array", "items": STRING},
    args={"type": "array", "items": STRING},
)
HEAD_GROUP = closed(
    ("template",),
    template=ANY_OBJECT,
    headService=ANY_OBJECT,
    enableIngress=BOOLEAN,
    resources=STRINGS,
    labels=STRINGS,
    rayStartParams=STRINGS,
    serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
)
WORKER_GROUP = closed(
    ("groupName", "minReplicas", "maxReplicas", "template"),
    suspend=BOOLEAN,
    groupName=STRING,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=COUNT,
    priority={"type": "integer"},
    resources=STRINGS,
    labels=STRINGS,
    rayStartParams=STRINGS,
    template=ANY_OBJECT,
    scaleStrategy=ANY_OBJECT,
    numOfHosts=COUNT,
)
RAY_CLUSTER_SPEC = closed(
    ("headGroupSpec",),
    authOptions=closed(mode=one_of("disabled", "token"), secretName=STRING, enableK8sTokenAuth=BOOLEAN),
    upgradeStrategy=closed(type=one_of("Recreate", "None")),
    suspend=BOOLEAN,
    managedBy=one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    autoscalerOptions=AUTOSCALER_OPTIONS,
    headServiceAnnotations=STRINGS,
    enableInTreeAutoscaling=BOOLEAN,
    gcsFaultToleranceOptions=ANY_OBJECT,
    headGroupSpec=HEAD_GROUP,
    rayVersion=STRING,
    workerGroupSpecs={"type": "array", "items": WORKER_GROUP},
)
RAY_JOB_SPEC = closed(
    activeDeadlineSeconds=COUNT,
    backoffLimit=COUNT,
    rayClusterSpec=RAY_CLUSTER_SPEC,
    submitterPodTemplate=ANY_OBJECT,
    metadata=STRINGS,
    clusterSelector=STRINGS,
    submitterConfig=closed(backoffLimit=COUNT),
    managedBy=one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
    deletionStrategy=ANY_OBJECT,
    entrypoint=STRING,
    runtimeEnvYAML=STRING,
    jobId=STRING,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    entrypointResources=STRING,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    ttlSecondsAfterFinished=COUNT,
    preRunningDeadlineSeconds=COUNT,
    shutdownAfterJobFinishes=BOOLEAN,
    suspend=BOOLEAN,
)
RAY_CRON_JOB_SPEC = closed(
    ("jobTemplate", "schedule"),
    jobTemplate=RAY_JOB_SPEC,
    schedule=STRING,
    timeZone={"type": "string", "minLength": 1},
    suspend=BOOLEAN,
)
SPECS = {"RayCluster": RAY_CLUSTER_SPEC, "RayJob": RAY_JOB_SPEC, "RayCronJob": RAY_CRON_JOB_SPEC}
METADATA = closed(("name",), name=STRING, namespace=STRING, labels=STRINGS, annotations=STRINGS)


def manifest(kind: str) -> dict[str, Any]:
    """Returns the schema of a manifest of this kind."""
    keys = ("apiVersion", "kind", "metadata", "spec")
    return closed(keys, apiVersion=one_of("ray.io/v1"), kind=one_of(kind), metadata=METADATA, spec=SPECS[kind])


def check_pod_template(template: dict[str, Any]) -> None:
    """Checks a pod template against Kubernetes' own schema and rejects unknown fields.

    Raises:
        kubernetes_validate.ValidationError: it is not a valid template.
    """
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "checked"}, "template": template}
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
