"""Write an object of any size without replacing one: a small one by one conditional put, a large one in parts.

The pieces of an object end with an error when they are not authentic; then nothing is at its key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from holdfast.engine.objectstore.checksums import NO_BYTES, Checksums
from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound, PreconditionFailed
from holdfast.engine.objectstore.interface import CREATE, OVERWRITE, ObjectStore, ObjectVersion, PutMode
from holdfast.engine.objectstore.parts import PartStore, UploadedPart, part_bytes_for, part_store
from holdfast.engine.snapshot.digest import hash_stream
from holdfast.errors import HoldfastError

#: Up to this size an object is put whole.
WHOLE_BYTES = 8 * 1024 * 1024
_PARTS_AHEAD = 3


def write_object(
    store: ObjectStore,
    key: str,
    size_bytes: int,
    pieces: Iterable[bytes],
    *,
    mode: PutMode = CREATE,
    metadata: Mapping[str, str] | None = None,
) -> ObjectVersion:
    """Write an object whole or not at all, in bounded memory.

    A store that offers no parts (one that encrypts at this end) gets a large object as one stream, which no cloud makes
    create-only: the key is looked at first, and whoever else writes there in that moment is not noticed.

    Args:
        size_bytes: of the whole object; the pieces must be so many bytes.
        mode: CREATE or OVERWRITE.
        metadata: user metadata every backend keeps.

    Raises:
        ObjectExists: mode is CREATE and something is there; perhaps this very object, by an answer that was lost.
        Whatever the pieces raise: nothing was written.
    """
    if size_bytes <= WHOLE_BYTES:
        return store.put(key, b"".join(pieces), mode=mode, metadata=metadata)
    parts = part_store(store)
    if parts is not None:
        return _in_parts(parts, key, size_bytes, pieces, mode, metadata)
    if mode is CREATE and _is_there(store, key):
        raise ObjectExists("something is there already", where=f"{store.name}: {key}")
    return store.put(key, iter(pieces), mode=OVERWRITE, metadata=metadata)


def digest_at(store: ObjectStore, key: str, version: ObjectVersion | None = None) -> str | None:
    """The digest of what lies at a key, every byte read; ``None``: nothing does, or another version than asked for."""
    named = version is not None and (version.e_tag is not None or version.version is not None)
    try:
        return hash_stream(store.open(key, if_match=version if named else None)).digest
    except (ObjectNotFound, PreconditionFailed):
        return None


def _is_there(store: ObjectStore, key: str) -> bool:
    try:
        store.head(key)
    except ObjectNotFound:
        return False
    return True


def _in_parts(
    parts: PartStore,
    key: str,
    size_bytes: int,
    pieces: Iterable[bytes],
    mode: PutMode,
    metadata: Mapping[str, str] | None,
) -> ObjectVersion:
    part_bytes = part_bytes_for(size_bytes, parts.limits)
    upload = parts.begin(key, size_bytes=size_bytes, metadata=metadata, mode=mode, part_bytes=part_bytes)
    ahead = 1 if parts.limits.in_order else _PARTS_AHEAD
    total = NO_BYTES
    done: list[UploadedPart] = []
    waiting: deque[Future[UploadedPart]] = deque()
    try:
        with ThreadPoolExecutor(ahead, thread_name_prefix="vault-parts") as pool:
            try:
                for number, data in enumerate(_blocks(pieces, part_bytes), 1):
                    sums = Checksums.of(data)
                    total += sums
                    waiting.append(pool.submit(parts.put_part, upload, number, data, checksums=sums))
                    if len(waiting) > ahead:
                        done.append(waiting.popleft().result())
                done.extend(future.result() for future in waiting)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        return parts.complete(upload, done, size_bytes=size_bytes, checksums=total, mode=mode)
    except BaseException:
        with suppress(HoldfastError):
            parts.abort(upload)
        raise


def _blocks(pieces: Iterable[bytes], size_bytes: int) -> Iterator[bytes]:
    """The same bytes in blocks of one size, the last one shorter."""
    block = bytearray()
    for piece in pieces:
        block += piece
        while len(block) >= size_bytes:
            yield bytes(block[:size_bytes])
            del block[:size_bytes]
    if block:
        yield bytes(block)
