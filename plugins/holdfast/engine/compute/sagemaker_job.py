"""What a SageMaker training job is asked to be, and what its description says. Knows no SDK."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from holdfast.engine.compute.container import ENTRYPOINT, packed_environment
from holdfast.engine.compute.interface import FINAL, JobSpec, JobState
from holdfast.engine.compute.opening import Opening
from holdfast.engine.compute.remote import ended_by_code, ended_by_heartbeat, service_name, with_heartbeat
from holdfast.engine.config.compute import SageMaker

#: Limits of CreateTrainingJob: TrainingJobName, TrainingEnvironmentMap and its values.
_NAME_LIMIT, _ENTRY_LIMIT, _VALUE_LIMIT = 63, 100, 512
#: Digits an attempt's number may have.
_DIGITS = 5
#: After these nothing of the job lives.
TERMINAL = frozenset({"Completed", "Failed", "Stopped"})
_NO_CAPACITY = re.compile(r"CapacityError|InsufficientCapacity|Unable to provision requested ML compute", re.IGNORECASE)
_SPOT_LOST = re.compile(r"spot\b.*\b(interrupt|reclaim|terminat)|\binterrupted\b.*\bspot\b", re.IGNORECASE)
_EXIT_CODE = re.compile(r"exit\s*code:?\s*(\d{1,3})\b", re.IGNORECASE)


def name_stem(name: str, bucket: str) -> str:
    """What the names of all attempts of a job begin with; a bucket's jobs are its own, also in a shared account."""
    salted = f"{name}.{hashlib.sha256(bucket.encode()).hexdigest()[:6]}"
    return service_name(salted, 0, limit=_NAME_LIMIT - _DIGITS + 1).removesuffix("0")


def attempt_of(training_job: str, stem: str) -> int | None:
    """The attempt a training job's name tells; None when it is another job's."""
    ending = training_job.removeprefix(stem)
    return int(ending) if ending != training_job and re.fullmatch(r"[1-9]\d{0,4}", ending) else None


def request(opening: Opening, settings: SageMaker, spec: JobSpec, training_job: str, attempt: int) -> dict[str, Any]:
    """The arguments of CreateTrainingJob. Raises JobNotStarted: the environment does not fit."""
    environment = packed_environment(
        {**opening.environ, **with_heartbeat(spec, attempt)},
        spec.command,
        opening.topology.path,
        value_limit=_VALUE_LIMIT,
        entry_limit=_ENTRY_LIMIT,
        where=f"{opening.site_name}: {spec.name}",
    )
    asked: dict[str, Any] = {
        "TrainingJobName": training_job,
        "RoleArn": settings.role_arn,
        "AlgorithmSpecification": {
            "TrainingImage": settings.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": list(ENTRYPOINT),
        },
        "OutputDataConfig": {"S3OutputPath": settings.output_path},
        "ResourceConfig": {
            "InstanceType": spec.machine or settings.machine,
            "InstanceCount": 1,
            "VolumeSizeInGB": settings.volume_gib,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": settings.max_runtime_seconds},
        "Environment": environment,
        "EnableManagedSpotTraining": spec.spot,
        "Tags": [
            {"Key": key, "Value": _tag(value)}
            for key, value in (
                ("holdfast:run", spec.run),
                ("holdfast:epoch", str(spec.epoch)),
                ("holdfast:attempt", str(attempt)),
                ("holdfast:site", opening.site_name),
            )
        ],
    }
    if spec.spot:
        # The service refuses a wait that is shorter than the runtime.
        wait = max(settings.max_wait_seconds, settings.max_runtime_seconds)
        asked["StoppingCondition"]["MaxWaitTimeInSeconds"] = wait
    if settings.subnets or settings.security_groups:
        asked["VpcConfig"] = {"Subnets": list(settings.subnets), "SecurityGroupIds": list(settings.security_groups)}
    return asked


def may_be_taken(job: Mapping[str, Any]) -> bool:
    """Whether a machine that was taken can be why the job ended: spot, and none of its own limits was reached."""
    limited = job.get("SecondaryStatus") in ("MaxRuntimeExceeded", "MaxWaitTimeExceeded")
    return bool(job.get("EnableManagedSpotTraining")) and not limited


def state_of(job: Mapping[str, Any], beat: Mapping[str, Any] | None) -> tuple[JobState, str | None]:
    """A job's state and what is to be said of it.

    An interrupted spot job that the service runs again is PENDING, one that it gave up PREEMPTED. The exit code of the
    trainer is in the failure's text or nowhere; where it is not, the heartbeat's own end decides.

    Args:
        job: the answer of DescribeTrainingJob.
        beat: the attempt's last heartbeat.
    """
    status, secondary = str(job["TrainingJobStatus"]), str(job.get("SecondaryStatus", ""))
    if status == "Completed":
        return JobState.SUCCEEDED, None
    reason = str(job.get("FailureReason", "")) or None
    if status == "Failed":
        return _failed(secondary, reason or "", beat), reason or f"{status}: {secondary}"
    if status == "Stopped":
        return _stopped(secondary, beat), reason or f"{status}: {secondary}"
    if status == "Deleting":
        return ended_by_heartbeat(beat) or JobState.LOST, "somebody deletes this job"
    if status == "Stopping" or secondary in ("Training", "Uploading", "Stopping"):
        return JobState.RUNNING, f"{status}: {secondary}" if status == "Stopping" else None
    if secondary == "Interrupted":
        return JobState.PENDING, "its spot machine was taken; SageMaker waits for another one"
    return JobState.PENDING, secondary or None


def _failed(secondary: str, reason: str, beat: Mapping[str, Any] | None) -> JobState:
    if _NO_CAPACITY.search(reason):
        return JobState.NO_CAPACITY
    code = _EXIT_CODE.search(reason)
    ended = ended_by_code(int(code[1])) if code is not None else ended_by_heartbeat(beat)
    if secondary == "Interrupted" or _SPOT_LOST.search(reason):
        return _taken(ended)
    if ended is not None:
        return ended
    return JobState.LOST if reason.startswith("InternalServerError") else JobState.FAILED


def _stopped(secondary: str, beat: Mapping[str, Any] | None) -> JobState:
    """A stopped job's exit code is nowhere: what it did on SIGTERM only its heartbeat tells."""
    ended = ended_by_heartbeat(beat)
    if secondary == "Interrupted":
        return _taken(ended)
    if secondary == "MaxWaitTimeExceeded" and beat is None:
        return JobState.NO_CAPACITY
    return ended or JobState.LOST


def _taken(ended: JobState | None) -> JobState:
    """Of a spot machine that was taken: a job that was done before is done; else the machine is what ended it."""
    return ended if ended in FINAL and ended is not None else JobState.PREEMPTED


def _tag(value: str) -> str:
    return re.sub(r"[^\w .:/=+\-@]", "_", value)[:256]
