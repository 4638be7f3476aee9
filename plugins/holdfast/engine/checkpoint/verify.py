"""Reading blobs back: whether the bytes are those the manifest names, and what they decode to.

Which digest is compared when: `blob_is_intact` compares the stored bytes, which is what a writer, a replica and its
receipt vouch for, and decodes nothing. `damage`, hence an election, and `content` compare both digests of an encoded
blob in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.engine.checkpoint.encoding import decoded
from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.format import BlobRef, CheckpointManifest, blob_key, digest_of
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore


def blob_is_intact(store: ObjectStore, run: str, digest: str) -> bool:
    """Whether the blob's stored bytes read back with this digest."""
    try:
        return digest_of(iter(store.open(blob_key(run, digest)))) == digest
    except ObjectNotFound:
        return False


def damage(store: ObjectStore, manifest: CheckpointManifest) -> str | None:
    """What is wrong with a checkpoint's blobs, every byte read; None when nothing is."""
    found = (blob_damage(store, manifest.run, name, reference) for name, reference in manifest.blobs.items())
    return next((against for against in found if against is not None), None)


def blob_damage(store: ObjectStore, run: str, name: str, reference: BlobRef) -> str | None:
    """What is wrong with one blob, every byte read, and decoded where it is encoded; None when nothing is.

    Raises:
        ConfigError: it is encoded, and what decodes it is not installed here.
    """
    try:
        size = store.head(blob_key(run, reference.digest)).size_bytes
    except ObjectNotFound:
        return f"the blob of {name!r} is missing"
    if size != reference.size_bytes:
        return f"the blob of {name!r} has {size} bytes instead of {reference.size_bytes}"
    if reference.encoding is None:
        return None if blob_is_intact(store, run, reference.digest) else f"the blob of {name!r} has another digest"
    try:
        for _ in content(store, run, reference):
            pass
    except ObjectNotFound:
        return f"the blob of {name!r} is missing"
    except CheckpointUnreadable as error:
        return f"the blob of {name!r}: {error.what}; expected {error.expected}, found {error.found}"
    return None


def content(store: ObjectStore, run: str, reference: BlobRef) -> Iterator[memoryview]:
    """The content of an encoded blob in pieces, each valid until the next; right only once the iteration has ended.

    Raises:
        CheckpointUnreadable: the stored bytes or their content are others than the manifest names.
        ObjectNotFound: it is missing.
    """
    key = blob_key(run, reference.digest)
    yield from decoded(iter(store.open(key)), reference, where=f"{store.name}: {key}")
