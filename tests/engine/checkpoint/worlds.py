"""What the checkpoint tests share: a store with faults to order, a manifest in one line, a waiting loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from holdfast.engine.checkpoint.commit import write_checkpoint
from holdfast.engine.checkpoint.format import BlobRef, CheckpointManifest, digest_of, model_digest
from holdfast.engine.checkpoint.guard import AlwaysGranted, Permission
from holdfast.engine.objectstore import (
    OVERWRITE,
    ByteRange,
    Capabilities,
    ObjectInfo,
    ObjectReader,
    ObjectStore,
    ObjectVersion,
    PutMode,
)
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.errors import StoreUnavailable

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class OrderedFaults:
    """An object store that does what a test orders: be down, lose the answer of a write, tell what was written."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.down = False
        self.lose_answers = 0
        self.before_put: Callable[[str], None] = lambda _key: None
        self.puts: list[str] = []

    @property
    def name(self) -> str:
        return self.inner.name

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("the store is down", where=self.name, outcome_unknown=False)

    def capabilities(self) -> Capabilities:
        return self.inner.capabilities()

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        self._check()
        return self.inner.list(prefix, start_after=start_after)

    def head(self, key: str) -> ObjectInfo:
        self._check()
        return self.inner.head(key)

    def get(self, key: str, *, byte_range: ByteRange | None = None, if_match: ObjectVersion | None = None) -> bytes:
        self._check()
        return self.inner.get(key, byte_range=byte_range, if_match=if_match)

    def open(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: ObjectVersion | None = None,
        chunk_bytes: int = 4 * 1024 * 1024,
        size_bytes: int | None = None,
    ) -> ObjectReader:
        self._check()
        how = {"byte_range": byte_range, "if_match": if_match, "chunk_bytes": chunk_bytes, "size_bytes": size_bytes}
        return self.inner.open(key, **how)  # type: ignore[arg-type]

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
        self.before_put(key)
        self._check()
        version = self.inner.put(
            key, data, mode=mode, content_type=content_type, metadata=metadata, attributes=attributes
        )
        self.puts.append(key)
        if self.lose_answers:
            self.lose_answers -= 1
            raise StoreUnavailable("the answer was lost", where=self.name, outcome_unknown=True)
        return version

    def copy(self, source: str, target: str) -> None:
        self._check()
        self.inner.copy(source, target)

    def delete(self, key: str) -> None:
        self._check()
        self.inner.delete(key)


class Guard:
    """A write guard that says what the test sets."""

    def __init__(self, permission: Permission = Permission.GRANTED) -> None:
        self.value = permission

    def permission(self) -> Permission:
        return self.value


def manifest_of(
    step: int, *, epoch: int = 1, parent: CheckpointManifest | None = None, model: bytes | None = None, **changes: Any
) -> tuple[CheckpointManifest, dict[str, bytes]]:
    """A manifest and its blobs; the model's bytes follow from the step unless given."""
    data = model if model is not None else f"model after {step}".encode()
    blobs = {"model.bin": BlobRef(digest=digest_of(data), size_bytes=len(data))}
    fields: dict[str, Any] = {
        "run": "run",
        "step": step,
        "epoch": epoch,
        "site": "site-a",
        "parent": parent.digest if parent else None,
        "ancestors": (parent.digest, *parent.ancestors)[:16] if parent else (),
        "model": ("model.bin",),
        "blobs": blobs,
        "model_digest": model_digest(blobs, ["model.bin"]),
        "saved_at": MOMENT,
        "write_id": f"w{step}.{epoch}",
        **changes,
    }
    return CheckpointManifest(**fields), {"model.bin": data}


def write(store: ObjectStore, step: int, **changes: Any) -> CheckpointManifest:
    """Commit a checkpoint."""
    manifest, blobs = manifest_of(step, **changes)
    return write_checkpoint(store, manifest, blobs, guard=AlwaysGranted())


def wait_for(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Until it holds, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
