"""Tombstones: what may be removed from a replica, since when, and what was spared again. docs/formats/tombstone.md.

All documents are create-only and none is ever changed, so two runs at once, or one that died, leave nothing half told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, ValidationError

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore, ObjectVersion
from holdfast.engine.replication.errors import ReplicationError
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.documents import Document, UtcTime, canonical
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.snapshot.placement import same_version
from holdfast.engine.snapshot.removals import expiry_prefix, removal_prefix, tombstone_prefix

Why = Literal["left", "superseded", "stray"]


class TombstoneDamaged(ReplicationError):
    """A tombstone is not what was written. Nothing was removed."""


class Gone(Document):
    """One object of a replica that the newest snapshot does not need."""

    path: str = Field(description="Relative to the dataset's folder.")
    key: str
    why: Why = Field(
        description="`left`: the source has no such object any more; `superseded`: it has other bytes at this path; "
        "`stray`: no snapshot here names it; a replication that was cut off left it, or its snapshots were expired."
    )
    size_bytes: int = Field(ge=0)
    e_tag: str | None
    version: str | None
    modified_at: UtcTime

    def is_still(self, info: ObjectInfo | None) -> bool:
        """Whether the object at the key still is the one that was marked."""
        return (
            info is not None
            and info.size_bytes == self.size_bytes
            and info.modified_at == self.modified_at
            and same_version(info.version, ObjectVersion(self.e_tag, self.version))
        )

    @property
    def identity(self) -> tuple[str, str | None, str | None]:
        return self.key, self.e_tag, self.version


class _Sealed(Document):
    """A document named by the digest of its content."""

    dataset: str
    id: str = Field(pattern=r"^[0-9a-f]{32}$", description="Of the document: digest of everything else in it.")

    @classmethod
    def seal(cls, **fields: object) -> Self:
        draft = cls.model_validate({**fields, "id": "0" * 32})
        return draft.model_copy(update={"id": draft.content_id()})

    def content_id(self) -> str:
        return digest_of(canonical(self.model_dump(mode="json", exclude={"id"}))).partition(":")[2][:32]


class Tombstone(_Sealed):
    """Objects of a replica that may be removed after a while."""

    format: Literal["holdfast.tombstone/1"] = "holdfast.tombstone/1"
    site: str
    path: str = Field(description="The dataset's folder under `data/`.")
    snapshot_id: str = Field(description="The newest snapshot when it was marked.")
    snapshot_committed_at: UtcTime = Field(description="Of that snapshot: later ones may need the objects again.")
    marked_at: UtcTime
    remove_after: UtcTime
    approved: str | None = Field(description="The approval it needed; none: it was within the limits.")
    objects: tuple[Gone, ...]

    @property
    def key(self) -> str:
        return f"{tombstone_prefix(self.dataset)}{self.id}.json"


class Spared(_Sealed):
    """Objects of a tombstone that are not to be removed after all."""

    format: Literal["holdfast.tombstone-spared/1"] = "holdfast.tombstone-spared/1"
    tombstone: str
    #: ``undone``: a person said so, and they are not marked again. ``named``: a later snapshot names them.
    why: Literal["undone", "named"]
    keys: tuple[str, ...]
    reason: str
    at: UtcTime

    @property
    def key(self) -> str:
        return f"{tombstone_prefix(self.dataset)}{self.tombstone}.spared-{self.id}.json"


class Finished(Document):
    """Every object of a tombstone was removed, was spared or is another object now."""

    format: Literal["holdfast.tombstone-finished/1"] = "holdfast.tombstone-finished/1"
    tombstone: str
    at: UtcTime


class Expired(Document):
    """A snapshot that a `keep` rule ended at this site. It is never published here again."""

    format: Literal["holdfast.expired/1"] = "holdfast.expired/1"
    dataset: str
    snapshot_id: str
    site: str
    at: UtcTime

    @property
    def key(self) -> str:
        return f"{expiry_prefix(self.dataset)}{self.snapshot_id}.json"


@dataclass(frozen=True)
class Pending:
    """A tombstone that is not finished, and the keys of it that were spared."""

    tombstone: Tombstone
    spared: frozenset[str]

    @property
    def objects(self) -> tuple[Gone, ...]:
        return tuple(item for item in self.tombstone.objects if item.key not in self.spared)


@dataclass(frozen=True)
class Graveyard:
    """All tombstones of a dataset at a site."""

    pending: tuple[Pending, ...]
    #: What a person undid, whatever tombstone names it: (key, ETag, version).
    undone: frozenset[tuple[str, str | None, str | None]]

    @property
    def marked(self) -> set[tuple[str, str | None, str | None]]:
        return {item.identity for one in self.pending for item in one.objects}


def write(store: ObjectStore, key: str, document: Document) -> None:
    """Write a document whose key says what it is; twice is once."""
    create_or_read(store, key, document.to_json(), content_type="application/json")


def finish(store: ObjectStore, dataset: str, document: Finished) -> None:
    write(store, f"{tombstone_prefix(dataset)}{document.tombstone}.finished.json", document)


def read_graveyard(store: ObjectStore, dataset: str) -> Graveyard:
    """One listing, and one read for each tombstone that is not finished and for each that was spared.

    Raises:
        TombstoneDamaged: one of them is not what was written.
    """
    prefix = tombstone_prefix(dataset)
    skip = (removal_prefix(dataset), expiry_prefix(dataset))
    found = [info.key for info in store.list(prefix) if not info.key.startswith(skip)]
    finished = {key.removesuffix(".finished.json") for key in found if key.endswith(".finished.json")}
    tombstones = [key for key in found if "." not in key[len(prefix) :].removesuffix(".json")]
    spared = list(_spared(store, [key for key in found if ".spared-" in key[len(prefix) :]]))
    pending, undone = [], set()
    for key in tombstones:
        mine = [item for item in spared if key == f"{prefix}{item.tombstone}.json"]
        if key.removesuffix(".json") in finished and not any(item.why == "undone" for item in mine):
            continue
        tombstone = Tombstone.model_validate_json(_read(store, key, Tombstone))
        for item in mine:
            if item.why == "undone":
                undone |= {gone.identity for gone in tombstone.objects if gone.key in item.keys}
        if key.removesuffix(".json") not in finished:
            pending.append(Pending(tombstone, frozenset(name for item in mine for name in item.keys)))
    return Graveyard(tuple(pending), frozenset(undone))


def _spared(store: ObjectStore, found: list[str]) -> Iterator[Spared]:
    for key in found:
        yield Spared.model_validate_json(_read(store, key, Spared))


def _read(store: ObjectStore, key: str, kind: type[_Sealed]) -> bytes:
    """The bytes of a document that proves itself. Raises TombstoneDamaged."""
    try:
        data = store.get(key)
        document = kind.model_validate_json(data)
        if document.content_id() == document.id and document.id in key:
            return data
        found = "content that gives another id"
    except ObjectNotFound:
        found = "nothing, though it was just listed"
    except ValidationError as error:
        found = f"{error.error_count()} errors in it"
    raise TombstoneDamaged(
        "a tombstone is not what was written",
        where=f"{store.name}: {key}",
        expected=kind.model_fields["format"].default,
        found=found,
        fix="Remove it by hand when it is plainly broken: what it names is then marked anew",
    )
