"""What a Job and its pods say of an attempt. A Job that exists has ended only when its own conditions say so.

Read from the Kubernetes documentation: Jobs (conditions, pod replacement), Pod lifecycle (phases, container states),
Disruptions (the DisruptionTarget condition).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from holdfast.engine.compute.interface import FENCED_EXIT_CODE, JobState
from holdfast.engine.compute.kubernetes_job import CONTAINER
from holdfast.engine.compute.remote import ended_by_code

#: Reasons of a failed pod whose machine, or whose place on it, was taken away: kubelet, scheduler, node shutdown.
_TAKEN = frozenset({"Evicted", "Preempting", "Preempted", "NodeShutdown", "Shutdown", "Terminated", "NodeLost"})
_DETAIL_CHARACTERS = 500

#: Seconds a pod that has its node may wait for a reason before that is an end. A name that is none stays none; a Secret
#: may be made a moment after its Job, and a registry may be away. Other reasons are no end.
_CANNOT_BEGIN = {
    "InvalidImageName": 0.0,
    "CreateContainerConfigError": 120.0,
    "CreateContainerError": 600.0,
    "ErrImageNeverPull": 600.0,
    "ErrImagePull": 600.0,
    "ImageInspectError": 600.0,
    "ImagePullBackOff": 600.0,
    "RegistryUnavailable": 600.0,
}

State = tuple[JobState | None, str | None]


def may_write(pod: Any) -> bool:
    """Whether anything of the pod may live: a pod on a node that does not answer keeps its last phase, and counts."""
    return pod.status is None or pod.status.phase not in ("Succeeded", "Failed")


def is_over(job: Any) -> bool:
    """Whether the Job makes no pod any more."""
    return any(found.type in ("Complete", "Failed") and found.status == "True" for found in _conditions(job))


def state_of(job: Any | None, pods: list[Any], now: datetime | None = None) -> State:
    """How an attempt stands.

    Args:
        job: the attempt's V1Job; None: it is gone.
        pods: the V1Pods of the attempt that are still there.
        now: by this machine's clock, for how long a pod has waited by its cluster's; None: not to be judged.

    Returns:
        the state. FAILED also of a pod that lives and cannot begin: it must be stopped before another one is made;
        the state and a detail; the state None: it ended, and nothing in the cluster says how.
    """
    alive = [pod for pod in pods if may_write(pod)]
    if alive:
        state, detail = _living(_newest(alive), now)
        return state, detail or (None if job is not None else "its Job is gone; a pod of it lives on")
    if job is None:
        return None, "its Job is gone from the cluster"
    if is_over(job):
        return _ended(job, pods)
    return _between(job, pods)


def exit_of(pod: Any) -> Any | None:
    """The V1ContainerStateTerminated of the trainer's container, None while it has not ended."""
    for container in (pod.status and pod.status.container_statuses) or []:
        if container.name == CONTAINER and container.state is not None:
            return container.state.terminated
    return None


def _living(pod: Any, now: datetime | None) -> State:
    phase = pod.status.phase if pod.status is not None else None
    if pod.metadata.deletion_timestamp is not None:
        return JobState.RUNNING, "its pod is being deleted, and may write until it is gone"
    if phase == "Pending":
        return JobState.FAILED if _cannot_begin(pod, now) else JobState.PENDING, _why_waiting(pod)
    if phase == "Running":
        ready = _condition(pod, "Ready")
        silent = ready is not None and (ready.status == "Unknown" or ready.reason == "NodeStatusUnknown")
        return JobState.RUNNING, "its node does not answer; whether it lives is not known" if silent else None
    return JobState.RUNNING, f"its pod's phase is {phase}; whether it lives is not known"


def _cannot_begin(pod: Any, now: datetime | None) -> bool:
    waiting = _waiting(pod)
    bound = _CANNOT_BEGIN.get(waiting.reason) if waiting is not None else None
    if not bound:
        return bound is not None
    scheduled = _condition(pod, "PodScheduled")
    since = scheduled.last_transition_time if scheduled is not None and scheduled.status == "True" else None
    return now is not None and since is not None and (now - since).total_seconds() >= bound


def _waiting(pod: Any) -> Any | None:
    """The V1ContainerStateWaiting of the trainer's container."""
    for container in pod.status.container_statuses or []:
        if container.name == CONTAINER and container.state is not None:
            return container.state.waiting
    return None


def _why_waiting(pod: Any) -> str | None:
    scheduled = _condition(pod, "PodScheduled")
    if scheduled is not None and scheduled.status == "False":
        return _said(scheduled)
    waiting = _waiting(pod)
    return _said(waiting) if waiting is not None else None


def _between(job: Any, pods: list[Any]) -> State:
    """No pod lives and the Job goes on: suspended, before its first pod, or before its last one is counted."""
    if job.metadata.deletion_timestamp is not None:
        return JobState.RUNNING, "its Job is being deleted"
    if job.spec.suspend:
        queue = (job.metadata.labels or {}).get("kueue.x-k8s.io/queue-name")
        by = f"Kueue's queue {queue} has not let it in" if queue else "somebody suspended it"
        return JobState.PENDING, f"suspended: {by}"
    if pods:
        return JobState.RUNNING, "its pod has ended; the cluster has not counted it yet"
    return JobState.PENDING, "the cluster has made no pod of it yet"


def _ended(job: Any, pods: list[Any]) -> State:
    condition = next(found for found in _conditions(job) if found.type in ("Complete", "Failed"))
    if condition.type == "Complete":
        return JobState.SUCCEEDED, None
    said = _said(condition)
    if not pods:
        return (JobState.FAILED if condition.reason == "DeadlineExceeded" else None), said
    state, detail = _ended_pod(_newest(pods))
    if condition.reason == "DeadlineExceeded" and state is not JobState.FENCED:
        return JobState.FAILED, said
    return state, detail or said


def _ended_pod(pod: Any) -> State:
    ended, taken = exit_of(pod), _taken_away(pod)
    if ended is not None and ended.exit_code == FENCED_EXIT_CODE:
        return JobState.FENCED, None
    if taken is not None:
        return JobState.PREEMPTED, taken
    if ended is None:
        return None, _said(pod.status)
    if ended.reason == "OOMKilled":
        return JobState.FAILED, "OOMKilled: it used more memory than its limit"
    state = ended_by_code(ended.exit_code)
    if state is JobState.FAILED:
        return state, f"exit code {ended.exit_code}: {_said(ended)}"[:_DETAIL_CHARACTERS]
    return state, f"killed: exit code {ended.exit_code}" if state is JobState.LOST else None


def _taken_away(pod: Any) -> str | None:
    disrupted = _condition(pod, "DisruptionTarget")
    if disrupted is not None and disrupted.status == "True":
        return _said(disrupted)
    return _said(pod.status) if pod.status.reason in _TAKEN else None


def _conditions(job: Any) -> list[Any]:
    found = (job.status and job.status.conditions) or []
    return [condition for condition in found if condition.status == "True"]


def _condition(pod: Any, kind: str) -> Any | None:
    found = (pod.status and pod.status.conditions) or []
    return next((condition for condition in found if condition.type == kind), None)


def _newest(pods: list[Any]) -> Any:
    return max(pods, key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name))


def _said(what: Any) -> str | None:
    """Reason and message, as the cluster gives them."""
    words = [text for text in (what.reason, what.message) if text]
    return ": ".join(words)[:_DETAIL_CHARACTERS] or None
