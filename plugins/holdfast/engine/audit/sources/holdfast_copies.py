"""The copies of Holdfast's records at its sites: what lies where, and which bytes they have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from holdfast.engine.audit.sources.holdfast_kinds import ROOTS, Kind, kind_of
from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore

_T = TypeVar("_T")


@dataclass(frozen=True)
class Place:
    """A bucket, or the folder of a vault in one, and what its keys are called here.

    Args:
        site: whose.
        store: keys are relative to it.
        roots: folders that are listed, each with what is stepped over in it.
        prefix: before a key in the name of a record.
    """

    site: str
    store: ObjectStore
    roots: Mapping[str, re.Pattern[str] | None] = field(default_factory=lambda: ROOTS)
    prefix: str = ""

    def name_of(self, key: str) -> str:
        """The record's name: the copy of a vault's entry is the same record."""
        if self.prefix and key.startswith("log-copies/"):
            key = key.replace("log-copies/", "log/", 1)
        return self.prefix + key


@dataclass(frozen=True, slots=True)
class Copy:
    """One object."""

    place: Place
    info: ObjectInfo


@dataclass(frozen=True)
class Record:
    """A record and where it lies."""

    name: str
    kind: Kind
    copies: tuple[Copy, ...]

    @property
    def arrived_at(self) -> datetime:
        """When the first copy that is known was written, by its store's clock."""
        return min(copy.info.modified_at for copy in self.copies)


@dataclass
class Survey:
    """Everything that is listed, and which sites told nothing."""

    records: dict[str, Record] = field(default_factory=dict)
    unread: dict[str, ObjectStoreError] = field(default_factory=dict)
    #: Sites that were not to be read, where records may lie as well.
    left_out: tuple[str, ...] = ()

    @property
    def is_partial(self) -> bool:
        """Whether what is not here may lie elsewhere."""
        return bool(self.unread or self.left_out)


def places_of(sites: Mapping[str, ObjectStore], vaults: Mapping[str, Mapping[str, ObjectStore]]) -> list[Place]:
    """The buckets, and the vaults' folders.

    Args:
        vaults: by name and site the store a vault, or its mirror, lies in.
    """
    found = [Place(site, store) for site, store in sites.items()]
    for vault, stores in vaults.items():
        for site, store in stores.items():
            found.append(Place(site, store, {"log/": None, "log-copies/": None}, f"vaults/{vault}/"))
    return found


def survey(places: list[Place]) -> Survey:
    """List every place, all at once."""
    result = Survey()
    copies: dict[str, list[Copy]] = {}
    for place, found, error in _each(places, _listed):
        for copy in found or ():
            copies.setdefault(place.name_of(copy.info.key), []).append(copy)
        if error is not None:
            result.unread[place.site] = error
    for name in sorted(copies):
        kind = kind_of(name)
        if kind is not None:
            result.records[name] = Record(name, kind, tuple(copies[name]))
    return result


def _listed(place: Place) -> list[Copy]:
    return [Copy(place, info) for root, skip in place.roots.items() for info in walked(place.store, root, skip)]


def walked(store: ObjectStore, root: str, skip: re.Pattern[str] | None) -> Iterator[ObjectInfo]:
    """A folder's objects; what is stepped over costs one listing, however much it holds."""
    after: str | None = None
    while True:
        for info in store.list(root, start_after=after):
            inside = skip.match(info.key) if skip else None
            if inside:
                after = f"{inside.group()}~"  # behind every digest
                break
            yield info
        else:
            return


def read_copies(record: Record) -> tuple[dict[bytes, list[Copy]], dict[str, ObjectStoreError]]:
    """The contents a record has, first that of its oldest copy, and which copies could not be read.

    A copy that is gone since it was listed is not there: an empty first part says that none is left.
    """
    contents: dict[bytes, list[Copy]] = {}
    unread: dict[str, ObjectStoreError] = {}
    for copy in sorted(record.copies, key=lambda one: (one.info.modified_at, one.place.site, one.info.key)):
        try:
            contents.setdefault(copy.place.store.get(copy.info.key), []).append(copy)
        except ObjectNotFound:
            continue
        except ObjectStoreError as error:
            unread[copy.place.site] = error
    return contents, unread


def _each(
    places: list[Place], work: Callable[[Place], _T]
) -> Iterator[tuple[Place, _T | None, ObjectStoreError | None]]:
    def attempt(place: Place) -> tuple[Place, _T | None, ObjectStoreError | None]:
        try:
            return place, work(place), None
        except ObjectStoreError as error:
            return place, None, error

    with ThreadPoolExecutor(max(1, min(8, len(places))), thread_name_prefix="holdfast-records") as pool:
        yield from pool.map(attempt, places)
