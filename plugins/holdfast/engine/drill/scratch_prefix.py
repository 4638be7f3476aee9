"""The isolated place of a restore drill: keys below ``restore-drills/<id>/``, and nothing of them left afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.parts import part_store
from holdfast.errors import ConfigError

FOLDER = "restore-drills/"
#: What a drill left whose process was killed is removed by a later one after this time.
LEFT_BEHIND = timedelta(days=7)
_ID = re.compile(r"^(?P<time>\d{8}T\d{6}Z)-[A-Za-z0-9-]{1,40}$")
_ROUNDS = 3
_MOST_NAMED = 20


@dataclass(frozen=True)
class Cleanup:
    """What became of the objects below a drill's prefix.

    Args:
        left: what is still there, the first few.
        clean: nothing is; ``None``: the store does not say.
    """

    removed: int
    left: tuple[str, ...]
    clean: bool | None
    error: str | None = None


def scratch_prefix(drill_id: str) -> str:
    """Where a drill restores to. Raises ConfigError: the id is no drill's."""
    if not _ID.match(drill_id):
        raise ConfigError(
            "a restore drill's id names the folder it restores to and removes",
            where="drill id",
            expected="<UTC time>-<random>, as `new_drill_id` makes it",
            found=repr(drill_id),
        )
    return f"{FOLDER}{drill_id}/"


def remove_all(store: ObjectStore, drill_id: str) -> Cleanup:
    """Remove everything below a drill's prefix, unfinished uploads as well. Never raises for what the store does."""
    prefix, removed, error = scratch_prefix(drill_id), 0, None
    for _ in range(_ROUNDS):
        try:
            with suppress(ObjectStoreError):  # an upload that cannot be dropped is no object
                _abort_uploads(store, prefix)
            for info in list(store.list(prefix)):
                store.delete(info.key)
                removed += 1
            left = tuple(info.key for info in store.list(prefix))
        except ObjectStoreError as failure:
            error = str(failure)
            continue
        if not left:
            return Cleanup(removed, (), True)
        error = None
    if error is not None:
        return Cleanup(removed, (), None, error)
    return Cleanup(removed, left[:_MOST_NAMED], False)


def remove_left_behind(store: ObjectStore, now: datetime) -> tuple[str, ...]:
    """Remove what drills left long ago whose process was killed. Returns their ids.

    Raises:
        ObjectStoreError: the store does not answer.
    """
    found = []
    for drill_id in sorted(set(_ids(store))):
        match = _ID.match(drill_id)
        if match is None:
            continue
        began = datetime.strptime(match["time"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if now - began > LEFT_BEHIND and remove_all(store, drill_id).clean:
            found.append(drill_id)
    return tuple(found)


def _ids(store: ObjectStore) -> Iterator[str]:
    for info in store.list(FOLDER):
        yield info.key.removeprefix(FOLDER).partition("/")[0]


def _abort_uploads(store: ObjectStore, prefix: str) -> None:
    parts = part_store(store)
    for upload in list(parts.uploads(prefix)) if parts is not None else []:
        parts.abort(upload)  # type: ignore[union-attr]  # the loop is empty without parts
