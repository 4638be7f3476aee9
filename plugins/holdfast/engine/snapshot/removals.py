"""Bytes that a delete run is removing right now, and the check of who publishes meanwhile.

A delete run writes its *intent* (the keys it is about to remove) before it reads which snapshots name what; whoever
publishes writes its placement before it reads the intents. So one of the two sees the other: a publisher that finds
an intent over a key it relies on does not commit, and a delete run that finds a placement spares its keys, even before
there is a commit record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from pydantic import Field, ValidationError

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.documents import Document, UtcTime
from holdfast.engine.snapshot.errors import SnapshotError
from holdfast.engine.snapshot.manifest import read_table
from holdfast.engine.snapshot.placement import SCHEMA, Placed


class BytesBeingRemoved(SnapshotError):
    """A delete run removes bytes this snapshot relies on. Nothing was committed; run again when it is through."""

    transient = True


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


def check_before_commit(store: ObjectStore, dataset: str, path: str, relied_on: Iterable[str]) -> None:
    """Call it after the placement was written and before the commit record. One listing where nothing was ever deleted.

    Args:
        path: the dataset's folder under ``data/``.
        relied_on: the keys where the snapshot's bytes lie here.

    Raises:
        BytesBeingRemoved: a delete run has an intent over one of them, or one of them is gone since it was read back.
    """
    if next(iter(store.list(tombstone_prefix(dataset))), None) is None:
        return
    wanted = set(relied_on)
    for removal in removals(store, dataset):
        if doomed := wanted.intersection(removal.keys):
            raise _removed(store, min(doomed), f"delete run {removal.removal_id} is removing it")
    # A run that was through before the intents were read left none; what it removed shows in a listing.
    if gone := wanted - {info.key for info in store.list(keys.data_folder(path) + "/")}:
        raise _removed(store, min(gone), "nothing")


def placements(store: ObjectStore, dataset: str) -> dict[str, list[Placed]]:
    """Every placement in this bucket by snapshot id, of committed snapshots and of those that may be committed yet."""
    found: dict[str, list[Placed]] = {}
    prefix = keys.root(dataset) + "/"
    for info in store.list(prefix):
        snapshot_id, _, name = info.key.removeprefix(prefix).partition("/")
        if name.startswith("placement-") and name.endswith(".parquet"):
            try:
                table = read_table(store.get(info.key), SCHEMA, f"{store.name}: {info.key}")
            except ObjectNotFound:
                continue
            found.setdefault(snapshot_id, []).extend(Placed(**row) for row in table.to_pylist())
    return found


def keys_of(rows: Mapping[str, Placed] | Iterable[Placed]) -> set[str]:
    """The keys that hold bytes of a snapshot."""
    values = rows.values() if isinstance(rows, Mapping) else rows
    return {row.key for row in values if row.key is not None}


def _removed(store: ObjectStore, key: str, found: str) -> BytesBeingRemoved:
    return BytesBeingRemoved(
        "bytes this snapshot relies on are being removed",
        where=f"{store.name}: {key}",
        expected="the bytes that were read back there",
        found=found,
        fix="Run it again; what is missing is copied anew",
    )
