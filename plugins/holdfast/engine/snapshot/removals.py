"""Bytes that a delete run is removing right now, and the check of who publishes meanwhile.

A delete run writes its *intent* (the keys it is about to remove) before it reads which snapshots name what; whoever
publishes writes its placement before it reads the intents. So one of the two sees the other: a publisher that finds
an intent over a key it relies on does not commit, and a delete run that finds a placement spares its keys, even before
there is a commit record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.documents import Document, UtcTime
from holdfast.engine.snapshot.errors import ManifestDamaged, SnapshotError
from holdfast.engine.snapshot.manifest import read_table
from holdfast.engine.snapshot.placement import SCHEMA
from holdfast.engine.snapshot.read import load_manifest
from holdfast.engine.snapshot.records import CommitRecord, read_record, record_keys
from holdfast.errors import Refused


class BytesBeingRemoved(SnapshotError):
    """A delete run removes bytes this snapshot relies on. Nothing was committed; run again when it is through."""

    transient = True


class SnapshotExpired(Refused, SnapshotError):
    """The snapshot was expired at this site."""


class Removal(Document):
    """The intent of one delete run: gone when the run is through."""

    format: Literal["holdfast.removal/1"] = "holdfast.removal/1"
    dataset: str
    removal_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    site: str
    keys: tuple[str, ...]
    created_at: UtcTime

    @property
    def key(self) -> str:
        return f"{removal_prefix(self.dataset)}{self.removal_id}.json"


def tombstone_prefix(dataset: str) -> str:
    return f"tombstones/{keys.check_name(dataset)}/"


def removal_prefix(dataset: str) -> str:
    return f"{tombstone_prefix(dataset)}removing-"


def expiry_prefix(dataset: str) -> str:
    return f"{tombstone_prefix(dataset)}expired-"


def removals(store: ObjectStore, dataset: str) -> Iterator[Removal]:
    """The delete runs that are under way, or were cut off. Raises SnapshotError for an unreadable intent."""
    for info in store.list(removal_prefix(dataset)):
        try:
            data = store.get(info.key)
        except ObjectNotFound:
            continue  # it just got through
        try:
            yield Removal.model_validate_json(data)
        except ValidationError as error:
            raise SnapshotError(
                "the intent of a delete run cannot be read",
                where=f"{store.name}: {info.key}",
                expected="a holdfast.removal/1 document",
                found=f"{error.error_count()} errors in it",
                fix="Nothing is committed while it lies there; remove it when no delete run is under way",
            ) from None


def expired_ids(store: ObjectStore, dataset: str) -> frozenset[str]:
    """The snapshots that were expired at this site; they are never published here again."""
    prefix = expiry_prefix(dataset)
    return frozenset(info.key.removeprefix(prefix).removesuffix(".json") for info in store.list(prefix))


def check_before_commit(store: ObjectStore, record: CommitRecord, relied_on: Iterable[str]) -> None:
    """Call it after the placement was written and before the commit record. One listing where nothing was ever deleted.

    Args:
        record: what is about to be committed.
        relied_on: the keys where the snapshot's bytes lie here.

    Raises:
        BytesBeingRemoved: a delete run has an intent over one of them, or one of them is gone since it was read back.
        SnapshotExpired: this snapshot was expired here.
    """
    if next(iter(store.list(tombstone_prefix(record.dataset))), None) is None:
        return
    if record.snapshot_id in expired_ids(store, record.dataset):
        raise SnapshotExpired(
            "this snapshot was expired at this site and is not published here again",
            where=f"{store.name}: {record.dataset}",
            expected="a snapshot this site keeps",
            found=record.snapshot_id,
            fix="Replicate a newer one, or roll back to it at another site, which makes a new snapshot of its content",
        )
    wanted = set(relied_on)
    for removal in removals(store, record.dataset):
        if doomed := wanted.intersection(removal.keys):
            raise being_removed(store, min(doomed), f"delete run {removal.removal_id} is removing it")
    # A run that was through before the intents were read left none; what it removed shows in a listing.
    if gone := wanted - {info.key for info in store.list(keys.data_folder(record.path) + "/")}:
        raise being_removed(store, min(gone), "nothing")


def named_keys(
    store: ObjectStore, dataset: str, among: Iterable[str], *, wanted: Callable[[str], bool] = lambda _: True
) -> set[str]:
    """Which of these keys hold bytes of a snapshot here: of committed ones, and of those that may be committed yet.

    Args:
        among: keys.
        wanted: whether a snapshot's id counts.
    """
    candidates = pa.array(sorted(set(among)), pa.string())
    found: set[str] = set()
    placed: set[str] = set()
    prefix = keys.root(dataset) + "/"
    committed = {key.snapshot_id: key for key in record_keys(store, dataset)}
    for info in store.list(prefix):
        snapshot_id, _, name = info.key.removeprefix(prefix).partition("/")
        if name.startswith("placement-") and name.endswith(".parquet"):
            placed.add(snapshot_id)
            if not wanted(snapshot_id):
                continue
            try:
                table = read_table(store.get(info.key), SCHEMA, f"{store.name}: {info.key}")
            except ObjectNotFound:
                continue
            column = table["key"]
            found.update(column.filter(pc.is_in(column, value_set=candidates)).to_pylist())
    for snapshot_id, key in committed.items():  # without a placement everything lies at its own key
        if snapshot_id not in placed and wanted(snapshot_id):
            found.update(_own_keys(store, key.key).intersection(candidates.to_pylist()))
    return found


def _own_keys(store: ObjectStore, record_key: str) -> set[str]:
    """The own keys of a snapshot's objects; none when it was expired meanwhile."""
    try:
        record = read_record(store, record_key)
        return {keys.object_key(record.path, path) for path in load_manifest(store, record).paths}
    except ObjectNotFound:
        return set()
    except ManifestDamaged:
        if any(info.key == record_key for info in store.list(record_key)):
            raise
        return set()


def being_removed(store: ObjectStore, key: str, found: str) -> BytesBeingRemoved:
    """The error of a publisher that misses bytes it just had."""
    return BytesBeingRemoved(
        "bytes this snapshot relies on are being removed",
        where=f"{store.name}: {key}",
        expected="the bytes that were read back there",
        found=found,
        fix="Run it again; what is missing is copied anew",
    )
