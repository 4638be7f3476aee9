"""Bring a committed checkpoint to another site: forks, blobs, read back, receipt, and the manifest last."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from holdfast.clock import Clock, SystemClock
from holdfast.engine.checkpoint.commit import commit_manifest, ensure_blob
from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.fork import copy_forks
from holdfast.engine.checkpoint.format import CheckpointManifest, blob_key, canonical, digest_of
from holdfast.engine.checkpoint.guard import AlwaysGranted, WriteGuard
from holdfast.engine.checkpoint.verify import blob_is_intact
from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound
from holdfast.engine.objectstore.interface import CREATE, ObjectStore

ReadBlob = Callable[[str], bytes]


class CheckpointReceipt(BaseModel):
    """Says that every blob of a checkpoint was read back and hashed at this site, as it lies in the store.

    Those it shares with the checkpoint before were read back for that one's receipt, where one process left both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["holdfast.checkpoint-receipt/1"] = "holdfast.checkpoint-receipt/1"
    run: str
    manifest: str
    step: int
    epoch: int
    site: str
    blobs: int
    size_bytes: int
    verified_at: datetime


def receipt_key(run: str, manifest_digest: str, site: str) -> str:
    return f"receipts/{run}/{manifest_digest.replace(':', '-')}/{site}.json"


def replicate_checkpoint(
    source: ObjectStore,
    target: ObjectStore,
    run: str,
    manifest: CheckpointManifest,
    *,
    site: str = "",
    clock: Clock | None = None,
    guard: WriteGuard | None = None,
    read_blob: ReadBlob | None = None,
    known: frozenset[str] = frozenset(),
) -> CheckpointReceipt:
    """Replicate one checkpoint; doing it again changes nothing.

    Args:
        site: the target's name, for the receipt; by default the store's name.
        read_blob: where blobs come from, by digest; by default the source store. The writer itself hands over what
            it still has in memory, which also works while the source is failing.
        known: digests of blobs that the caller itself had read back at the target and that a manifest there has named
            since; they are not read once more. A store that fails or loses anything ends that knowledge.

    Raises:
        CheckpointUnreadable: a blob is damaged at the source, or did not read back at the target.
        Fenced: the epoch ended while it was copied; no manifest was written.
        Refused: the target knows another history of this run.
        ObjectStoreError: a store did not answer.
    """
    read = read_blob or (lambda digest: source.get(blob_key(run, digest)))
    copy_forks(source, target, run)
    for name, reference in manifest.blobs.items():
        if reference.digest in known or blob_is_intact(target, run, reference.digest):
            continue
        data = _read(read, name, reference.digest, source)
        ensure_blob(target, run, reference.digest, data)
        if not blob_is_intact(target, run, reference.digest):
            raise CheckpointUnreadable(
                "a replicated blob does not read back",
                where=f"{target.name}: {name}",
                expected=reference.digest,
                found="other bytes",
            )
    # The receipt says only that the blobs are there; without the manifest after it nothing is selected.
    receipt = _leave_receipt(target, run, manifest, site or target.name, clock or SystemClock())
    commit_manifest(target, manifest, guard=guard or AlwaysGranted())
    return receipt


def read_checkpoint_receipt(store: ObjectStore, run: str, manifest_digest: str, site: str) -> CheckpointReceipt | None:
    try:
        return CheckpointReceipt.model_validate_json(store.get(receipt_key(run, manifest_digest, site)))
    except ObjectNotFound:
        return None


def _read(read: ReadBlob, name: str, digest: str, source: ObjectStore) -> bytes:
    try:
        data = read(digest)
    except ObjectNotFound:
        raise CheckpointUnreadable(
            "a blob to replicate is missing", where=f"{source.name}: {name}", expected=digest, found="nothing"
        ) from None
    if digest_of(data) != digest:
        raise CheckpointUnreadable(
            "a blob to replicate is damaged", where=f"{source.name}: {name}", expected=digest, found=digest_of(data)
        )
    return data


def _leave_receipt(
    target: ObjectStore, run: str, manifest: CheckpointManifest, site: str, clock: Clock
) -> CheckpointReceipt:
    receipt = CheckpointReceipt(
        run=run,
        manifest=manifest.digest,
        step=manifest.step,
        epoch=manifest.epoch,
        site=site,
        blobs=len(manifest.blobs),
        size_bytes=manifest.size_bytes,
        verified_at=clock.now(),
    )
    try:
        target.put(
            receipt_key(run, manifest.digest, site),
            canonical(receipt.model_dump(mode="json")),
            mode=CREATE,
            content_type="application/json",
        )
    except ObjectExists:
        return read_checkpoint_receipt(target, run, manifest.digest, site) or receipt
    return receipt
