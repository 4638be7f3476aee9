"""Reading a checkpoint's state back: each blob checked against its digests as it is used, one at a time in memory."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping

from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.format import BlobRef, CheckpointManifest, blob_key, digest_of
from holdfast.engine.checkpoint.state import TrainingState
from holdfast.engine.checkpoint.verify import content
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore


class StoredBlobs(Mapping[str, bytes]):
    """The plain blobs of a manifest, by name, read when they are asked for and not kept.

    An encoded blob is decoded as it comes: in memory is its content, not its stored form, and a few mebibytes.

    Raises, on access:
        CheckpointUnreadable: a blob is missing, or its bytes are not those the manifest names.
        ConfigError: it is encoded, and what decodes it is not installed here.
    """

    def __init__(self, store: ObjectStore, manifest: CheckpointManifest) -> None:
        self._store = store
        self._manifest = manifest

    def __getitem__(self, name: str) -> bytes:
        reference = self._manifest.blobs[name]
        key = blob_key(self._manifest.run, reference.digest)
        try:
            return self._plain(reference) if reference.encoding is None else self._decoded(reference)
        except ObjectNotFound:
            wrong = reference.digest, "nothing"
        except CheckpointUnreadable as error:
            wrong = error.expected or reference.digest, f"{error.found} ({error.what})"
        raise CheckpointUnreadable(
            "a blob changed after it was verified",
            where=f"{self._store.name}: {key}",
            expected=wrong[0],
            found=wrong[1],
            fix="Resume again: the newest older checkpoint that is intact is elected then",
        )

    def _plain(self, reference: BlobRef) -> bytes:
        data = self._store.get(blob_key(self._manifest.run, reference.digest))
        if (found := digest_of(data)) != reference.digest:
            raise CheckpointUnreadable("other bytes", expected=reference.digest, found=found)
        return data

    def _decoded(self, reference: BlobRef) -> bytes:
        plain = io.BytesIO()
        for block in content(self._store, self._manifest.run, reference):
            plain.write(block)
        return plain.getvalue()

    def __iter__(self) -> Iterator[str]:
        return iter(self._manifest.blobs)

    def __len__(self) -> int:
        return len(self._manifest.blobs)


def load_state(store: ObjectStore, manifest: CheckpointManifest) -> TrainingState:
    """A checkpoint's state. Its blobs are read as they are used; reading one raises CheckpointUnreadable."""
    return TrainingState(StoredBlobs(store, manifest), dict(manifest.state), manifest.model)
