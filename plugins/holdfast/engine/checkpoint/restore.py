"""Reading a checkpoint's state back: each blob checked against its digests as it is used, one at a time in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from holdfast.engine.checkpoint.cgroup import memory_left_bytes
from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.format import CheckpointManifest, blob_key
from holdfast.engine.checkpoint.state import TrainingState
from holdfast.engine.checkpoint.verify import KeptBlobs, read_content, space_for
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore


class StoredBlobs(Mapping[str, bytes]):
    """The plain blobs of a manifest, by name, read when they are asked for and not kept.

    An encoded blob is decoded as it comes: in memory is its content, not its stored form, and a few mebibytes.

    Args:
        kept: contents that were verified just now; each is handed out once, and after that read again.

    Raises, on access:
        CheckpointUnreadable: a blob is missing, or its bytes are not those the manifest names.
        ConfigError: it is encoded, and what decodes it is not installed here.
    """

    def __init__(self, store: ObjectStore, manifest: CheckpointManifest, *, kept: KeptBlobs | None = None) -> None:
        self._store = store
        self._manifest = manifest
        self._kept = kept

    def __getitem__(self, name: str) -> bytes:
        return bytes(self.take(name))

    def take(self, name: str) -> memoryview:
        """The blob as memory of the caller's own, to keep and to change; one copy less than `bytes`."""
        reference = self._manifest.blobs[name]
        if self._kept is not None and (content := self._kept.take(reference)) is not None:
            return content
        key = blob_key(self._manifest.run, reference.digest)
        space = space_for(reference)
        try:
            read_content(self._store, self._manifest.run, reference, space)
        except ObjectNotFound:
            wrong = reference.digest, "nothing"
        except CheckpointUnreadable as error:
            wrong = error.expected or reference.digest, f"{error.found} ({error.what})"
        else:
            return space
        raise CheckpointUnreadable(
            "a blob changed after it was verified",
            where=f"{self._store.name}: {key}",
            expected=wrong[0],
            found=wrong[1],
            fix="Resume again: the newest older checkpoint that is intact is elected then",
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._manifest.blobs)

    def __len__(self) -> int:
        return len(self._manifest.blobs)


def load_state(store: ObjectStore, manifest: CheckpointManifest, *, kept: KeptBlobs | None = None) -> TrainingState:
    """A checkpoint's state. Its blobs are read as they are used; reading one raises CheckpointUnreadable.

    Args:
        kept: what the election of this checkpoint read already.
    """
    return TrainingState(StoredBlobs(store, manifest, kept=kept), dict(manifest.state), manifest.model)


def take(blobs: Mapping[str, bytes], name: str) -> memoryview:
    """A blob as memory to keep and to change; without a copy where it comes from a store."""
    return blobs.take(name) if isinstance(blobs, StoredBlobs) else memoryview(bytearray(blobs[name]))


def spare_memory_bytes() -> int:
    """Half of the memory that is free now, in the machine and in the container: what a restore may keep meanwhile."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # not a POSIX system that tells
        return 0
    left = memory_left_bytes()
    return (free if left is None else min(free, left)) // 2
