"""Begin an epoch at a site: from one recovery point, and from nothing else that lies in its folder."""

from __future__ import annotations

from dataclasses import replace

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.lineage import EpochFork, read_fork, write_fork
from holdfast.engine.snapshot.placement import leftover, write_placement
from holdfast.engine.snapshot.read import open_snapshot
from holdfast.engine.snapshot.records import CommitRecord


def begin_epoch(store: ObjectStore, record: CommitRecord | None, fork: EpochFork, *, live: bool = False) -> EpochFork:
    """Write where an epoch of a dataset forked from, at the site that becomes active.

    What lies in the dataset's folder and is not in the recovery point (writes of an old epoch, parts of a replication
    that was cut off) is noted first, so that the new epoch's first snapshot does not take it for new data.

    Args:
        record: the verified recovery point; ``None``: the dataset begins with nothing here.
        fork: names it; idempotent on its plan as `write_fork` is.
        live: the site had writers of its own before. What they put there since the recovery point is new data to the
            next look, and nothing is noted; parts of a replication are told by their mark.

    Returns:
        the fork that holds. Go on with it, not with the argument.

    Raises:
        ForkConflict: another plan wrote this epoch's fork.
    """
    root = keys.root(fork.subject)
    if record is not None and not live and read_fork(store, root, fork.epoch) is None:
        _note_leftovers(store, record, fork.site)
    return write_fork(store, root, fork)


def _note_leftovers(store: ObjectStore, record: CommitRecord, site: str) -> None:
    opened = open_snapshot(store, record)
    folder = keys.data_folder(record.path) + "/"
    listed = {info.key: info for info in store.list(folder)}
    rows = []
    for path in opened.manifest.paths:
        place = opened.placed[path]
        own = folder + path
        other = listed.get(own) if place.key != own else None
        rows.append(
            replace(
                place,
                other_version=other.version.version if other else None,
                other_e_tag=other.version.e_tag if other else None,
                other_modified_at=other.modified_at if other else None,
            )
        )
    members = set(opened.manifest.paths)
    for key, info in listed.items():
        path = key.removeprefix(folder)
        if path not in members and not path.startswith(keys.VERSIONS + "/"):
            rows.append(leftover(info, path))
    write_placement(store, record, site, rows)
