"""Log files from the bucket, a few at once: an hour of a large account has thousands of small ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from holdfast.engine.audit.sources.cloudtrail_files import MAX_FILE_BYTES, UnreadableFile
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore

AT_ONCE = 8
#: Files that came and are not taken yet.
AHEAD_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file as it lies in the bucket."""

    info: ObjectInfo
    data: bytes = field(repr=False)
    metadata: Mapping[str, str]


def fetched(store: ObjectStore, listed: Iterable[ObjectInfo]) -> Iterator[tuple[ObjectInfo, Callable[[], FetchedFile]]]:
    """The files of a listing, in its order; each is waited for by calling it, which raises what went wrong with it.

    Raises:
        ObjectStoreError: the listing did not come to its end; all that it gave before came first.
    """
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="cloudtrail")
    waiting: deque[tuple[ObjectInfo, Future[FetchedFile]]] = deque()
    ahead = 0
    broken: ObjectStoreError | None = None
    infos = iter(listed)
    try:
        while True:
            try:
                info = next(infos, None)
            except ObjectStoreError as error:
                info, broken = None, error
            if info is None:
                break
            waiting.append((info, pool.submit(_fetch, store, info)))
            ahead += info.size_bytes
            while len(waiting) > AT_ONCE or (ahead > AHEAD_BYTES and waiting):
                taken, future = waiting.popleft()
                ahead -= taken.size_bytes
                yield taken, future.result
        while waiting:
            taken, future = waiting.popleft()
            yield taken, future.result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if broken is not None:
        raise broken


def _fetch(store: ObjectStore, info: ObjectInfo) -> FetchedFile:
    """Raises UnreadableFile, ObjectStoreError."""
    if info.size_bytes > MAX_FILE_BYTES:
        raise UnreadableFile(f"expected at most {MAX_FILE_BYTES} bytes; found {info.size_bytes}")
    reader = store.open(info.key, size_bytes=info.size_bytes)
    return FetchedFile(reader.info, b"".join(reader), dict(reader.metadata))
