"""What two sites that are both written to changed since they last agreed. Nothing is written, and nothing is merged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import pyarrow.compute as pc

from holdfast.engine.authority.interface import EpochState
from holdfast.engine.pipeline.active import require_active
from holdfast.engine.pipeline.merging import peer_of, require_comparable
from holdfast.engine.pipeline.replicas import datasets_of
from holdfast.engine.replication.directions import CONFLICTS, compare, last_common
from holdfast.engine.replication.plan.filters import left_out
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import Manifest, latest, load_manifest, take
from holdfast.engine.snapshot.manifest import write_table
from holdfast.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that is not equal at both sites and in the last common snapshot. No size: it is not there."""

    path: str
    what: str
    conflict: bool
    #: What a merge does by the winner rule.
    outcome: str
    active_size_bytes: int | None
    peer_size_bytes: int | None


@dataclass(frozen=True)
class ConflictReport:
    """Both sites' changes since their last common snapshot."""

    group: str
    dataset: str
    active_site: str
    peer: str
    direction: Literal["one-way", "active-active"]
    #: The site whose change stands in a conflict; ``None``: there is no such rule.
    winner: str | None
    common_snapshot_id: str
    common_taken_at: datetime
    differences: tuple[Difference, ...]

    @property
    def conflicts(self) -> int:
        """How many objects both sites changed, each in its own way."""
        return sum(one.conflict for one in self.differences)

    @property
    def unsettled(self) -> int:
        """Conflicts that no rule settles."""
        return self.conflicts if self.winner is None else 0


def report(
    runtime: Runtime, group: str, dataset: str, *, peer: str | None = None, winner: str | None = None
) -> ConflictReport:
    """Look at both sites' folders and compare each with the newest snapshot both have.

    What changed at a site is read there whole, to hash it.

    Args:
        peer: the other site; may be left out when the winner or the group's standbys leave no choice.
        winner: settle conflicts for this site instead of the policy's.

    Raises:
        UnknownName, ConfigError: no such site, the peer is not clear, or the policy has rules this cannot follow.
        GroupNotInitialised, NoMajority: nobody knows which site is active.
        NoCommonSnapshot: the sites never agreed.
        DatasetBusy: objects kept changing.
        EpochUnknownHere, StoreUnavailable: a site could not be looked at.
    """
    datasets_of(runtime, group, dataset)
    policy = runtime.topology.dataset(dataset).sync
    state = require_active(runtime, group)
    require_comparable(runtime, dataset)
    rule = winner or policy.winner
    other = peer_of(runtime, group, dataset, state, named=peer, winner=winner)
    if rule is not None and rule not in (state.active_site, other):
        raise ConfigError(
            "the winner is neither of the two sites",
            where=f"{dataset} of {group}",
            expected=f"{state.active_site} or {other}",
            found=rule,
            fix="Name the other site with --peer, or the winner with --winner",
        )
    here, there = runtime.store(state.active_site, flow=group), runtime.store(other, flow=group)
    common = last_common(here, there, dataset, epoch=state.epoch)
    live = [_live(runtime, group, dataset, site, state) for site in (state.active_site, other)]
    found = compare(load_manifest(here, common), *live, sites=(state.active_site, other))
    return ConflictReport(
        group=group,
        dataset=dataset,
        active_site=state.active_site,
        peer=other,
        direction=policy.direction,
        winner=rule,
        common_snapshot_id=common.snapshot_id,
        common_taken_at=common.taken_at,
        differences=tuple(_differences(found.table.to_pylist(), state.active_site, other, rule)),
    )


def _live(runtime: Runtime, group: str, dataset: str, site: str, state: EpochState) -> Manifest:
    """What lies in a site's folder now, as far as it belongs to the dataset."""
    store, settings = runtime.store(site, flow=group), runtime.topology.dataset(dataset)
    known = latest(store, dataset, epoch=state.epoch)  # tells what in the folder came with a replication
    taken = take(
        store, dataset=dataset, path=settings.path, clock=runtime.clock, previous=known, allow_empty=True
    ).manifest
    table = taken.table
    why = left_out(table["path"], table["size_bytes"], table["modified_at"], settings.sync.filters, runtime.clock.now())
    kept = table.filter(pc.is_null(why))
    return taken if kept.num_rows == table.num_rows else Manifest(kept, write_table(kept))


def _differences(rows: list[dict[str, Any]], active: str, peer: str, winner: str | None) -> Iterator[Difference]:
    for row in rows:
        conflict = row["state"] in CONFLICTS
        yield Difference(
            path=row["path"],
            what=row["state"].replace("left", f"at {active}").replace("right", f"at {peer}"),
            conflict=conflict,
            outcome=_outcome(row, conflict, active, peer, winner),
            active_size_bytes=row["size_left"],
            peer_size_bytes=row["size_right"],
        )


def _outcome(row: dict[str, Any], conflict: bool, active: str, peer: str, winner: str | None) -> str:
    if row["state"] == "same change":
        return "equal at both sites"
    if conflict and winner is None:
        return "a person decides"
    from_active = winner == active if conflict else row["state"].endswith("left")
    by, other = (active, peer) if from_active else (peer, active)
    gone = row["digest_left" if from_active else "digest_right"] is None
    return f"removed at {other}, as at {by}" if gone else f"{by}'s version goes to {other}"
