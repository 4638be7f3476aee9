"""Who approved a live restore: a record at the group's active site, without which four eyes let nothing go on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound
from holdfast.engine.objectstore.interface import CREATE
from holdfast.engine.pipeline.vaults.opening import opened, require_own
from holdfast.engine.pipeline.vaults.restoring import live_candidate
from holdfast.engine.recovery import NeedsHuman
from holdfast.engine.recovery.four_eyes import require_four_eyes
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.backups import Backup

_FIX = "Start the DAG `restore_live`, or restore to a folder or a prefix"


class FourEyes(BaseModel):
    """The verdict: whether two people were required, and whether they were two (none: nobody asked)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    required: bool
    held: bool | None


class Approval(BaseModel):
    """One person's approval of one backup's live restore, in one epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["holdfast.approval/1"] = "holdfast.approval/1"
    request: str
    group: str
    vault: str
    source: str
    backup: str
    entry: int = Field(ge=0)
    site: str
    epoch: int = Field(ge=1)
    reason: str
    asked_by: str | None
    approved_by: str
    four_eyes: FourEyes
    approved_at: datetime

    def labels(self) -> dict[str, str]:
        """For the snapshot that is published."""
        asked = {"asked_by": self.asked_by} if self.asked_by else {}
        return {"approved_by": self.approved_by, **asked}


def approve_restore(
    runtime: Runtime,
    group: str,
    vault: str,
    *,
    request: str,
    backup: str,
    source: str,
    reason: str,
    asked_by: str | None,
    approver: Sequence[str],
    vault_site: str | None = None,
) -> Approval:
    """Record that a person approves a live restore. Recorded already, the first approval is the one that counts.

    Args:
        request: what was asked, e.g. a DAG run; 1 to 64 characters of a key.
        backup: its name, as `question` gave it.
        asked_by: who asked; none: nobody, a schedule did.
        approver: the names of who approves, the one to be recorded first.
        vault_site: the mirror that was looked at.

    Raises:
        NeedsHuman: no name is given.
        SelfApproval: they are one person, and the group asks for four eyes. Nothing is recorded.
        HoldfastError: as `question`, or it could not be written.
    """
    from holdfast.engine.pipeline.active import require_active

    where = f"group {group}, request {request}"
    if not approver:
        raise NeedsHuman("nobody approved it", where=where, expected="approval by name", found="none")
    fix = "Let somebody else approve it: clear the task, which asks again"
    required = runtime.topology.group(group).four_eyes
    verdict = require_four_eyes(required, asked_by, approver, where=where, fix=fix)
    require_own(runtime, group, vault)
    found = opened(runtime, vault, "writer", site=vault_site)
    wanted = live_candidate(runtime, group, found, backup=backup, source=source, at=None)
    state = require_active(runtime, group)
    made = Approval(
        request=request,
        group=group,
        vault=vault,
        source=wanted.source,
        backup=wanted.backup_id,
        entry=wanted.sequence,
        site=state.active_site,
        epoch=state.epoch,
        reason=reason,
        asked_by=asked_by or None,
        approved_by=approver[0],
        four_eyes=FourEyes.model_validate(verdict),
        approved_at=runtime.clock.now(),
    )
    key, store = _key(group, request, state, wanted), runtime.store(state.active_site)
    try:
        store.put(key, made.model_dump_json().encode(), mode=CREATE, content_type="application/json")
    except ObjectExists:
        return _read(store.get(key), key)
    return made


def recorded_approval(
    runtime: Runtime, group: str, vault: str, wanted: Backup, state: EpochState, *, request: str | None
) -> Approval | None:
    """What was recorded of this request, backup and epoch, if anything was.

    Raises:
        NeedsHuman: what is there is no approval.
    """
    if request is None:
        return None
    key = _key(group, request, state, wanted)
    try:
        found = _read(runtime.store(state.active_site).get(key), key)
    except ObjectNotFound:
        return None
    return found if (found.vault, found.backup) == (vault, wanted.backup_id) else None


def approval_of(
    runtime: Runtime, group: str, vault: str, wanted: Backup, state: EpochState, *, request: str | None
) -> Approval | None:
    """The approval of a live restore, ``None`` where there is none and none is needed.

    Raises:
        NeedsHuman: the group asks for four eyes, and of this request, backup and epoch there is no approval.
        SelfApproval: there is one, by the person who asked.
    """
    required = runtime.topology.group(group).four_eyes
    where = f"group {group}, backup {wanted.handle}"
    found = recorded_approval(runtime, group, vault, wanted, state, request=request)
    if required and found is None:
        raise NeedsHuman(
            "a second person has to approve a live restore",
            where=where,
            expected=f"an approval (four eyes) of this backup in epoch {state.epoch}",
            found="none" if request is None else f"none for {request}",
            fix=_FIX,
        )
    if found is not None:
        require_four_eyes(required, found.asked_by, [found.approved_by], where=where, fix=_FIX)
    return found


def _key(group: str, request: str, state: EpochState, wanted: Backup) -> str:
    return f"approvals/{group}/{request}/{state.epoch:06d}-{wanted.sequence:012d}.json"


def _read(data: bytes, key: str) -> Approval:
    try:
        return Approval.model_validate_json(data)
    except ValidationError as error:
        raise NeedsHuman("this is no approval", where=key, expected="holdfast.approval/1", found=str(error)) from None
