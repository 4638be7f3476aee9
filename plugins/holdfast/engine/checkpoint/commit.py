"""Make a checkpoint durable: blobs first, each create-only under its digest, the manifest last."""

from __future__ import annotations

import json
from collections.abc import Mapping

from holdfast.engine.checkpoint.errors import CheckpointUnreadable, Fenced, StepTaken
from holdfast.engine.checkpoint.format import FORMATS, CheckpointManifest, blob_key, parse_manifest
from holdfast.engine.checkpoint.guard import Permission, WriteGuard
from holdfast.engine.checkpoint.verify import blob_damage, blob_is_intact
from holdfast.engine.objectstore.errors import ObjectExists, StoreUnavailable
from holdfast.engine.objectstore.interface import CREATE, OVERWRITE, IfMatch, ObjectStore
from holdfast.errors import HoldfastError

_ANY_VERSION = FORMATS[0].rpartition("/")[0] + "/"


class WritesHeld(HoldfastError):
    """It is not known whether this epoch still counts; the checkpoint is kept and tried again."""

    transient = True


def require_permission(guard: WriteGuard, *, where: str, epoch: int) -> None:
    """Raises Fenced when the epoch is over, WritesHeld when that is not known."""
    permission = guard.permission()
    if permission is Permission.FENCED:
        raise Fenced(
            "this epoch is over; nothing was written",
            where=where,
            expected=f"epoch {epoch} to be the newest",
            found="a newer epoch",
            fix="The active site's job goes on from the elected checkpoint",
        )
    if permission is Permission.HELD:
        raise WritesHeld(
            "no majority of the authority answered within the fence time; nothing was written",
            where=where,
            fix="It is tried again as soon as a majority answers",
        )


def ensure_blob(store: ObjectStore, run: str, digest: str, data: bytes) -> None:
    """Have these bytes under their digest, whatever lay there.

    What exists is read back: a damaged blob would otherwise poison every later checkpoint with the same content.
    Putting right bytes over wrong ones is safe, the key allows only one content.
    """
    key = blob_key(run, digest)
    try:
        store.put(key, data, mode=CREATE)
    except ObjectExists:
        if not blob_is_intact(store, run, digest):
            store.put(key, data, mode=OVERWRITE)


def commit_manifest(store: ObjectStore, manifest: CheckpointManifest, *, guard: WriteGuard) -> CheckpointManifest:
    """Commit the checkpoint; its blobs must be there.

    Returns:
        The manifest that is now at the key: this one, or one of the same content that an earlier attempt or an
        earlier process of this epoch wrote, maybe with blobs encoded in another way.

    Raises:
        Fenced: the epoch is over.
        WritesHeld: not known whether it is.
        StepTaken: another content is committed for this step and epoch. What nobody can read is no content: it is
            written over, or a run whose last step it is could never end.
        ObjectStoreError: the store did not take it.
    """
    require_permission(guard, where=manifest.key, epoch=manifest.epoch)
    try:
        store.put(manifest.key, manifest.data, mode=CREATE, content_type="application/json")
        return manifest
    except ObjectExists:
        there = store.get(manifest.key)
    if there == manifest.data:  # our own write, whose answer was lost
        return manifest
    try:
        existing = parse_manifest(there, where=manifest.key)
    except CheckpointUnreadable as error:
        if _is_of_another_version(there):
            raise StepTaken(
                "a checkpoint manifest of another version has this key", where=manifest.key, found=str(error)
            ) from None
        return _write_over(store, manifest, there)
    if _content(existing) == _content(manifest) and _others_are_intact(store, existing, manifest):
        return existing
    raise StepTaken(
        "this step has another checkpoint of this epoch",
        where=manifest.key,
        expected=manifest.model_digest,
        found=existing.model_digest,
    )


def write_checkpoint(
    store: ObjectStore,
    manifest: CheckpointManifest,
    blobs: Mapping[str, bytes],
    *,
    guard: WriteGuard,
    intact: set[str] | None = None,
) -> CheckpointManifest:
    """Blobs, then manifest. ``intact`` remembers digests this process already has in the store."""
    known = intact if intact is not None else set()
    for name, reference in manifest.blobs.items():
        if reference.digest not in known:
            ensure_blob(store, manifest.run, reference.digest, blobs[name])
            known.add(reference.digest)
    return commit_manifest(store, manifest, guard=guard)


def _is_of_another_version(data: bytes) -> bool:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return False
    version = told.get("format") if isinstance(told, dict) else None
    return isinstance(version, str) and version.startswith(_ANY_VERSION) and version not in FORMATS


def _write_over(store: ObjectStore, manifest: CheckpointManifest, damaged: bytes) -> CheckpointManifest:
    """Put a manifest where unreadable bytes lie, once they were read twice and where the store can: only over them."""
    reader = store.open(manifest.key)
    if b"".join(reader) != damaged:
        raise StoreUnavailable(
            "a checkpoint manifest reads differently each time", where=f"{store.name}: {manifest.key}"
        )
    only_this = store.capabilities().compare_and_swap and reader.info.version is not None
    mode = IfMatch(reader.info.version) if only_this else OVERWRITE
    store.put(manifest.key, manifest.data, mode=mode, content_type="application/json")
    return manifest


def _content(manifest: CheckpointManifest) -> tuple[object, ...]:
    blobs = {name: (reference.content, reference.content_bytes) for name, reference in manifest.blobs.items()}
    return manifest.step, manifest.epoch, blobs, manifest.state, manifest.dataset_snapshot


def _others_are_intact(store: ObjectStore, existing: CheckpointManifest, ours: CheckpointManifest) -> bool:
    """Whether the blobs of a manifest that lie there in another form than ours are whole: nobody has written them."""
    written = {reference.digest for reference in ours.blobs.values()}
    return all(
        reference.digest in written or blob_damage(store, existing.run, name, reference) is None
        for name, reference in existing.blobs.items()
    )
