"""A store whose objects under some prefixes are encrypted on their way in and decrypted on their way out.

What the interface says is about the plaintext: sizes in listings and HEADs, ranges, chunks. Versions are those of the
stored object. Keys, times, attributes and user metadata are not hidden. Stand it *outside* the retry decorator: what
is tried again must be the same stored bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.envelope import (
    FRAME_BYTES,
    HEADER_BYTES,
    STORED_FRAME_BYTES,
    Envelope,
    KeyRing,
    frame_count,
    plain_size,
    rewrapped,
    stored_size,
)
from holdfast.engine.objectstore.errors import BytesCorrupted
from holdfast.engine.objectstore.interface import (
    OVERWRITE,
    ByteRange,
    IfMatch,
    ObjectInfo,
    ObjectReader,
    ObjectStore,
    ObjectVersion,
    PutMode,
)
from holdfast.engine.objectstore.keys import check_key
from holdfast.engine.objectstore.pages import Page, list_pages
from holdfast.engine.objectstore.parts.interface import PartStore


@dataclass(frozen=True)
class Scope:
    """One dataset's objects in a store.

    Args:
        prefix: of their keys, e.g. ``data/<path>/``.
        dataset: its name; part of what each frame is bound to.
        ring: gives the key-encryption keys; asked when the first object is read or written, so that who never does
            needs no key.
    """

    prefix: str
    dataset: str
    ring: Callable[[], KeyRing] = field(repr=False)


class EncryptedStore(StoreDecorator):
    """A store with client-side encryption.

    Args:
        inner: where the envelopes lie.
        scopes: what is encrypted; every other key is passed on as it is.
    """

    def __init__(self, inner: ObjectStore, scopes: Sequence[Scope]) -> None:
        super().__init__(inner)
        self._scopes = tuple(scopes)
        self._prefixes = tuple(scope.prefix for scope in self._scopes)
        self._rings: dict[str, KeyRing] = {}

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        return map(self._shown, self.inner.list(prefix, start_after=start_after))

    def list_pages(self, prefix: str = "", *, start_after: str | None = None, shallow: bool = False) -> Iterator[Page]:
        for page in list_pages(self.inner, prefix, start_after=start_after, shallow=shallow):
            yield replace(page, objects=self._shown_page(page.objects))

    def head(self, key: str) -> ObjectInfo:
        return self._shown(self.inner.head(key))

    def get(self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None) -> bytes:
        if not self._hides(key):
            return self.inner.get(key, byte_range=byte_range, if_match=if_match)
        size_bytes = 0 if byte_range is None else None
        return b"".join(self.open(key, byte_range=byte_range, if_match=if_match, size_bytes=size_bytes).chunks)

    def open(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: ObjectVersion | None = None,
        chunk_bytes: int = 4 * 1024 * 1024,
        size_bytes: int | None = None,
    ) -> ObjectReader:
        if not self._hides(key):
            return self.inner.open(
                key, byte_range=byte_range, if_match=if_match, chunk_bytes=chunk_bytes, size_bytes=size_bytes
            )
        if byte_range is None:
            size = None if size_bytes is None else stored_size(size_bytes)
            reader = self.inner.open(key, if_match=if_match, chunk_bytes=chunk_bytes, size_bytes=size)
            return self._whole(key, reader)
        return self._range(key, byte_range, if_match, chunk_bytes)

    def _whole(self, key: str, reader: ObjectReader) -> ObjectReader:
        header, rest = _split(reader.chunks, HEADER_BYTES)
        info, envelope = self._opened(key, header, reader.info)
        chunks = envelope.opened(rest, 0, frame_count(info.size_bytes), where=self._where(key))
        return replace(reader, info=info, chunks=_of_size(chunks, info.size_bytes, self._where(key)))

    def _range(self, key: str, wanted: ByteRange, if_match: ObjectVersion | None, chunk_bytes: int) -> ObjectReader:
        if wanted.start < 0 or wanted.end < wanted.start:
            raise ValueError(f"not a range of bytes: {wanted}")
        reader = self.inner.open(key, byte_range=ByteRange(0, HEADER_BYTES), if_match=if_match)
        info, envelope = self._opened(key, b"".join(reader.chunks), reader.info)
        start, end = min(wanted.start, info.size_bytes), min(wanted.end, info.size_bytes)
        if start == end:
            return replace(reader, info=info, chunks=iter(()))
        first, behind = start // FRAME_BYTES, -(-end // FRAME_BYTES)
        stored = ByteRange(HEADER_BYTES + first * STORED_FRAME_BYTES, HEADER_BYTES + behind * STORED_FRAME_BYTES)
        frames = self.inner.open(key, byte_range=stored, if_match=info.version, chunk_bytes=chunk_bytes)
        plain = envelope.opened(frames.chunks, first, frame_count(info.size_bytes), where=self._where(key))
        cut = _cut(plain, start - first * FRAME_BYTES, end - first * FRAME_BYTES)
        return replace(reader, info=info, chunks=_of_size(cut, end - start, self._where(key)))

    def put(
        self,
        key: str,
        data: bytes | Iterable[bytes],
        *,
        mode: PutMode = OVERWRITE,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> ObjectVersion:
        sent: bytes | Iterable[bytes] = data
        if self._hides(key):
            ring, dataset = self._ring(check_key(key, self.name))
            envelope = Envelope.new(ring, dataset, key)
            whole = isinstance(data, bytes | bytearray | memoryview)
            sent = envelope.sealed(data) if whole else envelope.sealed_stream(data)  # type: ignore[arg-type]
        return self.inner.put(key, sent, mode=mode, content_type=content_type, metadata=metadata, attributes=attributes)

    def copy(self, source: str, target: str) -> None:
        """By this process: a frame is bound to its key, so the server's copy could not be opened."""
        if not self._hides(source) and not self._hides(target):
            self.inner.copy(source, target)
            return
        check_key(target, self.name)
        reader = self.open(source)
        self.put(target, reader.chunks, attributes=reader.attributes)

    def parts(self) -> PartStore | None:
        """None: large objects are streamed through `put`, whole."""
        return None

    def rewrap(self, key: str) -> bool:
        """Wrap an object's key under the ring's current one; ``False``: it was already.

        Its bytes are read and written again as they are stored (no store replaces the beginning of an object); they
        are not decrypted. The object's version changes. Objects too large for one put are streamed over themselves:
        do it while nothing else writes this key.
        """
        reader = self.inner.open(key)
        old, rest = _split(reader.chunks, HEADER_BYTES)
        header = rewrapped(old, self._ring(key)[0], where=self._where(key))
        if header == old:
            return False
        if reader.info.size_bytes > _LARGEST_WHOLE_BYTES:
            self.inner.put(key, _joined(header, rest), attributes=reader.attributes)
            return True
        swaps = self.inner.capabilities().compare_and_swap
        mode: PutMode = IfMatch(reader.info.version) if swaps else OVERWRITE
        self.inner.put(key, b"".join((header, *rest)), mode=mode, attributes=reader.attributes)
        return True

    def _hides(self, key: str) -> bool:
        return key.startswith(self._prefixes)

    def _ring(self, key: str) -> tuple[KeyRing, str]:
        """The keys and the dataset of a key. Raises ConfigError: the environment has no such keys."""
        scope = next(scope for scope in self._scopes if key.startswith(scope.prefix))
        if scope.prefix not in self._rings:
            self._rings[scope.prefix] = scope.ring()
        return self._rings[scope.prefix], scope.dataset

    def _where(self, key: str) -> str:
        return f"{self.name}: {key}"

    def _opened(self, key: str, header: bytes, stored: ObjectInfo) -> tuple[ObjectInfo, Envelope]:
        ring, dataset = self._ring(key)
        envelope = Envelope.read(header, ring, dataset, key, where=self._where(key))
        size_bytes = plain_size(stored.size_bytes)
        if size_bytes is None:
            raise BytesCorrupted(
                "the encrypted object is cut off", where=self._where(key), found=f"{stored.size_bytes} bytes"
            )
        return replace(stored, size_bytes=size_bytes), envelope

    def _shown(self, info: ObjectInfo) -> ObjectInfo:
        """With the size of the content; what cannot be an envelope keeps its own, and fails when it is read."""
        return replace(info, size_bytes=self._shown_size(info.key, info.size_bytes))

    def _shown_size(self, key: str, stored_bytes: int) -> int:
        size_bytes = plain_size(stored_bytes) if self._hides(key) else None
        return stored_bytes if size_bytes is None else size_bytes

    def _shown_page(self, objects: pa.Table) -> pa.Table:
        rows = zip(objects["key"].to_pylist(), objects["size_bytes"].to_pylist(), strict=True)
        sizes = pa.array([self._shown_size(key, stored) for key, stored in rows], pa.int64())
        index = objects.schema.get_field_index("size_bytes")
        return objects.set_column(index, objects.schema.field(index), sizes)


def encrypts(store: ObjectStore, dataset: str) -> bool:
    """Whether what this store is given of a dataset lies encrypted, whatever decorates it."""
    inner: object = store
    while isinstance(inner, StoreDecorator):
        if isinstance(inner, EncryptedStore) and any(scope.dataset == dataset for scope in inner._scopes):
            return True
        inner = inner.inner
    return False


_LARGEST_WHOLE_BYTES = 32 * 1024 * 1024


def _split(chunks: Iterator[bytes], size_bytes: int) -> tuple[bytes, Iterator[bytes]]:
    """The first so many bytes, and the rest."""
    beginning = bytearray()
    for chunk in chunks:
        beginning += chunk
        if len(beginning) >= size_bytes:
            break
    return bytes(beginning[:size_bytes]), _joined(bytes(beginning[size_bytes:]), chunks)


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _cut(chunks: Iterator[bytes], start: int, end: int) -> Iterator[bytes]:
    position = 0
    for chunk in chunks:
        piece = chunk[max(start - position, 0) : max(end - position, 0)]
        position += len(chunk)
        if piece:
            yield piece


def _of_size(chunks: Iterator[bytes], size_bytes: int, where: str) -> Iterator[bytes]:
    """The chunks, which must be so many bytes: a stream that ends at a frame's end has no damaged frame."""
    seen = 0
    for chunk in chunks:
        seen += len(chunk)
        if chunk:
            yield chunk
    if seen != size_bytes:
        raise BytesCorrupted(
            "the encrypted object is cut off", where=where, expected=f"{size_bytes} bytes", found=f"{seen} bytes"
        )
