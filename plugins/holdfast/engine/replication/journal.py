"""What a sync notes at a target while it copies, so that the next one goes on instead of beginning again.

Under ``uploads/<dataset>/`` at the target:

- ``copied/<run>-<number>.parquet``: objects that have landed, in bunches. The first is empty and written before the
  first object: its being there says that a run was cut off (or is under way).
- ``<digest of the path>.json``: a large object whose parts are on their way.

Both are hints: what they name is checked against listings and the stores' own parts before it is believed. They are
removed once the snapshot is published at that target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError

from holdfast.clock import Clock
from holdfast.engine.objectstore.encrypted import encrypts
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore, ObjectVersion
from holdfast.engine.objectstore.parts import Upload
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.documents import Document, UtcTime
from holdfast.engine.snapshot.errors import ManifestDamaged
from holdfast.engine.snapshot.keys import check_name
from holdfast.engine.snapshot.manifest import read_table, write_table

#: A bunch is written after so many objects or so long, whichever comes first.
BUNCH_OBJECTS = 2000
BUNCH_SECONDS = 5.0
_ENCRYPTED = "-encrypted.parquet"

_TIME = pa.timestamp("us", tz="UTC")
COPIED = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        # The object's state at the source when it was read.
        pa.field("key", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("version", pa.string()),
        pa.field("e_tag", pa.string()),
        pa.field("modified_at", _TIME, nullable=False),
        # Where it landed here, and as what; `proof` says how it was verified.
        pa.field("target_key", pa.string(), nullable=False),
        pa.field("target_version", pa.string()),
        pa.field("target_e_tag", pa.string()),
        pa.field("proof", pa.string(), nullable=False),
    ],
    metadata={b"format": b"holdfast.copied/1"},
)


def folder(dataset: str) -> str:
    """Where a dataset's unfinished work is noted, with the slash."""
    return f"uploads/{check_name(dataset)}/"


class UploadNote(Document):
    """A large object whose parts are on their way to this target."""

    format: Literal["holdfast.upload/1"] = "holdfast.upload/1"
    dataset: str
    path: str = Field(description="Relative path in the dataset.")
    key: str = Field(description="What the object will be called here.")
    upload_id: str
    started_at: UtcTime
    part_bytes: int = Field(gt=0)
    source_site: str
    source_key: str
    source_version: str | None
    source_e_tag: str | None
    size_bytes: int = Field(ge=0)

    @property
    def upload(self) -> Upload:
        return Upload(self.key, self.upload_id, self.started_at)

    def is_of(self, source_site: str, source_key: str, pin: ObjectVersion, size_bytes: int) -> bool:
        """Whether it is of exactly this state of the source's object."""
        mine = (self.source_site, self.source_key, self.source_e_tag, self.source_version, self.size_bytes)
        return mine == (source_site, source_key, pin.e_tag, pin.version, size_bytes)


def note_key(dataset: str, path: str) -> str:
    return f"{folder(dataset)}{digest_of(path.encode()).partition(':')[2][:32]}.json"


def write_note(store: ObjectStore, note: UploadNote) -> None:
    """Write or replace the note of one object."""
    store.put(note_key(note.dataset, note.path), note.to_json(), mode=OVERWRITE, content_type="application/json")


def read_note(store: ObjectStore, key: str) -> UploadNote | None:
    """A note; ``None`` when there is none, or none that can be read."""
    try:
        return UploadNote.model_validate_json(store.get(key))
    except (ObjectNotFound, ValidationError):
        return None


@dataclass
class Unfinished:
    """What earlier runs left at a target."""

    copied: pa.Table
    #: Keys of the bunches, and of the notes.
    bunches: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def cut_off(self) -> bool:
        return bool(self.bunches or self.notes)


def unfinished(store: ObjectStore, dataset: str) -> Unfinished:
    """Read what earlier runs noted. One listing, and a read for each bunch."""
    found = Unfinished(COPIED.empty_table())
    tables, encrypted = [], encrypts(store, dataset)
    prefix = folder(dataset)
    for info in store.list(prefix):
        name = info.key.removeprefix(prefix)
        if name.startswith("copied/"):
            found.bunches.append(info.key)
        elif name.endswith(".json") and "/" not in name:
            found.notes.append(info.key)
    for key in found.bunches:
        if key.endswith(_ENCRYPTED) is not encrypted:
            continue  # `encrypt` was turned on or off since: what landed then cannot be read now
        try:
            tables.append(read_table(store.get(key), COPIED, f"{store.name}: {key}"))
        except (ManifestDamaged, ObjectNotFound):
            continue  # a hint lost: its objects are looked at again
    if tables:
        found.copied = pa.concat_tables(tables)
    return found


class RunJournal:
    """The bunches one run writes at one target. Used by one thread."""

    def __init__(self, store: ObjectStore, dataset: str, run_id: str, clock: Clock) -> None:
        self._store, self._run_id, self._clock = store, run_id, clock
        self._prefix = f"{folder(dataset)}copied/{run_id}-"
        self._suffix = _ENCRYPTED if encrypts(store, dataset) else ".parquet"
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._at = clock.monotonic()
        self.keys: list[str] = []

    def begin(self) -> None:
        """Say that a run is under way."""
        if not self.keys:
            self._put(COPIED.empty_table())

    def add(self, rows: pa.Table) -> None:
        """Note objects (schema `COPIED`) that have landed; written when there are many or it was long ago."""
        self._waiting.append(rows)
        self._rows += rows.num_rows
        if self._rows >= BUNCH_OBJECTS or self._clock.monotonic() - self._at >= BUNCH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._rows:
            self._put(pa.concat_tables(self._waiting))
        self.forget()

    def forget(self) -> None:
        """Drop what waits: it is published now, or its target does not answer."""
        self._waiting, self._rows, self._at = [], 0, self._clock.monotonic()

    def _put(self, table: pa.Table) -> None:
        key = f"{self._prefix}{len(self.keys):06d}{self._suffix}"
        self._store.put(key, write_table(table.cast(COPIED)), mode=OVERWRITE)
        self.keys.append(key)


def clear(store: ObjectStore, keys: Sequence[str]) -> None:
    """Remove notes that have served."""
    for key in keys:
        store.delete(key)


def identity(rows: pa.Table) -> Any:
    """One text for each object in one state at the source."""
    texts = [
        pc.fill_null(rows[name].cast(pa.string()), "\0")
        for name in ("path", "key", "size_bytes", "version", "e_tag", "modified_at")
    ]
    return pc.binary_join_element_wise(*texts, pa.scalar("\n"))
