"""Both directions: what two sites changed since they last agreed, who wins, and what a failback ships.

Active–active means that writers write at two sites between syncs. Changes to different objects merge; changes to the
same object are a *conflict*, and without a site that wins nothing is merged. Comparing is pure: three manifests, one
Arrow join each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.replication.errors import ReplicationError
from holdfast.engine.snapshot.errors import SnapshotError
from holdfast.engine.snapshot.manifest import Diff, Manifest, diff
from holdfast.engine.snapshot.read import load_manifest
from holdfast.engine.snapshot.records import CommitRecord, iter_selectable, read_record, record_keys
from holdfast.errors import Refused

#: A path's fate, as a person reads it. `left` and `right` are the two sites.
CONFLICTS = ("both changed", "both added", "changed left, deleted right", "deleted left, changed right")


class ConflictsRefused(Refused, ReplicationError):
    """Both sites changed the same objects, and no site was named that wins. Nothing was copied."""

    def __init__(self, report: Comparison) -> None:
        self.report = report
        shown = [f"{row['path']} ({row['state']})" for row in report.conflicts.slice(0, 5).to_pylist()]
        more = report.conflicts.num_rows - len(shown)
        super().__init__(
            "both sites changed the same objects since they last agreed",
            where=f"{report.left} and {report.right}",
            expected="a `winner` in the dataset's sync policy, or changes to different objects only",
            found=f"{report.conflicts.num_rows} conflicts: {', '.join(shown)}" + (f" and {more} more" if more else ""),
            fix="Name the site that wins (`sync: {direction: active-active, winner: …}`), or settle these objects by "
            "hand at one of the sites",
        )


class NoCommonSnapshot(ReplicationError):
    """The two sites have no snapshot in common: there is nothing to tell changes by."""


@dataclass(frozen=True)
class Comparison:
    """Every path that is not equal at both sites and in the last common snapshot.

    ``table`` has ``path``, ``state`` (``changed left``, ``added right``, ``deleted left``, …, ``same change``, or one
    of `CONFLICTS`), and per side ``digest_left``, ``size_left``, ``digest_right``, ``size_right`` (null: not there).
    """

    left: str
    right: str
    table: pa.Table

    @property
    def conflicts(self) -> pa.Table:
        return self.table.filter(pc.is_in(self.table["state"], value_set=pa.array(CONFLICTS)))

    def counts(self) -> dict[str, int]:
        """State → number of paths."""
        return {row["values"]: row["counts"] for row in self.table["state"].value_counts().to_pylist()}


@dataclass(frozen=True)
class Merge:
    """What each site needs so that both are equal. Tables have ``path``, ``size_bytes`` and ``digest``."""

    comparison: Comparison
    winner: str | None
    #: To copy from the other site.
    to_left: pa.Table
    to_right: pa.Table
    #: Paths that the other site deleted.
    delete_left: tuple[str, ...]
    delete_right: tuple[str, ...]
    #: What the loser of each conflict had; its bytes stay in the loser's snapshots.
    overruled: pa.Table

    @property
    def is_empty(self) -> bool:
        return not (self.to_left.num_rows or self.to_right.num_rows or self.delete_left or self.delete_right)


@dataclass(frozen=True)
class ReversePlan:
    """What goes back to a site that was active before."""

    dataset: str
    snapshot_id: str
    source_site: str
    target_site: str
    #: What the target's own newest content lacks or has otherwise.
    difference: Diff
    #: Of that, what no snapshot at the target has at that path: these bytes go over the wire.
    ship: pa.Table
    #: What the target's newest snapshot has and no snapshot at the source ever had (published there after its epoch
    #: ended): it is not copied, and not lost; it stays in the target's bucket until somebody looks at it.
    stranded: pa.Table

    @property
    def ship_objects(self) -> int:
        return int(self.ship.num_rows)

    @property
    def ship_bytes(self) -> int:
        return int(pc.sum(self.ship["size_bytes"]).as_py() or 0)


def last_common(left: ObjectStore, right: ObjectStore, dataset: str, *, epoch: int) -> CommitRecord:
    """The newest selectable snapshot that is committed at both sites.

    Raises:
        NoCommonSnapshot: there is none.
        EpochUnknownHere: as `latest`.
    """
    there = {key.snapshot_id for key in record_keys(right, dataset)}
    for record in iter_selectable(left, dataset, epoch=epoch):
        if record.snapshot_id in there:
            return record
    raise NoCommonSnapshot(
        "the two sites have no snapshot in common",
        where=f"{left.name} and {right.name}: {dataset}",
        expected="a snapshot that both have committed",
        found=f"{len(there)} others at {right.name}",
        fix="Sync in one direction first",
    )


def compare(base: Manifest | None, left: Manifest, right: Manifest, *, sites: tuple[str, str]) -> Comparison:
    """What changed at each of two sites since a common snapshot.

    Args:
        base: the last common snapshot's manifest; ``None``: they never agreed, so whatever differs is a conflict.
        left, right: manifests of what lies at each site now, e.g. of `take` before anything is published.
        sites: their names.
    """
    columns = {"": base, "_left": left, "_right": right}
    tables = [_side(manifest, suffix) for suffix, manifest in columns.items()]
    both = tables[0].join(tables[1], "path", join_type="full outer").join(tables[2], "path", join_type="full outer")
    states = [_state(row["digest"], row["digest_left"], row["digest_right"]) for row in _rows(both)]
    table = both.append_column("state", pa.array(states, pa.string())).sort_by("path")
    names = ["path", "state", "size_left", "digest_left", "size_right", "digest_right"]
    return Comparison(*sites, table.filter(pc.is_valid(table["state"])).select(names))


def resolve(comparison: Comparison, winner: str | None) -> Merge:
    """What makes both sites equal.

    Args:
        winner: the site whose change stands where both changed the same object.

    Raises:
        ConflictsRefused: there are conflicts and no winner; every one of them is in the error's report.
        ValueError: the winner is neither of the sites.
    """
    if winner not in (None, comparison.left, comparison.right):
        raise ValueError(f"{winner!r} is neither {comparison.left} nor {comparison.right}")
    conflicts = comparison.conflicts
    if conflicts.num_rows and winner is None:
        raise ConflictsRefused(comparison)
    left_wins = [*(f"{verb} left" for verb in ("added", "changed", "deleted"))]
    right_wins = [*(f"{verb} right" for verb in ("added", "changed", "deleted"))]
    (left_wins if winner == comparison.left else right_wins).extend(CONFLICTS)
    table = comparison.table
    from_left = table.filter(pc.is_in(table["state"], value_set=pa.array(left_wins)))
    from_right = table.filter(pc.is_in(table["state"], value_set=pa.array(right_wins)))
    loser = "right" if winner == comparison.left else "left"
    return Merge(
        comparison=comparison,
        winner=winner,
        to_left=_present(from_right, "right"),
        to_right=_present(from_left, "left"),
        delete_left=_absent(from_right, "right"),
        delete_right=_absent(from_left, "left"),
        overruled=_present(conflicts, loser),
    )


def merge_plan(
    stores: Mapping[str, ObjectStore],
    dataset: str,
    *,
    epoch: int,
    policy: Sync,
    live: Mapping[str, Manifest],
) -> Merge:
    """What an active–active dataset's two sites need, by its policy.

    Args:
        stores: of the two sites.
        live: per site what lies in its folder now, as `take` sees it.

    Raises:
        ConflictsRefused: as `resolve`.
        NoCommonSnapshot, ManifestDamaged: nothing to compare by.
    """
    left, right = sorted(stores)
    common = last_common(stores[left], stores[right], dataset, epoch=epoch)
    base = load_manifest(stores[left], common)
    comparison = compare(base, live[left], live[right], sites=(left, right))
    return resolve(comparison, policy.winner if policy.direction == "active-active" else None)


def reverse_plan(
    source: ObjectStore, target: ObjectStore, record: CommitRecord, *, source_site: str, target_site: str
) -> ReversePlan:
    """What a failback ships to a site that has most of the dataset already. Only manifests are read.

    The target's newest commit record of its newest epoch counts, even of an epoch that ended: its bytes are as good.
    `replicate` or a sync finds them by hashing them where they lie, so it moves ``ship``, and besides only what the
    target's writers overwrote in place since its snapshots.

    Args:
        source: the site that is active now.
        target: the site that was.
        record: what goes back; committed at the source.
    """
    manifest = load_manifest(source, record)
    there = _manifests(target, record.dataset)
    newest = there[-1] if there else None
    difference = diff(manifest, newest)
    missing = pa.concat_tables([difference.added, difference.changed])
    ship = _without(missing, there)
    own = _PART.empty_table() if newest is None else newest.table.select(_PART.names)
    stranded = _without(own, _manifests(source, record.dataset))
    return ReversePlan(
        record.dataset, record.snapshot_id, source_site, target_site, difference, ship.sort_by("path"), stranded
    )


def _without(table: pa.Table, manifests: list[Manifest]) -> pa.Table:
    """The rows whose bytes none of the manifests has at the same path."""
    known = [chunk for item in manifests for chunk in _identity(item.table).chunks]
    have = pa.chunked_array(known, pa.string()).combine_chunks()
    return table.filter(pc.invert(pc.is_in(_identity(table), value_set=have)))


def _identity(table: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["digest"], table["path"], " ")


def _manifests(store: ObjectStore, dataset: str) -> list[Manifest]:
    """Every manifest committed here, by epoch and time; one that is damaged counts for nothing."""
    found = []
    for key in sorted(record_keys(store, dataset), key=lambda key: (key.epoch, key.committed_at)):
        try:
            found.append(load_manifest(store, read_record(store, key.key)))
        except SnapshotError:
            continue
    return found


_PART = pa.schema([("path", pa.string()), ("size_bytes", pa.int64()), ("digest", pa.string())])


def _side(manifest: Manifest | None, suffix: str) -> pa.Table:
    table = _PART.empty_table() if manifest is None else manifest.table.select(_PART.names)
    return table.rename_columns(["path", f"size{suffix}", f"digest{suffix}"])


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    return list(table.select(["digest", "digest_left", "digest_right"]).to_pylist())


def _state(base: str | None, left: str | None, right: str | None) -> str | None:
    """What happened to a path; ``None``: nothing."""
    if left == right:
        return None if left == base else "same change"
    if left == base:
        return f"{_verb(base, right)} right"
    if right == base:
        return f"{_verb(base, left)} left"
    if left is None:
        return "deleted left, changed right"
    if right is None:
        return "changed left, deleted right"
    return "both added" if base is None else "both changed"


def _verb(base: str | None, now: str | None) -> str:
    return "deleted" if now is None else "added" if base is None else "changed"


def _present(table: pa.Table, side: str) -> pa.Table:
    there = table.filter(pc.is_valid(table[f"digest_{side}"]))
    return there.select(["path", f"size_{side}", f"digest_{side}"]).rename_columns(_PART.names)


def _absent(table: pa.Table, side: str) -> tuple[str, ...]:
    return tuple(table.filter(pc.is_null(table[f"digest_{side}"]))["path"].to_pylist())
