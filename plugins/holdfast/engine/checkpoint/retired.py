"""What a collection reads: all manifests of a run, damaged ones too, and the records of earlier retirements."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, ValidationError

from holdfast.engine.checkpoint.errors import CheckpointUnreadable, FormatUnknown
from holdfast.engine.checkpoint.format import (
    CheckpointManifest,
    Digest,
    manifest_prefix,
    parse_manifest,
    parse_manifest_key,
    run_root,
)
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.documents import Document, UtcTime

_ANY_DIGEST = re.compile(rb"blake3:[0-9a-f]{64}")
_RECORD = re.compile(r"/retired/[0-9a-f]{32}\.json$")


class RetiredManifest(Document):
    """One manifest that a retirement deletes."""

    key: str
    digest: Digest
    reason: str


class RetiredRecord(Document):
    """``holdfast.checkpoint-retired/1``: what phase one retires, and what phase two may then delete."""

    format: Literal["holdfast.checkpoint-retired/1"] = "holdfast.checkpoint-retired/1"
    run: str
    epoch: int = Field(ge=1)
    retired_at: UtcTime
    write_id: str
    manifests: tuple[RetiredManifest, ...]
    blobs: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Manifests:
    """All manifests of a run at one moment.

    ``loose`` are the digests in the bytes of manifests that cannot be read: such a one may still be repaired from
    another site, so what it names is not deleted.
    """

    readable: tuple[CheckpointManifest, ...]
    loose: frozenset[str]

    @property
    def named(self) -> frozenset[str]:
        """Every digest that any of them names."""
        return self.loose | blobs_named(self.readable)


def blobs_named(manifests: Iterable[CheckpointManifest]) -> frozenset[str]:
    return frozenset(blob.digest for manifest in manifests for blob in manifest.blobs.values())


def read_manifests(store: ObjectStore, run: str) -> Manifests:
    """Every manifest in the bucket, stale epochs' too.

    Raises:
        FormatUnknown: one is of another format: what it needs is not known, so nothing may be deleted.
    """
    readable: list[CheckpointManifest] = []
    loose: set[str] = set()
    for info in store.list(manifest_prefix(run)):
        if parse_manifest_key(info.key) is None:
            continue
        try:
            data = store.get(info.key)
        except ObjectNotFound:  # another collection deleted it
            continue
        try:
            manifest = parse_manifest(data, where=info.key)
        except FormatUnknown as error:
            raise FormatUnknown(
                "a checkpoint of another format is here, so nothing is retired",
                where=info.key,
                expected=error.expected,
                found=error.found,
                fix="Collect with a version of holdfast that reads it",
            ) from None
        except CheckpointUnreadable:
            loose |= _digests_in(data)
            continue
        if manifest.run == run:
            readable.append(manifest)
        else:
            loose |= _digests_in(data)
    return Manifests(tuple(readable), frozenset(loose))


def retired_prefix(run: str) -> str:
    return f"{run_root(run)}/retired/"


def record_key(run: str, record_id: str) -> str:
    return f"{retired_prefix(run)}{record_id}.json"


def read_records(store: ObjectStore, run: str) -> Iterator[tuple[str, RetiredRecord | None]]:
    """Each record under its key; None for one that cannot be read."""
    for info in store.list(retired_prefix(run)):
        if not _RECORD.search(info.key):
            continue
        try:
            data = store.get(info.key)
        except ObjectNotFound:  # another collection finished it
            continue
        yield info.key, _parse(data, run)


def blobs_held(store: ObjectStore, key: str, record: RetiredRecord | None) -> frozenset[str]:
    """What a record that is not due keeps from being deleted; of an unreadable one, every digest in its bytes."""
    if record is not None:
        return frozenset(record.blobs)
    try:
        return _digests_in(store.get(key))
    except ObjectNotFound:
        return frozenset()


def _parse(data: bytes, run: str) -> RetiredRecord | None:
    try:
        record = RetiredRecord.model_validate_json(data)
    except ValidationError:
        return None
    return record if record.run == run and record.to_json() == data else None


def _digests_in(data: bytes) -> frozenset[str]:
    return frozenset(found.decode() for found in _ANY_DIGEST.findall(data))
