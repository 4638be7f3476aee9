"""What every backend of another machine shares: heartbeats in the site's bucket, claims, attempts, names.

A job of a cloud service cannot show a file. It is told ``HOLDFAST_HEARTBEAT=object:<key>`` and keeps that object in
the site's bucket current; whoever wants a checkpoint creates ``<key>.request`` beside it.

Not every service lets its caller name a job so that a second one of the name is refused. A *claim*, a create-only
object per attempt, decides there who submits; everyone else looks for what the claimant started.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast.engine.compute.errors import UnknownHandle
from holdfast.engine.compute.interface import (
    FENCED_EXIT_CODE,
    STOPPED_EXIT_CODE,
    JobSpec,
    JobState,
    JobStatus,
)
from holdfast.engine.config import Site
from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound
from holdfast.engine.objectstore.interface import CREATE, OVERWRITE, ObjectStore

HEARTBEAT_SCHEME = "object:"
REQUEST_SUFFIX = ".request"
#: Beside a claim, written for its date.
_ASKED = ".asked"
_CLAIM = re.compile(r"\.(\d{6})\.json$")
#: How a heartbeat's own last state reads as a job's.
_ENDS = {"finished": JobState.SUCCEEDED, "fenced": JobState.FENCED, "stopped": JobState.STOPPED}


def heartbeat_key(run: str, epoch: int, attempt: int) -> str:
    """Where attempt ``attempt`` of a run's job in an epoch keeps its heartbeat in its site's bucket."""
    return f"runs/{run}/heartbeats/{epoch:06d}.{attempt:06d}.json"


def run_and_epoch(name: str) -> tuple[str, int]:
    """What a job's name is made of (`JobSpec.name`). Raises UnknownHandle: it is none."""
    run, _, epoch = name.rpartition(".e")
    if not run or not epoch.isdecimal():
        raise UnknownHandle("this is no job's name", where=name, expected="<run>.e<epoch>", found=repr(name))
    return run, int(epoch)


def command_elsewhere(words: Iterable[str], beside: Path, *, python: str = "python") -> tuple[str, ...]:
    """A job's command as an image has it: its own python, and a file beside the topology below its working folder.

    Args:
        beside: the topology's folder.
        python: what stands for this machine's interpreter.
    """
    return tuple(_word_elsewhere(word, beside, python) for word in words)


def _word_elsewhere(word: str, beside: Path, python: str) -> str:
    if word == sys.executable:
        return python
    path = Path(word)
    return path.relative_to(beside).as_posix() if path.is_absolute() and path.is_relative_to(beside) else word


def with_heartbeat(spec: JobSpec, attempt: int) -> dict[str, str]:
    """The environment of the job, its heartbeat included."""
    key = heartbeat_key(spec.run, spec.epoch, attempt)
    return {**spec.environment, "HOLDFAST_HEARTBEAT": f"{HEARTBEAT_SCHEME}{key}"}


def read_heartbeat(store: ObjectStore, key: str) -> dict[str, Any] | None:
    """The heartbeat as the job wrote it; None before its first, or when it is not readable. Raises ObjectStoreError."""
    try:
        document = json.loads(store.get(key))
    except (ObjectNotFound, ValueError):
        return None
    return document if isinstance(document, dict) else None


def request_checkpoint(store: ObjectStore, key: str) -> None:
    """Ask the job that keeps this heartbeat for a checkpoint at its next step."""
    store.put(f"{key}{REQUEST_SUFFIX}", b"", mode=OVERWRITE)


def status_of(state: JobState, beat: Mapping[str, Any] | None, detail: str | None) -> JobStatus:
    """A job's status: what the service says of its state, and what the heartbeat says of its steps."""
    beat = beat or {}
    saving = beat.get("saving")
    trouble = beat.get("detail") or (saving.get("error") if isinstance(saving, dict) else None)
    return JobStatus(
        state,
        step=_count(beat.get("step")),
        total_steps=_count(beat.get("total_steps")),
        heartbeat_at=written_at(beat),
        detail=detail or (str(trouble) if trouble else None),
    )


def written_at(beat: Mapping[str, Any]) -> datetime | None:
    """When a heartbeat was written, by the job's clock; None where it tells no time that can be read."""
    try:
        return datetime.fromisoformat(beat["at"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _count(steps: Any) -> int | None:
    return steps if isinstance(steps, int) else None


def ended_by_code(exit_code: int) -> JobState:
    """How a training process that left with this code ended. 137 and 143 are a container's SIGKILL and SIGTERM."""
    if exit_code == 0:
        return JobState.SUCCEEDED
    if exit_code == FENCED_EXIT_CODE:
        return JobState.FENCED
    if exit_code == STOPPED_EXIT_CODE:
        return JobState.STOPPED
    return JobState.LOST if exit_code in (137, 143) else JobState.FAILED


def ended_by_heartbeat(beat: Mapping[str, Any] | None) -> JobState | None:
    """How the job says itself that it ended; None when it does not. For services that tell no exit code."""
    return _ENDS.get(str((beat or {}).get("state")))


def service_name(name: str, attempt: int, *, limit: int, separator: str = "-") -> str:
    """A deterministic name most services take: lower-case letters, digits and dashes, at most ``limit`` characters.

    Two job names never become one: where characters were replaced or cut, a digest of the whole name is in it.
    """
    plain = re.sub(r"[^a-z0-9]+", separator, name.lower()).strip(separator)
    ending = f"{separator}a{attempt}"
    if plain != name or len(plain) + len(ending) > limit:
        ending = f"{separator}{hashlib.sha256(name.encode()).hexdigest()[:8]}{ending}"
        plain = plain[: limit - len(ending)].rstrip(separator)
    return f"{plain}{ending}"


def bucket_digest(site: Site) -> str:
    """What tells one installation's jobs from another's in a place that both use: six digits of the bucket's digest."""
    return hashlib.sha256(f"{site.bucket}/{site.prefix}".encode()).hexdigest()[:6]


@dataclass(frozen=True, slots=True)
class Claim:
    """Who may submit an attempt."""

    attempt: int
    holder: str
    mine: bool


def claim_key(run: str, epoch: int, attempt: int) -> str:
    """Where the claim of an attempt lies in the site's bucket."""
    return f"runs/{run}/jobs/{epoch:06d}.{attempt:06d}.json"


def newest_claimed(store: ObjectStore, run: str, epoch: int) -> int:
    """The newest attempt anybody claimed; 0: none. Raises ObjectStoreError."""
    found = (_CLAIM.search(one.key) for one in store.list(f"runs/{run}/jobs/{epoch:06d}."))
    return max((int(one[1]) for one in found if one is not None), default=0)


def claim_age_seconds(store: ObjectStore, key: str) -> float:
    """How old a claim is by the store's own clock, whatever this machine's shows: by two of its times.

    Raises:
        ObjectNotFound: there is no such claim.
        ObjectStoreError: the bucket does not answer.
    """
    claimed_at = store.head(key).modified_at
    store.put(f"{key}{_ASKED}", b"", mode=OVERWRITE)
    return (store.head(f"{key}{_ASKED}").modified_at - claimed_at).total_seconds()


def claim_attempt(store: ObjectStore, spec: JobSpec, attempt: int, *, holder: str) -> Claim:
    """Claim an attempt, or learn who has it: of many claimants one wins, and claiming again changes nothing."""
    key = claim_key(spec.run, spec.epoch, attempt)
    document = json.dumps({"format": "holdfast.job-claim/1", "job": spec.name, "holder": holder}, sort_keys=True)
    with contextlib.suppress(ObjectExists):
        store.put(key, document.encode(), mode=CREATE, content_type="application/json")
    found = str(json.loads(store.get(key)).get("holder"))
    return Claim(attempt, found, found == holder)
