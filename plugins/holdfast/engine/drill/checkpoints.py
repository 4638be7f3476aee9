"""Every committed checkpoint of a run in a bucket, whatever its lineage."""

from __future__ import annotations

from holdfast.engine.checkpoint import CheckpointManifest, CheckpointUnreadable
from holdfast.engine.checkpoint.format import manifest_prefix, parse_manifest, parse_manifest_key
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore


def list_checkpoints(store: ObjectStore, run: str) -> list[CheckpointManifest]:
    """The manifests that can be read, by step and epoch."""
    found = []
    for info in store.list(manifest_prefix(run)):
        if parse_manifest_key(info.key) is None:
            continue
        try:
            found.append(parse_manifest(store.get(info.key), where=info.key))
        except (CheckpointUnreadable, ObjectNotFound):
            continue
    return found
