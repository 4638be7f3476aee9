"""From a `JobSpec` to a batch/v1 Job: one pod, one container, never restarted in place, never two at once.

The topology's text is an annotation of the pod, which a downwardAPI volume shows as a file: it is created with the Job
in one request and goes with it. Connections and variables of the site may hold keys, so they are no part of the Job:
they lie in a Secret of the Job's name that the Job owns.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.engine.compute.errors import JobNotStarted
from holdfast.engine.compute.interface import JobSpec
from holdfast.engine.compute.remote import command_elsewhere, service_name, with_heartbeat
from holdfast.engine.config.compute import Kubernetes

CONTAINER = "trainer"
TOPOLOGY_FOLDER, TOPOLOGY_FILE = "/etc/holdfast", "topology.yaml"
#: From SIGTERM to SIGKILL when the cluster takes the pod away; `stop` gives its own grace.
TERMINATION_GRACE_SECONDS = 30
JOB_LABEL, ATTEMPT_LABEL, UID_LABEL = "holdfast.io/job", "holdfast.io/attempt", "batch.kubernetes.io/controller-uid"
#: Whose job it is: a digest of the site's bucket.
BUCKET_LABEL = "holdfast.io/bucket"
#: Of a Job on capacity that may be taken away, whatever the site calls such nodes by then.
SPOT_LABEL = "holdfast.io/spot"
JOB_ANNOTATION = "holdfast.io/job-name"
TOPOLOGY_ANNOTATION = "holdfast.io/topology"
KUEUE_LABEL = "kueue.x-k8s.io/queue-name"
MACHINE_LABEL = "node.kubernetes.io/instance-type"

#: A Job's name becomes a label value of its pods.
_NAME_LIMIT = 63
#: All annotations of an object together (Kubernetes: TotalAnnotationSizeLimitB); the rest is for our other ones.
_TOPOLOGY_BYTES = 256 * 1024 - 4096
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def job_name(name: str, attempt: int, bucket: str) -> str:
    """The Job's name: the same for whoever submits this attempt, so the API refuses the second.

    Args:
        bucket: the digest of the site's bucket: two installations may share a namespace.
    """
    return service_name(f"{name}.{bucket}", attempt, limit=_NAME_LIMIT)


def job_selector(name: str, bucket: str) -> str:
    """The label selector of a job's attempts, Jobs and pods."""
    return f"{JOB_LABEL}={label_value(name)},{BUCKET_LABEL}={bucket}"


def label_value(text: str) -> str:
    """The text where it is a label value, else a readable part and a digest of the whole."""
    if _LABEL.fullmatch(text):
        return text
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:50].strip("._-")
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("-")


def job_manifest(
    spec: JobSpec,
    attempt: int,
    *,
    settings: Kubernetes,
    topology: Path,
    has_environment: bool,
    bucket: str,
) -> dict[str, Any]:
    """The Job of an attempt.

    Args:
        bucket: see `job_name`.
        topology: the file whose text the container gets.
        has_environment: whether a Secret of the Job's name will hold the site's own environment.

    Raises:
        JobNotStarted: the topology is too long, or spot is asked of a site without ``spot_node_selector``.
    """
    labels = {
        "app.kubernetes.io/managed-by": "holdfast",
        JOB_LABEL: label_value(spec.name),
        ATTEMPT_LABEL: str(attempt),
        BUCKET_LABEL: bucket,
        "holdfast.io/run": label_value(spec.run),
        "holdfast.io/epoch": str(spec.epoch),
        "holdfast.io/site": label_value(spec.site),
        **({SPOT_LABEL: "true"} if spec.spot else {}),
    }
    annotations = {
        JOB_ANNOTATION: spec.name,
        "holdfast.io/run-name": spec.run,
    }
    secret = job_name(spec.name, attempt, bucket) if has_environment else None
    queue = {KUEUE_LABEL: settings.kueue_queue} if settings.kueue_queue else {}
    body: dict[str, Any] = {
        # One failure ends the attempt: another attempt is the orchestrator's to start, with its own heartbeat.
        "backoffLimit": 0,
        "parallelism": 1,
        "completions": 1,
        # A pod that is replaced (Kueue took the Job's place and gave it back) is dead before the next one begins.
        "podReplacementPolicy": "Failed",
        "suspend": settings.kueue_queue is not None,
        "template": {
            "metadata": {"labels": labels, "annotations": {**annotations, TOPOLOGY_ANNOTATION: _text(topology, spec)}},
            "spec": _pod(spec, attempt, settings, topology, secret),
        },
    }
    if settings.active_deadline_seconds is not None:
        body["activeDeadlineSeconds"] = settings.active_deadline_seconds
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(spec.name, attempt, bucket),
            "namespace": settings.namespace,
            "labels": {**labels, **queue},
            "annotations": annotations,
        },
        "spec": body,
    }


def environment_secret(job: Any, environ: Mapping[str, str]) -> dict[str, Any]:
    """The Secret with the site's own environment; it goes when its Job goes.

    Args:
        job: the V1Job that owns it.
    """
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job.metadata.name, "uid": job.metadata.uid}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": job.metadata.name,
            "namespace": job.metadata.namespace,
            "labels": {"app.kubernetes.io/managed-by": "holdfast"},
            "ownerReferences": [owner],
        },
        "stringData": dict(environ),
    }


def _pod(spec: JobSpec, attempt: int, settings: Kubernetes, topology: Path, secret: str | None) -> dict[str, Any]:
    contract = {**with_heartbeat(spec, attempt), "HOLDFAST_TOPOLOGY": f"{TOPOLOGY_FOLDER}/{TOPOLOGY_FILE}"}
    # Of two sources with one name the later counts: what the cluster's own Secrets say stands over ours.
    own = [secret] if secret is not None else []
    container = {
        "name": CONTAINER,
        "image": settings.image,
        "command": [_literal(word) for word in command_elsewhere(spec.command, topology.parent)],
        "env": [{"name": name, "value": _literal(value)} for name, value in sorted(contract.items())],
        "envFrom": [{"secretRef": {"name": name}} for name in (*own, *settings.secrets)],
        "resources": {"requests": dict(settings.requests), "limits": dict(settings.limits)},
        # The end of the log of a failed container is then in its status, and lives as long as the Job.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "topology", "mountPath": TOPOLOGY_FOLDER, "readOnly": True}],
    }
    spot = _spot(spec, settings)
    machine = {MACHINE_LABEL: spec.machine} if spec.machine is not None else {}
    shown = {"path": TOPOLOGY_FILE, "fieldRef": {"fieldPath": f"metadata.annotations['{TOPOLOGY_ANNOTATION}']"}}
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        # A trainer asks the cluster's API nothing.
        "automountServiceAccountToken": False,
        "containers": [container],
        "nodeSelector": {**settings.node_selector, **spot, **machine},
        # Spare nodes of AKS and GKE carry their label as a taint too; a toleration without such a taint does nothing.
        "tolerations": [
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"} for key, value in spot.items()
        ],
        "volumes": [{"name": "topology", "downwardAPI": {"items": [shown]}}],
    }
    if settings.service_account is not None:
        pod["serviceAccountName"] = settings.service_account
    return pod


def _literal(text: str) -> str:
    """Kubernetes puts variables in for ``$(NAME)`` in commands and values; ``$$`` stands for a dollar."""
    return text.replace("$", "$$")


def _text(topology: Path, spec: JobSpec) -> str:
    text = topology.read_text(encoding="utf-8")
    size_bytes = len(text.encode())
    if size_bytes > _TOPOLOGY_BYTES:
        raise JobNotStarted(
            "the topology is too long for a pod's annotations",
            where=f"{spec.site}: {topology.name}",
            expected=f"at most {_TOPOLOGY_BYTES} bytes",
            found=f"{size_bytes} bytes",
        )
    return text


def _spot(spec: JobSpec, settings: Kubernetes) -> dict[str, str]:
    if not spec.spot:
        return {}
    if not settings.spot_node_selector:
        raise JobNotStarted(
            "spot capacity is asked for and the site does not say which nodes that are",
            where=f"sites.{spec.site}.compute.kubernetes",
            expected="spot_node_selector, e.g. `cloud.google.com/gke-spot: 'true'`",
            found="nothing",
        )
    return dict(settings.spot_node_selector)
