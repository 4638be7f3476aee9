"""Reading a checkpoint's state back: each blob checked against its digest as it is used, one at a time in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.format import CheckpointManifest, blob_key, digest_of
from holdfast.engine.checkpoint.state import TrainingState
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore


class StoredBlobs(Mapping[str, bytes]):
    """The blobs of a manifest, by name, read when they are asked for and not kept.

    Raises, on access:
        CheckpointUnreadable: a blob is missing, or its bytes are not those the manifest names.
    """

    def __init__(self, store: ObjectStore, manifest: CheckpointManifest) -> None:
        self._store = store
        self._manifest = manifest

    def __getitem__(self, name: str) -> bytes:
        reference = self._manifest.blobs[name]
        key = blob_key(self._manifest.run, reference.digest)
        try:
            data = self._store.get(key)
        except ObjectNotFound:
            found = "nothing"
        else:
            found = digest_of(data)
            if found == reference.digest:
                return data
        raise CheckpointUnreadable(
            "a blob changed after it was verified",
            where=f"{self._store.name}: {key}",
            expected=reference.digest,
            found=found,
            fix="Resume again: the newest older checkpoint that is intact is elected then",
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._manifest.blobs)

    def __len__(self) -> int:
        return len(self._manifest.blobs)


def load_state(store: ObjectStore, manifest: CheckpointManifest) -> TrainingState:
    """A checkpoint's state. Its blobs are read as they are used; reading one raises CheckpointUnreadable."""
    return TrainingState(StoredBlobs(store, manifest), dict(manifest.state), manifest.model)
