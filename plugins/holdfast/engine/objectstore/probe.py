"""Find out what a store can do by doing it: for the contract suite, the capability table and `holdfast check`.

A capability is what was seen, on the store that was asked: an emulator's answer says nothing about its cloud.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from holdfast.engine.objectstore.errors import (
    ObjectExists,
    ObjectNotFound,
    ObjectStoreError,
    PreconditionFailed,
    StoreUnavailable,
)
from holdfast.engine.objectstore.interface import (
    CREATE,
    ByteRange,
    Capabilities,
    IfMatch,
    ObjectStore,
    ObjectVersion,
    PutMode,
)

MEBIBYTE = 1024 * 1024
#: More than one window of a streamed read and more than one part of a streamed write.
LARGE_BYTES = 9 * MEBIBYTE
RACERS = 8


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was seen of one capability.

    ``works`` is ``None`` when it could not be found out; ``detail`` then says why.
    """

    name: str
    title: str
    works: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Probe:
    name: str
    title: str
    run: Callable[[ObjectStore, str], bool]
    large: bool = False


def measure(
    store: ObjectStore, *, folder: str, only: Collection[str] | None = None, large: bool = True
) -> tuple[Measurement, ...]:
    """Try every capability of a store.

    Args:
        store: the store; give it without faults and throttles, or they are measured too.
        folder: where objects of the probe may be written; must be unused. They are removed afterwards.
        only: names of the measurements wanted; by default all.
        large: also those that write objects of some megabytes.

    Raises:
        BucketNotFound, PermissionRefused: the store lets nothing be measured.
    """
    probes = [probe for probe in _PROBES if (only is None or probe.name in only) and (large or not probe.large)]
    try:
        store.put(f"{folder}/begin", b"probe")
        return tuple(_measured(probe, store, f"{folder}/{probe.name}") for probe in probes)
    finally:
        with suppress(ObjectStoreError):
            for info in list(store.list(f"{folder}/")):
                store.delete(info.key)


def capabilities_of(backend: str, measurements: Sequence[Measurement]) -> Capabilities:
    """The measurements as `Capabilities`; what was not measured is ``None``."""
    works = {measurement.name: measurement.works for measurement in measurements}
    return Capabilities(
        backend=backend,
        create_only=_all(works, "create_only", "create_race"),
        compare_and_swap=_all(works, "compare_and_swap", "swap_race"),
        pinned_reads=works.get("pinned_reads"),
        ranged_reads=works.get("ranged_reads"),
        streamed_puts=works.get("streamed_puts"),
        create_only_streamed=works.get("create_only_streamed"),
        metadata=works.get("metadata"),
        server_side_copy=works.get("copy"),
        versions=works.get("versions"),
    )


def _all(works: dict[str, bool | None], *names: str) -> bool | None:
    seen = [works.get(name) for name in names]
    return None if None in seen else all(seen)


def _measured(probe: _Probe, store: ObjectStore, folder: str) -> Measurement:
    try:
        return Measurement(probe.name, probe.title, probe.run(store, folder))
    except StoreUnavailable as error:
        return Measurement(probe.name, probe.title, None, str(error))
    except ObjectStoreError as error:
        return Measurement(probe.name, probe.title, False, f"{type(error).__name__}: {error.what}")


def _create_only(store: ObjectStore, folder: str) -> bool:
    store.put(f"{folder}/x", b"first", mode=CREATE)
    with suppress(ObjectExists):
        store.put(f"{folder}/x", b"second", mode=CREATE)
        return False
    return store.get(f"{folder}/x") == b"first"


def _create_race(store: ObjectStore, folder: str) -> bool:
    winners = _race(store, f"{folder}/x", CREATE, ObjectExists)
    return len(winners) == 1 and store.get(f"{folder}/x") == winners[0]


def _compare_and_swap(store: ObjectStore, folder: str) -> bool:
    key = f"{folder}/x"
    first = store.put(key, b"one")
    second = store.put(key, b"two", mode=IfMatch(first))
    for stale in (key, f"{folder}/missing"):
        with suppress(PreconditionFailed):
            store.put(stale, b"three", mode=IfMatch(first))
            return False
    store.put(key, b"four", mode=IfMatch(second))
    return store.get(key) == b"four"


def _swap_race(store: ObjectStore, folder: str) -> bool:
    version = store.put(f"{folder}/x", b"start")
    winners = _race(store, f"{folder}/x", IfMatch(version), PreconditionFailed)
    return len(winners) == 1 and store.get(f"{folder}/x") == winners[0]


def _race(store: ObjectStore, key: str, mode: PutMode, loses: type[ObjectStoreError]) -> list[bytes]:
    """The bodies of those of several threads that were told they had won."""
    ready = threading.Barrier(RACERS, timeout=30)

    def run(number: int) -> bytes | None:
        body = f"racer {number}".encode()
        ready.wait()
        try:
            store.put(key, body, mode=mode)
        except loses:
            return None
        return body

    with ThreadPoolExecutor(RACERS) as pool:
        return [body for body in pool.map(run, range(RACERS)) if body is not None]


def _distinct_versions(store: ObjectStore, folder: str) -> bool:
    return store.put(f"{folder}/x", b"same") != store.put(f"{folder}/x", b"same")


def _pinned_reads(store: ObjectStore, folder: str) -> bool:
    key = f"{folder}/x"
    old = store.put(key, b"a" * LARGE_BYTES)
    chunks = store.open(key, chunk_bytes=MEBIBYTE).chunks
    begin = next(chunks)
    store.put(key, b"b" * LARGE_BYTES)
    with suppress(PreconditionFailed):
        store.get(key, if_match=old)
        return False
    try:
        return begin + b"".join(chunks) == b"a" * LARGE_BYTES
    except PreconditionFailed:
        return True


def _ranged_reads(store: ObjectStore, folder: str) -> bool:
    store.put(f"{folder}/x", bytes(range(100)))
    ranges = ((0, 1), (10, 20), (90, 200), (100, 200), (5, 5))
    return all(store.get(f"{folder}/x", byte_range=ByteRange(*r)) == bytes(range(100))[r[0] : r[1]] for r in ranges)


def _chunks() -> Iterator[bytes]:
    for number in range(LARGE_BYTES // MEBIBYTE):
        yield bytes([number]) * MEBIBYTE


def _streamed_puts(store: ObjectStore, folder: str) -> bool:
    store.put(f"{folder}/x", _chunks())
    return store.get(f"{folder}/x") == b"".join(_chunks())


def _create_only_streamed(store: ObjectStore, folder: str) -> bool:
    store.put(f"{folder}/x", _chunks(), mode=CREATE)
    with suppress(ObjectExists):
        store.put(f"{folder}/x", _chunks(), mode=CREATE)
        return False
    return True


def _metadata(store: ObjectStore, folder: str) -> bool:
    store.put(f"{folder}/x", b"x", content_type="text/plain", metadata={"write_id": "abc"})
    reader = store.open(f"{folder}/x")
    return reader.content_type == "text/plain" and dict(reader.metadata) == {"write_id": "abc"}


def _copy(store: ObjectStore, folder: str) -> bool:
    store.put(f"{folder}/x", b"copied")
    store.copy(f"{folder}/x", f"{folder}/y")
    return store.get(f"{folder}/y") == b"copied"


def _versions(store: ObjectStore, folder: str) -> bool:
    first = store.put(f"{folder}/x", b"one")
    store.put(f"{folder}/x", b"two")
    if first.version is None:
        return False
    with suppress(ObjectNotFound, PreconditionFailed):
        return store.get(f"{folder}/x", if_match=ObjectVersion(None, first.version)) == b"one"
    return False


def _fresh_listing(store: ObjectStore, folder: str) -> bool:
    names = ["b", "a/2", "a/1", "a-", "a/10", "a0"]
    for name in names:
        store.put(f"{folder}/{name}", name.encode())
    listed = [info.key.removeprefix(f"{folder}/") for info in store.list(f"{folder}/")]
    store.delete(f"{folder}/b")
    after = [info.key.removeprefix(f"{folder}/") for info in store.list(f"{folder}/", start_after=f"{folder}/a/1")]
    return listed == sorted(names) and after == ["a/10", "a/2", "a0"]


_PROBES = (
    _Probe("create_only", "create-only put: a second one is refused", _create_only),
    _Probe("create_race", f"create-only put: of {RACERS} at once exactly one wins", _create_race),
    _Probe("compare_and_swap", "compare-and-swap: a stale or missing version is refused", _compare_and_swap),
    _Probe("swap_race", f"compare-and-swap: of {RACERS} at once exactly one wins", _swap_race),
    _Probe("distinct_versions", "equal bytes written again are a new version", _distinct_versions),
    _Probe("pinned_reads", "a streamed read never mixes two versions", _pinned_reads, large=True),
    _Probe("ranged_reads", "ranged reads, cut at the object's end", _ranged_reads),
    _Probe("streamed_puts", "streamed put in parts", _streamed_puts, large=True),
    _Probe("create_only_streamed", "streamed put, create-only", _create_only_streamed, large=True),
    _Probe("metadata", "content type and metadata are kept", _metadata),
    _Probe("copy", "copy inside the bucket", _copy),
    _Probe("versions", "an overwritten version can still be read", _versions),
    _Probe("fresh_listing", "a listing is in key order and shows the last put and delete", _fresh_listing),
)
