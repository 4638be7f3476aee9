"""What a Vertex AI custom job is asked to be, and what it says of itself. Knows no SDK: jobs are the API's own JSON."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from holdfast.engine.compute.container import ENTRYPOINT, packed_environment
from holdfast.engine.compute.interface import FINAL, JobSpec, JobState
from holdfast.engine.compute.opening import Opening
from holdfast.engine.compute.remote import ended_by_code, ended_by_heartbeat, with_heartbeat
from holdfast.engine.config.compute import Vertex

#: Labels by which a job is found again. Their values are digits, lower-case letters and dashes, at most 63.
JOB_LABEL, ATTEMPT_LABEL = "holdfast_job", "holdfast_attempt"
#: After these nothing of the job lives.
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED"})
#: Vertex AI takes 100 variables (ContainerSpec.env); for the length of a value it states no limit, so this is ours.
_ENTRY_LIMIT, _VALUE_LIMIT = 100, 8192
#: Of google.rpc.Code.
_RESOURCE_EXHAUSTED, _SERVICE_FAILED = 8, (13, 14)
_NO_CAPACITY = re.compile(r"stockout|insufficient|resources? (?:are|is) (?:currently )?(?:un|not )available", re.I)
_TAKEN_AWAY = re.compile(r"preempt", re.I)
_EXIT_CODE = re.compile(r"non-zero (?:exit )?(?:status|code)(?: code)?(?: of)? (\d{1,3})\b", re.I)


def job_label(name: str, bucket: str) -> str:
    """Which job this is, for a filter: two jobs, or the same job of two buckets, never share it."""
    return hashlib.sha256(f"{bucket}\n{name}".encode()).hexdigest()[:40]


def request(opening: Opening, settings: Vertex, spec: JobSpec, label: str, attempt: int) -> dict[str, Any]:
    """The CustomJob in the API's fields. Raises JobNotStarted: the environment does not fit."""
    environment = packed_environment(
        {**opening.environ, **with_heartbeat(spec, attempt)},
        spec.command,
        opening.topology.path,
        value_limit=_VALUE_LIMIT,
        entry_limit=_ENTRY_LIMIT,
        where=f"{opening.site_name}: {spec.name}",
    )
    machine: dict[str, Any] = {"machine_type": spec.machine or settings.machine}
    if settings.accelerator and settings.accelerators:
        machine |= {"accelerator_type": settings.accelerator, "accelerator_count": settings.accelerators}
    worker = {
        "machine_spec": machine,
        "replica_count": 1,
        "container_spec": {
            "image_uri": settings.image,
            "command": list(ENTRYPOINT),
            "env": [{"name": name, "value": value} for name, value in sorted(environment.items())],
        },
    }
    asked: dict[str, Any] = {
        "worker_pool_specs": [worker],
        "scheduling": {
            "timeout": {"seconds": settings.timeout_seconds},
            "strategy": "SPOT" if spec.spot else "STANDARD",
            # An end is an end: the next attempt elects its checkpoint anew and has a heartbeat of its own.
            "disable_retries": True,
        },
    }
    if settings.service_account:
        asked["service_account"] = settings.service_account
    if settings.network:
        asked["network"] = settings.network
    if settings.staging_bucket:
        bucket = settings.staging_bucket.removeprefix("gs://").rstrip("/")
        asked["base_output_directory"] = {"output_uri_prefix": f"gs://{bucket}/{spec.name}.a{attempt}"}
    return {
        "display_name": f"{spec.name}.a{attempt}"[:128],
        "job_spec": asked,
        "labels": {
            JOB_LABEL: label,
            ATTEMPT_LABEL: str(attempt),
            "holdfast_run": _label(spec.run),
            "holdfast_epoch": str(spec.epoch),
        },
    }


def state_of(
    state: str, error_code: int, error: str, beat: Mapping[str, Any] | None, *, started: bool
) -> tuple[JobState, str | None]:
    """A job's state and what is to be said of it.

    Args:
        state: the job's JobState without its ``JOB_STATE_``.
        error_code, error: the job's google.rpc.Status; 0 and empty when it has none.
        beat: the attempt's last heartbeat.
        started: whether the job ever had a machine.
    """
    if state == "SUCCEEDED":
        return JobState.SUCCEEDED, None
    if state in ("FAILED", "PARTIALLY_SUCCEEDED"):
        return _failed(error_code, error, beat, started=started), error or state.lower()
    if state == "EXPIRED":
        return ended_by_heartbeat(beat) or JobState.LOST, error or "its timeout is over"
    if state == "CANCELLED":
        return ended_by_heartbeat(beat) or JobState.LOST, error or "it was cancelled"
    if state in ("RUNNING", "CANCELLING", "UPDATING"):
        return JobState.RUNNING, None if state == "RUNNING" else state.lower()
    return JobState.PENDING, state.lower()


def _failed(error_code: int, error: str, beat: Mapping[str, Any] | None, *, started: bool) -> JobState:
    code = _EXIT_CODE.search(error)
    ended = ended_by_code(int(code[1])) if code is not None else ended_by_heartbeat(beat)
    if _TAKEN_AWAY.search(error):
        return ended if ended in FINAL and ended is not None else JobState.PREEMPTED
    if ended is not None:
        return ended
    if not started and beat is None and (error_code == _RESOURCE_EXHAUSTED or _NO_CAPACITY.search(error)):
        return JobState.NO_CAPACITY
    return JobState.LOST if error_code in _SERVICE_FAILED else JobState.FAILED


def _label(value: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", value.lower())[:63]
