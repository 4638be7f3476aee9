"""Datasets at the active site: a snapshot of what lies there now, checked, and brought to the other sites."""

from __future__ import annotations

from holdfast.engine.pipeline.active import require_active
from holdfast.engine.pipeline.checking import check_version
from holdfast.engine.recovery.protection import protect_group
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import CommitRecord, latest, open_table, publish, take
from holdfast.errors import ConfigError, HoldfastError


class NotProtected(HoldfastError):
    """Something the group needs has no verified replica at some site."""

    transient = True


def publish_dataset(runtime: Runtime, group: str, dataset: str) -> CommitRecord:
    """Take a snapshot of a dataset at the group's active site and publish it there.

    A dataset that did not change gets no new snapshot: the newest one is returned. A version whose suite was not run
    yet is checked, which takes seconds, and its result kept; `validate_dataset` is what refuses one that does not meet
    it.

    Raises:
        UnknownName, GroupNotInitialised, NoMajority: see `require_active`.
        SnapshotError: it could not be taken or published.
    """
    path = runtime.topology.dataset(dataset).path
    state = require_active(runtime, group)
    store = runtime.store(state.active_site)
    previous = latest(store, dataset, epoch=state.epoch)
    taken = take(store, dataset=dataset, path=path, clock=runtime.clock, previous=previous)
    if previous is not None and taken.manifest.digest == previous.manifest_digest:
        check_version(runtime, store, previous)
        return previous
    record = publish(
        store,
        taken,
        epoch=state.epoch,
        site=state.active_site,
        parent=previous.snapshot_id if previous else None,
        clock=runtime.clock,
    )
    check_version(runtime, store, record)
    return record


def validate_dataset(runtime: Runtime, group: str, dataset: str) -> dict[str, str | int]:
    """Check the newest snapshot of a dataset at the active site against its expectations, and keep the result there.

    Returns:
        the snapshot's id and how many expectations were checked; 0 for a dataset without a suite.

    Raises:
        ConfigError: there is no snapshot.
        ExpectationsNotMet: the data breaks the suite; the result is kept all the same.
        ObjectStoreError: the result could not be kept.
    """
    settings = runtime.topology.dataset(dataset)
    state = require_active(runtime, group)
    store = runtime.store(state.active_site)
    record = latest(store, dataset, epoch=state.epoch)
    if record is None:
        raise ConfigError(
            "there is nothing to validate",
            where=f"dataset {dataset} at {state.active_site}",
            expected="a published snapshot",
            found="none",
            fix="Publish the dataset first",
        )
    if settings.expectations is None:
        return {"snapshot_id": record.snapshot_id, "expectations": 0}
    from holdfast.engine.quality import evaluate, require_met  # Great Expectations takes seconds to import
    from holdfast.engine.quality.results import keep_result

    path = runtime.topology.beside(settings.expectations)
    report = evaluate(open_table(store, record), path)
    keep_result(store, dataset, record.manifest_digest, report, path.read_bytes(), runtime.clock.now())
    require_met(report)
    return {"snapshot_id": record.snapshot_id, "expectations": report.checked}


def protect_everything(runtime: Runtime, group: str) -> list[dict[str, str | int]]:
    """Bring everything the active site holds of a group to the other sites, verified there.

    Returns:
        per subject and site what was done.

    Raises:
        NotProtected: some site could not be served; the others were.
    """
    done = protect_group(runtime, group, require_active(runtime, group))
    left = [f"{one.subject} → {one.target}: {one.detail}" for one in done if not one.ok]
    if left:
        raise NotProtected(
            "some of the group could not be replicated",
            where=f"group {group}",
            expected="a verified replica at every site",
            found="; ".join(left),
            fix="Bring the site back and run it again: what is there is not copied twice",
        )
    return [
        {
            "subject": one.subject,
            "target": one.target,
            "detail": one.detail,
            "objects": one.copied_objects,
            "size_bytes": one.copied_bytes,
        }
        for one in done
    ]
