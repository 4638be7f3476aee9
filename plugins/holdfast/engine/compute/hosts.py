"""Which host has a process job, told in the site's bucket: workers of a site may have disks of their own.

A file lock keeps two writers apart that share a disk. Between two disks a claim does, as for every other backend::

    runs/<run>/jobs/<epoch:6>.<attempt:6>.json            create-only, before the process starts: whose it is
    runs/<run>/jobs/<epoch:6>.<attempt:6>.json.started    once it runs: its pid

Nobody can see from here whether a process of another disk lives. So while the newest claim is of an attempt that has
no folder here, nothing is started, unless the submitter knows that the attempt ended, or this is its host still and
its process is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast.engine.compute.beats import bucket_answers
from holdfast.engine.compute.errors import OnAnotherHost
from holdfast.engine.compute.interface import JobHandle, JobSpec
from holdfast.engine.compute.job import boot
from holdfast.engine.compute.processes import session_members
from holdfast.engine.compute.remote import claim_key, newest_claimed
from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore
from holdfast.engine.snapshot.once import create_or_read

#: In an attempt's folder: the id of the claim that is this folder's.
CLAIM_FILE = "claim"


class HostClaims:
    """The claims of a site's process jobs.

    Args:
        store: opens the site's bucket.
        site: for messages.
    """

    def __init__(self, store: Callable[[], ObjectStore], site: str) -> None:
        self._store, self._site = store, site

    def newest(self, spec: JobSpec, folder: Path) -> int:
        """The newest attempt anybody claimed; 0: none.

        Args:
            folder: the job's, on this disk.

        Raises:
            OnAnotherHost: it is not of this disk, and whether it lives is not known.
            ComputeUnavailable: the bucket does not answer.
        """
        with bucket_answers(spec.name):
            store = self._store()
            number = newest_claimed(store, spec.run, spec.epoch)
            if number <= (spec.after or 0):
                return number
            claim = _read(store, claim_key(spec.run, spec.epoch, number))
            # Without an id it is another kind of backend's: a site whose compute was changed within the epoch.
            if "id" in claim and claim["id"] != _claimed_here(_attempt(folder, number)):
                started = _read(store, f"{claim_key(spec.run, spec.epoch, number)}.started")
                if not _is_gone(claim, started):
                    raise self._elsewhere(spec, number, claim)
        return number

    def take(self, spec: JobSpec, attempt: Path, number: int) -> None:
        """Claim an attempt for its folder.

        Raises:
            OnAnotherHost: another disk has it; its folder here is removed.
            ComputeUnavailable: the bucket does not answer.
        """
        mine = uuid.uuid4().hex
        (attempt / CLAIM_FILE).write_text(mine, encoding="ascii")
        document = {
            "format": "holdfast.job-claim/1",
            "job": spec.name,
            "holder": _host(),
            "id": mine,
            "boot": boot(),
            "processes": _process_space(),
            "folder": str(attempt),
        }
        data = json.dumps(document, sort_keys=True).encode()
        with bucket_answers(spec.name):
            key = claim_key(spec.run, spec.epoch, number)
            stands = json.loads(create_or_read(self._store(), key, data, content_type="application/json"))
        if stands.get("id") != mine:
            (attempt / CLAIM_FILE).unlink()
            attempt.rmdir()
            raise self._elsewhere(spec, number, stands)

    def started(self, spec: JobSpec, handle: JobHandle) -> None:
        """Say which process it is. The job runs whether the bucket takes it or not."""
        facts = {key: handle.reference[key] for key in ("pid", "started") if key in handle.reference}
        with contextlib.suppress(ObjectStoreError):
            self._store().put(
                f"{claim_key(spec.run, spec.epoch, handle.attempt)}.started",
                json.dumps(facts, sort_keys=True).encode(),
                mode=OVERWRITE,
                content_type="application/json",
            )

    def _elsewhere(self, spec: JobSpec, number: int, claim: Mapping[str, Any]) -> OnAnotherHost:
        host, where = claim.get("holder", "an unknown host"), claim.get("folder", "an unknown folder")
        return OnAnotherHost(
            "this job was started on another disk and cannot be seen from here; no second one was started",
            where=f"{self._site}: {spec.name}",
            expected=f"the folder of attempt {number} on this host",
            found=f"{where} on {host}",
            fix=f"Ask on {host}; only if that host, or its disk, is gone for good: delete "
            f"{claim_key(spec.run, spec.epoch, number)} from the bucket of {self._site}",
        )


def _attempt(folder: Path, number: int) -> Path:
    return folder / f"attempt-{number:06d}"


def _claimed_here(attempt: Path) -> str | None:
    try:
        return (attempt / CLAIM_FILE).read_text(encoding="ascii")
    except FileNotFoundError:
        return None


def _read(store: ObjectStore, key: str) -> dict[str, Any]:
    try:
        document = json.loads(store.get(key))
    except (ObjectNotFound, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _is_gone(claim: Mapping[str, Any], started: Mapping[str, Any]) -> bool:
    """Whether the claim is of this host, as it runs now, and its process is gone: the disk was emptied beneath it."""
    here = (_host(), boot(), _process_space())
    if not all(here) or (claim.get("holder"), claim.get("boot"), claim.get("processes")) != here:
        return False
    return "pid" in started and not session_members(int(started["pid"]), str(started.get("started")), boot())


def _host() -> str:
    return os.uname().nodename


def _process_space() -> str:
    """Which processes are seen here: two containers of one name and kernel may not see each other's."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
