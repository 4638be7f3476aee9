"""What a merged snapshot is made of, beside it in both sites' buckets: who was overruled is known if a run dies."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from pydantic import Field, ValidationError

from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore
from holdfast.engine.replication.reports import Overruled
from holdfast.engine.snapshot.documents import Document
from holdfast.engine.snapshot.keys import root


class OverruledNote(Document):
    """One object of the losing site; the fields are those of `reports.Overruled`."""

    path: str
    site: str
    what: Literal["changed", "added", "deleted"]
    digest: str | None = None
    size_bytes: int | None = Field(None, ge=0)
    key: str | None = None
    version: str | None = None
    e_tag: str | None = None


class MergeNote(Document):
    """Which sites a snapshot merges, since when, and what of them is not in it. A hint: nothing is decided by it."""

    format: Literal["holdfast.merge/1"] = "holdfast.merge/1"
    dataset: str
    snapshot_id: str
    active_site: str
    peer: str
    winner: str
    common_snapshot_id: str
    overruled: tuple[OverruledNote, ...]


def note_key(dataset: str, snapshot_id: str) -> str:
    return f"{root(dataset)}/{snapshot_id}/merge.json"


def noted(overruled: tuple[Overruled, ...]) -> tuple[OverruledNote, ...]:
    """For a note."""
    return tuple(OverruledNote.model_validate(asdict(one)) for one in overruled)


def write_note(store: ObjectStore, note: MergeNote) -> None:
    """Write a note; before the snapshot's commit record."""
    key = note_key(note.dataset, note.snapshot_id)
    store.put(key, note.to_json(), mode=OVERWRITE, content_type="application/json")


def read_overruled(store: ObjectStore, dataset: str, snapshot_id: str) -> tuple[Overruled, ...]:
    """Who was overruled for a snapshot; nobody where it has no note."""
    try:
        note = MergeNote.model_validate_json(store.get(note_key(dataset, snapshot_id)))
    except (ObjectNotFound, ValidationError):
        return ()
    return tuple(Overruled(**one.model_dump()) for one in note.overruled)
