"""Epochs in the lineage: what may be selected after the active site changed.

A store cannot refuse a write by epoch, so every commit names its epoch, and one create-only fork record per epoch
says which snapshot (or checkpoint) that epoch began from. Selectable are the items of the newest epoch, the item
its fork names, and that item's ancestors by parent links. What a stale writer commits afterwards is in no ancestry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Literal, Self, TypeVar
from uuid import uuid4

from pydantic import Field, ValidationError, model_validator

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.documents import Document, UtcTime, canonical
from holdfast.engine.snapshot.errors import CommitRecordDamaged, EpochUnknownHere, ForkConflict
from holdfast.engine.snapshot.once import create_or_read

_FORK = re.compile(r"^(\d{6,})\.json$")
_Item = TypeVar("_Item")


class EpochFork(Document):
    """Where an epoch of a dataset or run began. Written once, by the plan that committed the epoch."""

    format: Literal["holdfast.fork/1", "holdfast.fork/2"] = "holdfast.fork/1"
    subject: str = Field(description="The dataset, model or run.")
    epoch: int = Field(ge=1)
    parent_epoch: int | None = Field(description="The epoch it forked from; none: it began with nothing.")
    forked_from: str | None = Field(
        description="Snapshot id or checkpoint manifest digest; none: it began with nothing."
    )
    site: str
    plan_id: str | None
    holder: str
    reason: str
    created_at: UtcTime
    write_id: str
    ancestors: tuple[str, ...] = Field(
        default=(),
        description="Of a run: whom the checkpoint descends from, newest first, so that they are known without it.",
    )

    def to_json(self) -> bytes:
        """Without ancestors these are the bytes of version 1, which has no such member."""
        told = self.model_dump(mode="json", exclude=None if self.ancestors else {"ancestors"})
        return canonical(told)

    @model_validator(mode="after")
    def _ancestors_are_of_version_2(self) -> Self:
        if bool(self.ancestors) != (self.format == "holdfast.fork/2"):
            raise ValueError("ancestors are of holdfast.fork/2, which has some")
        return self


def fork_key(root: str, epoch: int) -> str:
    return f"{root}/epochs/{epoch:06d}.json"


def new_fork(
    subject: str,
    *,
    epoch: int,
    parent_epoch: int | None,
    forked_from: str | None,
    site: str,
    plan_id: str | None,
    holder: str,
    reason: str,
    created_at: datetime,
    write_id: str | None = None,
    ancestors: tuple[str, ...] = (),
) -> EpochFork:
    """An `EpochFork` with a fresh write id unless one is given."""
    return EpochFork(
        format="holdfast.fork/2" if ancestors else "holdfast.fork/1",
        subject=subject,
        epoch=epoch,
        parent_epoch=parent_epoch,
        forked_from=forked_from,
        site=site,
        plan_id=plan_id,
        holder=holder,
        reason=reason,
        created_at=created_at,
        write_id=write_id or uuid4().hex,
        ancestors=ancestors,
    )


def write_fork(store: ObjectStore, root: str, fork: EpochFork) -> EpochFork:
    """Write an epoch's fork record, create-only.

    Idempotent on the plan: when the same plan already wrote this epoch's fork, that one is returned and holds, even
    if the plan now would choose another item. **Go on with the returned fork**, not with the argument.

    Args:
        root: ``snapshots/<dataset>`` or ``runs/<run>``.

    Raises:
        ForkConflict: another plan wrote it.
        StoreUnavailable: it is not known whether it was written; call again with the same arguments.
    """
    key = fork_key(root, fork.epoch)
    there = _parse(store, key, create_or_read(store, key, fork.to_json(), content_type="application/json"))
    if there.write_id == fork.write_id or (there.plan_id is not None and there.plan_id == fork.plan_id):
        return there
    raise ForkConflict(
        "another plan already wrote where this epoch forked from",
        where=f"{store.name}: {key}",
        expected=f"plan {fork.plan_id}",
        found=f"plan {there.plan_id} by {there.holder}, forked from {there.forked_from}",
        fix="`holdfast authority show` names the plan that committed this epoch; only that one goes on",
    )


def read_fork(store: ObjectStore, root: str, epoch: int) -> EpochFork | None:
    """An epoch's fork record, ``None`` when this bucket has none. Raises CommitRecordDamaged."""
    key = fork_key(root, epoch)
    try:
        data = store.get(key)
    except ObjectNotFound:
        return None
    return _parse(store, key, data)


def read_forks(store: ObjectStore, root: str) -> list[EpochFork]:
    """Every fork record of a dataset or run, by epoch."""
    prefix = f"{root}/epochs/"
    keys = [info.key for info in store.list(prefix) if _FORK.match(info.key.removeprefix(prefix))]
    return sorted((_parse(store, key, store.get(key)) for key in keys), key=lambda fork: fork.epoch)


def require_fork(store: ObjectStore, root: str, epoch: int) -> EpochFork | None:
    """The fork of an epoch beyond the first; ``None`` for epoch 1, which needs none. Raises EpochUnknownHere."""
    if epoch <= 1:
        return None
    fork = read_fork(store, root, epoch)
    if fork is None:
        raise EpochUnknownHere(
            "this bucket does not know where the epoch forked from, so nothing in it may be selected",
            where=f"{store.name}: {root}",
            expected=f"the fork record {fork_key(root, epoch)}",
            found="nothing",
            fix="Run the plan's promote step for this site, or replicate from the active site: forks go first",
        )
    return fork


def ancestry(
    item_id: str | None, load: Callable[[str], _Item | None], parent: Callable[[_Item], str | None]
) -> Iterator[_Item]:
    """An item and its ancestors by parent links, newest first, as far as they are here."""
    seen: set[str] = set()
    while item_id is not None and item_id not in seen:
        seen.add(item_id)
        item = load(item_id)
        if item is None:
            return
        yield item
        item_id = parent(item)


def _parse(store: ObjectStore, key: str, data: bytes) -> EpochFork:
    try:
        fork = EpochFork.model_validate_json(data)
    except ValidationError as error:
        raise CommitRecordDamaged(
            "the fork record cannot be read",
            where=f"{store.name}: {key}",
            expected="a holdfast.fork/1 or /2 document",
            found=f"{error.error_count()} errors in it",
            fix="Copy the same key from another site of the group; its bytes are equal everywhere",
        ) from None
    if not key.endswith(f"/{fork.epoch:06d}.json"):
        raise CommitRecordDamaged(
            "the fork record names another epoch than its key",
            where=f"{store.name}: {key}",
            expected=key.rsplit("/", 1)[1],
            found=f"epoch {fork.epoch}",
            fix="Copy the same key from another site of the group",
        )
    return fork
