"""May this source write to this target: the epochs both know decide."""

from __future__ import annotations

from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.replication.errors import StaleSource
from holdfast.engine.snapshot import keys
from holdfast.engine.snapshot.errors import ForkConflict, LineageError
from holdfast.engine.snapshot.lineage import EpochFork, fork_key, read_forks
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.snapshot.records import iter_selectable


def refuse_stale(
    source: ObjectStore,
    target: ObjectStore,
    *,
    dataset: str,
    epoch: int,
    snapshot_id: str | None,
    source_site: str,
) -> None:
    """A source that missed an epoch has nothing to bring but what that epoch descends from.

    Args:
        source: a bucket that knows the source's lineage.
        epoch: of the snapshot.
        snapshot_id: the snapshot; ``None``: one still to be made, which nothing descends from.

    Raises:
        StaleSource: the target is in a newer epoch without this snapshot in its ancestry.
    """
    root = keys.root(dataset)
    forks = read_forks(target, root)
    newest = forks[-1].epoch if forks else 1
    if epoch >= newest:
        return
    if snapshot_id is not None and (
        forks[-1].forked_from == snapshot_id or _descends(source, dataset, newest, snapshot_id)
    ):
        return
    raise StaleSource(
        "the target is in a newer epoch, and this snapshot is not in its ancestry",
        where=f"{target.name}: {root}",
        expected=f"a snapshot of epoch {newest} or one it descends from",
        found=f"{f'snapshot {snapshot_id}' if snapshot_id else 'a new snapshot'} of epoch {epoch} from {source_site}",
        fix="Replicate from the active site; `holdfast authority show` names it",
    )


def _descends(source: ObjectStore, dataset: str, newest: int, snapshot_id: str) -> bool:
    """Whether the source knows the newest epoch and has this snapshot in its ancestry."""
    try:
        return any(item.snapshot_id == snapshot_id for item in iter_selectable(source, dataset, epoch=newest))
    except LineageError:
        return False


def copy_forks(source: ObjectStore, target: ObjectStore, *, dataset: str, source_site: str, target_site: str) -> None:
    """Have every fork record of the source at the target: they go before anything that may be selected by them.

    Raises:
        ForkConflict: source and target tell the same epoch's beginning differently.
    """
    root = keys.root(dataset)
    there = {fork.epoch: fork for fork in read_forks(target, root)}
    for fork in read_forks(source, root):
        other = there.get(fork.epoch)
        if other is None:
            key = fork_key(root, fork.epoch)
            other = EpochFork.model_validate_json(
                create_or_read(target, key, fork.to_json(), content_type="application/json")
            )
        if (other.plan_id, other.forked_from, other.parent_epoch) != (
            fork.plan_id,
            fork.forked_from,
            fork.parent_epoch,
        ):
            raise ForkConflict(
                "source and target tell differently where an epoch began",
                where=f"{root}, epoch {fork.epoch}",
                expected=f"plan {fork.plan_id}, forked from {fork.forked_from} (at {source_site})",
                found=f"plan {other.plan_id}, forked from {other.forked_from} (at {target_site})",
                fix="`holdfast authority show` names the plan that committed it; the other fork record is wrong",
            )
