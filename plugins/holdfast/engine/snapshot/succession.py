"""Who comes next on a dataset's line: of publishers that follow the same snapshot, one becomes the line.

No store commits "if that one is still the newest". So a publisher writes a create-only *mark* of what is to follow the
parent, then looks whether the parent still is the newest, and commits. Who meets another's mark waits for its commit;
a mark whose commit does not come is a dead publisher's, and the next number takes its place. A publisher that was only
slow commits all the same, at a time that sorts before its successor's; and whoever commits looks at the line
afterwards. Of two commits that neither knew of the other the later look sees both, so one of them always says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field, ValidationError

from holdfast.clock import Clock
from holdfast.engine.objectstore.errors import ObjectNotFound
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.documents import Document, UtcTime
from holdfast.engine.snapshot.errors import LineSplit, Superseded
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.snapshot.records import CommitRecord, latest, read_record, record_keys

#: How long a mark without its commit record holds others off. What is right does not hang on it: between mark and
#: commit lie three requests, and who is slower is told so afterwards.
HOLD_SECONDS = 10.0
_POLL_SECONDS = 0.5
_NUMBER = re.compile(r"(\d{6})\.json")


class Successor(Document):
    """What a publisher is about to commit on top of a parent."""

    format: Literal["holdfast.successor/1"] = "holdfast.successor/1"
    dataset: str
    epoch: int = Field(ge=1)
    parent: str | None
    child: str = Field(pattern=r"^[0-9a-f]{32}$")
    write_id: str
    committed_at: UtcTime


@dataclass(frozen=True)
class Turn:
    """A publisher's place among those that follow the same parent."""

    dataset: str
    epoch: int
    parent: str | None
    number: int
    #: Its commit sorts after this moment: that of the mark before, which sorts after all earlier ones.
    after: datetime | None

    def not_before(self, moment: datetime) -> datetime:
        """A commit time that sorts after every earlier mark's."""
        return moment if self.after is None else max(moment, self.after + timedelta(microseconds=1))


def successor_key(dataset: str, epoch: int, parent: str | None, number: int) -> str:
    """Where the n-th mark of a parent's successor lies; under the parent, so that it goes when that is expired."""
    return f"{_prefix(dataset, epoch, parent)}{number:06d}.json"


def _prefix(dataset: str, epoch: int, parent: str | None) -> str:
    return f"{keys.root(dataset)}/{parent or 'none'}/successor-{epoch:06d}-"


def await_turn(
    store: ObjectStore, dataset: str, *, epoch: int, parent: str | None, write_id: str, clock: Clock
) -> Turn:
    """Wait while another publisher that follows this parent is about to commit.

    Args:
        write_id: a mark that has it is of an earlier call that failed, and nobody to wait for.

    Raises:
        Superseded: somebody published on top of the parent.
    """
    began, met = clock.monotonic(), 0
    last: Successor | None = None
    while True:
        marks = _marks(store, dataset, epoch, parent)
        if not marks:
            return Turn(dataset, epoch, parent, 1, None)
        require_newest(store, dataset, epoch=epoch, parent=parent)
        newest = max(marks)
        if newest != met:
            began, met = clock.monotonic(), newest
            last = _read(store, marks[newest])
        if clock.monotonic() - began >= HOLD_SECONDS or (last is not None and last.write_id == write_id):
            return Turn(dataset, epoch, parent, newest + 1, None if last is None else last.committed_at)
        clock.sleep(_POLL_SECONDS)


def claim(store: ObjectStore, turn: Turn, record: CommitRecord) -> None:
    """Mark a record as the parent's successor; then its commit may follow, at once.

    Raises:
        Superseded: another publisher was faster.
    """
    key = successor_key(turn.dataset, turn.epoch, turn.parent, turn.number)
    mark = Successor(
        dataset=turn.dataset,
        epoch=turn.epoch,
        parent=turn.parent,
        child=record.snapshot_id,
        write_id=record.write_id,
        committed_at=record.committed_at,
    ).to_json()
    there = create_or_read(store, key, mark, content_type="application/json")
    if there != mark:
        raise _superseded(store, turn.dataset, turn.parent, "another publisher's mark")
    require_newest(store, turn.dataset, epoch=turn.epoch, parent=turn.parent)


def require_newest(store: ObjectStore, dataset: str, *, epoch: int, parent: str | None) -> None:
    """Raises Superseded unless the parent is the newest selectable snapshot here."""
    newest = latest(store, dataset, epoch=epoch)
    found = None if newest is None else newest.snapshot_id
    if found != parent:
        raise _superseded(store, dataset, parent, f"snapshot {found}")


def check_line(store: ObjectStore, record: CommitRecord) -> None:
    """After a commit: whether all that was published since the parent follows this record.

    Raises:
        LineSplit: another snapshot follows the same parent, or an older one.
    """
    found = {key.snapshot_id: key for key in record_keys(store, record.dataset) if key.epoch == record.epoch}
    parent = found.get(record.parent or "")
    line = {record.snapshot_id}
    for key in sorted(found.values()):
        if key.snapshot_id in line or (parent is not None and key <= parent):
            continue
        try:
            other = read_record(store, key.key)
        except ObjectNotFound:
            continue  # expired since the listing
        if other.parent not in line:
            raise LineSplit(
                "two publishers followed the same snapshot, and both committed",
                where=f"{store.name}: {record.dataset}",
                expected=f"{record.snapshot_id} alone on top of {record.parent}",
                found=f"{other.snapshot_id} from {other.site}, on top of {other.parent}; the one with the later commit "
                "time is the newest snapshot",
                fix="Look at both (`holdfast sync snapshots`); if the newest is not the right one, roll back to the "
                "other",
            )
        line.add(other.snapshot_id)


def _marks(store: ObjectStore, dataset: str, epoch: int, parent: str | None) -> dict[int, str]:
    prefix = _prefix(dataset, epoch, parent)
    found = ((_NUMBER.fullmatch(info.key.removeprefix(prefix)), info.key) for info in store.list(prefix))
    return {int(match[1]): key for match, key in found if match}


def _read(store: ObjectStore, key: str) -> Successor | None:
    try:
        return Successor.model_validate_json(store.get(key))
    except (ObjectNotFound, ValidationError):
        return None  # nothing that could still be committed by it is known; the look afterwards sees it


def _superseded(store: ObjectStore, dataset: str, parent: str | None, found: str) -> Superseded:
    return Superseded(
        "another snapshot was published meanwhile",
        where=f"{store.name}: {dataset}",
        expected=f"{parent or 'nothing'} as the newest snapshot",
        found=found,
        fix="Run it again: it goes by what is the newest then. Nothing of this run is visible",
    )
