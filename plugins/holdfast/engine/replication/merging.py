"""What two sites' changes come to: who stands, what goes where, what is overruled, and what a person must confirm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config.sync import Deletes
from holdfast.engine.replication.directions import Comparison, Merge, compare, resolve
from holdfast.engine.replication.errors import ReplicationError
from holdfast.engine.replication.plan.estimate import FEW_OBJECTS, looks_truncated
from holdfast.engine.replication.reports import Overruled
from holdfast.engine.replication.source import is_among
from holdfast.engine.replication.written import Written
from holdfast.engine.snapshot.digest import digest_of
from holdfast.engine.snapshot.documents import canonical
from holdfast.engine.snapshot.manifest import Manifest
from holdfast.errors import Refused

_TEXT = pa.string()
MERGED = pa.schema([("path", _TEXT), ("digest", _TEXT), ("size_bytes", pa.int64())])


class MergeNeedsApproval(Refused, ReplicationError):
    """The merge would drop more than passes without a person, or a site looks cut off. Nothing was published."""

    def __init__(self, approval_id: str, why: str, where: str, first: str) -> None:
        self.approval_id = approval_id
        super().__init__(
            "the merge would drop so many objects that a person must confirm it",
            where=where,
            expected="few objects gone from either site since the snapshot both have, and whole listings",
            found=f"{why}; first {first}",
            fix=f"If that is right: `holdfast sync run … --approve-deletes {approval_id}` (it approves exactly these "
            "objects); if not, put them back at the site that lost them, or roll the dataset back",
        )


@dataclass(frozen=True)
class Decision:
    """The dataset as both sites' changes make it."""

    #: Schema `MERGED`, sorted by path.
    merged: pa.Table
    merge: Merge
    #: Paths of the common snapshot, or of the active site's newest, that are not in it.
    dropped: tuple[str, ...]
    overruled: tuple[Overruled, ...]

    def count(self, *states: str) -> int:
        """How many paths had one of these fates."""
        counts = self.merge.comparison.counts()
        return sum(counts.get(state, 0) for state in states)


def decide(common: Manifest, here: Written, there: Written, winner: str) -> Decision:
    """Merge what the latest looks at the active site and at its peer show; every object of them is hashed.

    Args:
        winner: the site whose change stands in a conflict, one of the two.
    """
    changed = (here.changed(common.table), there.changed(common.table))
    touched = pa.chunked_array([chunk for one in changed for chunk in one.chunks], pa.string())
    base = Manifest(common.table.filter(is_among(common.table["path"], touched)), b"")
    sites = (here.site, there.site)
    merge = resolve(compare(base, here.manifest(touched), there.manifest(touched), sites=sites), winner)
    mine = here.seen.chosen.select(MERGED.names)
    leaves = pa.chunked_array([merge.to_left["path"].combine_chunks(), pa.array(merge.delete_left, pa.string())])
    stays = mine.filter(pc.invert(is_among(mine["path"], leaves)))
    merged = pa.concat_tables([stays.cast(MERGED), merge.to_left.select(MERGED.names).cast(MERGED)]).sort_by("path")
    known = _known(common, here)
    gone = known.filter(pc.invert(is_among(known, merged["path"])))
    loser = there if winner == here.site else here
    overruled = tuple(_overruled(merge.comparison, loser, "left" if loser is here else "right"))
    return Decision(merged.combine_chunks(), merge, tuple(sorted(gone.to_pylist())), overruled)


def _overruled(comparison: Comparison, loser: Written, side: str) -> Iterator[Overruled]:
    conflicts = comparison.conflicts
    rows = loser.seen.chosen
    rows = rows.filter(is_among(rows["path"], conflicts["path"]))
    lie = {row["path"]: row for row in rows.to_pylist()}
    for row in conflicts.to_pylist():
        place = lie.get(row["path"])
        verbs = [part.split(" ")[0] for part in row["state"].split(", ") if part.endswith(side)]
        what = verbs[0] if verbs else row["state"].removeprefix("both ")
        if place is None:
            yield Overruled(row["path"], loser.site, what)
        else:
            yield Overruled(
                path=row["path"],
                site=loser.site,
                what=what,
                digest=place["digest"],
                size_bytes=place["size_bytes"],
                key=place["key"],
                version=place["version"],
                e_tag=place["e_tag"],
            )


def require_few_dropped(
    decision: Decision, common: Manifest, here: Written, there: Written, limits: Deletes, approve: str | None
) -> None:
    """Raises MergeNeedsApproval when a site's listing looks cut off, or more is dropped than the limits let pass.

    Fewer than ten objects always pass, as long as the site that dropped them has others.
    """
    if not decision.dropped:
        return
    dataset = here.run.dataset
    approval_id = digest_of(canonical([dataset, "merge", list(decision.dropped)])).partition(":")[2][:16]
    why = [f"at {side.site} {cut_off}" for side in (here, there) if (cut_off := _cut_off(side, common)) is not None]
    count, total = len(decision.dropped), len(_known(common, here))
    if count >= FEW_OBJECTS and (count > limits.most_objects or count > limits.most_share * total):
        why.append(
            f"{count} of {total} objects ({count / total:.0%}) would go, more than {limits.most_objects} or "
            f"{limits.most_share:.0%}"
        )
    if why and approve != approval_id:
        where = f"{dataset} at {here.site} and {there.site}"
        raise MergeNeedsApproval(approval_id, " and ".join(why), where, decision.dropped[0])


def _known(common: Manifest, side: Written) -> pa.ChunkedArray:
    """The paths of the common snapshot and of a site's newest: that may be one the other site never got."""
    both = pa.chunked_array([*common.table["path"].chunks, *side.published.chunks], _TEXT)
    return pa.chunked_array([pc.unique(both)])


def _cut_off(side: Written, common: Manifest) -> str | None:
    """Why a site's listing looks cut off beside the common snapshot and its own newest one."""
    standing, known = side.seen.standing["path"].cast(_TEXT), _known(common, side)
    gone = known.filter(pc.invert(is_among(known, standing)))
    last = pc.max(standing)
    tail = int(pc.sum(pc.greater(gone, last)).as_py() or 0) if last.is_valid else len(gone)
    return looks_truncated(listed=len(standing), known=len(known), removed=len(gone), tail=tail)
