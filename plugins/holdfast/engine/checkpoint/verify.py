"""Reading blobs back: whether the bytes are those the manifest names, and what they decode to.

Which digest is compared when: `blob_is_intact` compares the stored bytes, which is what a writer, a replica and its
receipt vouch for, and decodes nothing. `damage`, hence an election, and `content` compare both digests of an encoded
blob in one pass. A restore that follows an election uses what that read and compared, see `KeptBlobs`.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping

from blake3 import blake3

from holdfast.engine.checkpoint.encoding import decoded
from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.format import BlobRef, CheckpointManifest, blob_key, digest_of, run_root
from holdfast.engine.checkpoint.tensors import check_tensors, header_bytes
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore

#: What a blob's name says of its content.
TENSORS_SUFFIX, LAYOUT_BLOB = ".safetensors", "sharded.json"
_READ_BYTES = 8 * 1024 * 1024


def blob_is_intact(store: ObjectStore, run: str, digest: str) -> bool:
    """Whether the blob's stored bytes read back with this digest."""
    try:
        return digest_of(iter(store.open(blob_key(run, digest)))) == digest
    except ObjectNotFound:
        return False


def is_there(store: ObjectStore, manifest: CheckpointManifest) -> bool:
    """Whether these very bytes lie under the manifest's key: not when a collection took it, or another followed it."""
    try:
        return store.get(manifest.key) == manifest.data
    except ObjectNotFound:
        return False


def without_its_size(store: ObjectStore, run: str, manifests: Iterable[CheckpointManifest]) -> set[str]:
    """The digests of the checkpoints of which a blob is missing or has another size: one listing, nothing is read."""
    sizes = {info.key: info.size_bytes for info in store.list(f"{run_root(run)}/blobs/")}
    return {
        found.digest
        for found in manifests
        if any(sizes.get(blob_key(run, blob.digest)) != blob.size_bytes for blob in found.blobs.values())
    }


class KeptBlobs:
    """The contents of the blobs an election has verified, for the restore after it: read and hashed once, not twice.

    Args:
        limit_bytes: keep no more than so many; what is beyond is read again when it is used.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes
        self._blobs: dict[str, memoryview] = {}

    def space(self, reference: BlobRef) -> memoryview | None:
        """Memory for a blob's content, or None: there is none left."""
        return space_for(reference) if reference.content_bytes <= self._left else None

    def keep(self, reference: BlobRef, content: memoryview) -> None:
        """This content has been verified; of two blobs with the same, one is kept."""
        if reference.digest not in self._blobs:
            self._left -= len(content)
            self._blobs[reference.digest] = content

    def take(self, reference: BlobRef) -> memoryview | None:
        """The content, once; whoever takes it owns it."""
        content = self._blobs.pop(reference.digest, None)
        if content is not None:
            self._left += len(content)
        return content

    def clear(self) -> None:
        for content in self._blobs.values():
            self._left += len(content)
        self._blobs.clear()


def space_for(reference: BlobRef) -> memoryview:
    """Memory for a blob's content that nobody has touched yet: it is not written twice."""
    size_bytes = reference.content_bytes
    return memoryview(
        mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) if size_bytes else bytearray()
    )


def damage(store: ObjectStore, manifest: CheckpointManifest, *, kept: KeptBlobs | None = None) -> str | None:
    """What is wrong with a checkpoint's blobs, every byte read; None when nothing is.

    Args:
        kept: gets the contents; emptied when something is wrong.
    """
    sizes = content_sizes(manifest)
    found = (
        blob_damage(store, manifest.run, name, reference, kept=kept, sizes=sizes)
        for name, reference in manifest.blobs.items()
    )
    wrong = next((against for against in found if against is not None), None)
    if wrong is not None and kept is not None:
        kept.clear()
    return wrong


def content_sizes(manifest: CheckpointManifest) -> dict[str, int]:
    """Each blob's plain bytes, by name."""
    return {name: reference.content_bytes for name, reference in manifest.blobs.items()}


def blob_damage(
    store: ObjectStore,
    run: str,
    name: str,
    reference: BlobRef,
    *,
    kept: KeptBlobs | None = None,
    sizes: Mapping[str, int] | None = None,
) -> str | None:
    """What is wrong with one blob, every byte read, and decoded where it is encoded; None when nothing is.

    Wrong is also what no restore would take, though its digest is right: a ``.safetensors`` blob that is none, and a
    layout of shards that cannot be.

    Args:
        sizes: of the manifest's blobs, see `content_sizes`; without, a layout of shards is not looked into.

    Raises:
        ConfigError: it is encoded, and what decodes it is not installed here.
    """
    space = kept.space(reference) if kept is not None else None
    begin = _Begin(name, reference, sizes)
    try:
        size = store.head(blob_key(run, reference.digest)).size_bytes
        if size != reference.size_bytes:
            return f"the blob of {name!r} has {size} bytes instead of {reference.size_bytes}"
        read_content(store, run, reference, space, seen=begin.see)
    except ObjectNotFound:
        return f"the blob of {name!r} is missing"
    except CheckpointUnreadable as error:
        if reference.encoding is None:
            return f"the blob of {name!r} has another digest"
        return f"the blob of {name!r}: {error.what}; expected {error.expected}, found {error.found}"
    if (against := begin.refused()) is not None:
        return against
    if kept is not None and space is not None:
        kept.keep(reference, space)
    return None


class _Begin:
    """As much of a blob's begin as it takes to see whether a restore would read it: a header, or a whole layout."""

    def __init__(self, name: str, reference: BlobRef, sizes: Mapping[str, int] | None) -> None:
        self._name = name
        self._size_bytes = reference.content_bytes
        self._sizes = sizes
        self._is_tensors = name.endswith(TENSORS_SUFFIX)
        self._is_layout = name == LAYOUT_BLOB and sizes is not None
        self._data = bytearray()

    def see(self, piece: bytes | memoryview) -> None:
        if not (self._is_tensors or self._is_layout):
            return
        if self._is_tensors and len(self._data) < 8:
            missing = 8 - len(self._data)
            self._data += piece[:missing]
            piece = piece[missing:]
        wanted = self._size_bytes if self._is_layout else header_bytes(bytes(self._data[:8]))
        self._data += piece[: max(0, wanted - len(self._data))]

    def refused(self) -> str | None:
        """Why no restore would take the blob; to be asked once its digest is known to be right."""
        try:
            if self._is_tensors:
                check_tensors(bytes(self._data), self._size_bytes, where=self._name)
            if self._is_layout and self._sizes is not None:
                from holdfast.engine.checkpoint.sharded.layout import parse_layout  # its package imports this module

                parse_layout(bytes(self._data), blobs=self._sizes, where=self._name)
        except CheckpointUnreadable as error:
            return f"the blob of {self._name!r}: {error.what}; expected {error.expected}, found {error.found}"
        return None


def read_content(
    store: ObjectStore,
    run: str,
    reference: BlobRef,
    space: memoryview | None,
    *,
    seen: Callable[[bytes | memoryview], None] = lambda _piece: None,
) -> None:
    """Read a blob's content into memory of its size, and compare its digests; None: only compare.

    Args:
        seen: gets each piece on the way, before the digests are known to be right.

    Raises:
        CheckpointUnreadable: the stored bytes or their content are others than the manifest names.
        ObjectNotFound: it is missing.
        ConfigError: as `blob_damage`.
    """
    at = 0
    for piece in content(store, run, reference):
        seen(piece)
        if space is not None:
            if at + len(piece) > len(space):
                raise CheckpointUnreadable("a blob is longer than it was", expected=str(len(space)), found="more")
            space[at : at + len(piece)] = piece
        at += len(piece)


def content(store: ObjectStore, run: str, reference: BlobRef) -> Iterator[bytes | memoryview]:
    """The content of a blob in pieces, each valid until the next; right only once the iteration has ended.

    Raises:
        CheckpointUnreadable: the stored bytes or their content are others than the manifest names.
        ObjectNotFound: it is missing.
    """
    key = blob_key(run, reference.digest)
    where = f"{store.name}: {key}"
    chunks = iter(store.open(key, chunk_bytes=_READ_BYTES))
    if reference.encoding is not None:
        yield from decoded(chunks, reference, where=where)
        return
    stored = blake3()
    for chunk in chunks:
        stored.update(chunk)
        yield chunk
    if (found := f"blake3:{stored.hexdigest()}") != reference.digest:
        raise CheckpointUnreadable("other bytes", where=where, expected=reference.digest, found=found)
