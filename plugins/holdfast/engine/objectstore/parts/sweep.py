"""Uploads nobody will finish: found by their age and dropped."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING

from holdfast.clock import Clock
from holdfast.engine.objectstore.interface import ObjectStore

if TYPE_CHECKING:
    from holdfast.engine.objectstore.parts.interface import Upload


def sweep_uploads(
    store: ObjectStore, prefix: str = "", *, older_than_seconds: float, clock: Clock, keep: Collection[str] = ()
) -> list[Upload]:
    """Abort the uploads under a prefix that were begun long ago and are not to be kept; returns them.

    Args:
        store: where to look; one without parts has none.
        prefix: of the keys; the caller names only what belongs to it.
        older_than_seconds: an upload younger than this is taken to be alive. Choose it far above the longest copy and
            the difference between the clocks of this host and the store.
        clock: says what time it is.
        keep: upload ids, as `begin` gave them, that are never aborted: those a journal names.
    """
    from holdfast.engine.objectstore.parts import part_store

    parts = part_store(store)
    if parts is None:
        return []
    latest = clock.now() - timedelta(seconds=older_than_seconds)
    orphans = [upload for upload in parts.uploads(prefix) if upload.started_at <= latest and not _kept(upload, keep)]
    for upload in orphans:
        parts.abort(upload)
    return orphans


def _kept(upload: Upload, keep: Collection[str]) -> bool:
    """Whether an id to keep is this upload's; Azure's listing knows only how it begins."""
    return any(wanted == upload.upload_id or wanted.startswith(f"{upload.upload_id}:") for wanted in keep)
