"""Collection: it may die anywhere, beside a writer, under any clock, and what an election takes is never hurt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoint.worlds import Guard, manifest_of, write
from holdfast.clock import FakeClock
from holdfast.engine.checkpoint import CheckpointManifest, CheckpointUnreadable, elect, fork_run, replicate_checkpoint
from holdfast.engine.checkpoint.collect import Collected, GraceInvalid, collect
from holdfast.engine.checkpoint.commit import WritesHeld, commit_manifest, ensure_blob
from holdfast.engine.checkpoint.errors import Fenced
from holdfast.engine.checkpoint.format import blob_key, canonical, digest_of, manifest_key
from holdfast.engine.checkpoint.guard import AlwaysGranted, Permission
from holdfast.engine.checkpoint.replicate import receipt_key
from holdfast.engine.checkpoint.retention import KeepPolicy
from holdfast.engine.checkpoint.retired import read_records
from holdfast.engine.objectstore import OVERWRITE, ObjectInfo, ObjectStore, ObjectVersion, PutMode, memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.snapshot.errors import EpochUnknownHere

GRACE_SECONDS = 600.0
POLICY = KeepPolicy(last=2)


class ClockedStore(StoreDecorator):
    """A store that dates its objects by a clock the test moves."""

    def __init__(self, inner: ObjectStore, clock: FakeClock) -> None:
        super().__init__(inner)
        self.clock = clock
        self._at: dict[str, datetime] = {}

    def put(
        self,
        key: str,
        data: bytes | Iterable[bytes],
        *,
        mode: PutMode = OVERWRITE,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> ObjectVersion:
        version = super().put(key, data, mode=mode, content_type=content_type, metadata=metadata, attributes=attributes)
        self._at[key] = self.clock.now()
        return version

    def head(self, key: str) -> ObjectInfo:
        return replace(super().head(key), modified_at=self._at[key])

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        for info in super().list(prefix, start_after=start_after):
            yield replace(info, modified_at=self._at[info.key])


class Died(BaseException):
    """The process is gone; nothing catches it."""


class MortalStore(StoreDecorator):
    """A store whose caller dies at the n-th change it makes, before it happened or right after."""

    def __init__(self, inner: ObjectStore, dies_at: int, *, after: bool) -> None:
        super().__init__(inner)
        self.changes = 0
        self._dies_at, self._after = dies_at, after

    def put(self, key: str, data: bytes | Iterable[bytes], **options: Any) -> ObjectVersion:  # type: ignore[override]
        self._change(after=False)
        version = super().put(key, data, **options)
        self._change(after=True)
        return version

    def delete(self, key: str) -> None:
        self._change(after=False)
        super().delete(key)
        self._change(after=True)

    def _change(self, *, after: bool) -> None:
        self.changes += not after
        if self.changes == self._dies_at and after is self._after:
            raise Died


def clocked(clock: FakeClock | None = None) -> ClockedStore:
    return ClockedStore(memory_store(), clock or FakeClock())


def chain(store: ObjectStore, *steps: int, epoch: int = 1, parent: CheckpointManifest | None = None) -> None:
    for step in steps:
        parent = write(store, step, epoch=epoch, parent=parent)


def run_collect(store: ObjectStore, policy: KeepPolicy = POLICY, **changes: Any) -> Collected:
    options: dict[str, Any] = {
        "epoch": 1,
        "guard": AlwaysGranted(),
        "clock": FakeClock(),
        "grace_seconds": GRACE_SECONDS,
        **changes,
    }
    return collect(store, "run", policy, **options)


def keys(store: ObjectStore, part: str) -> set[str]:
    return {info.key for info in store.list(f"runs/run/{part}/")}


def blob_of(step: int) -> str:
    return blob_key("run", digest_of(f"model after {step}".encode()))


def test_manifests_go_first_and_their_blobs_after_the_grace() -> None:
    store = clocked()
    chain(store, 10, 20, 30, 40)
    first = run_collect(store)
    assert keys(store, "checkpoints") == {manifest_key("run", 30, 1), manifest_key("run", 40, 1)}
    assert keys(store, "blobs") == {blob_of(step) for step in (10, 20, 30, 40)}
    store.clock.advance(GRACE_SECONDS - 1)
    assert run_collect(store).waiting == (first.record,)
    store.clock.advance(1)
    second = run_collect(store)
    assert second.finished == (first.record,)
    assert len(second.deleted_blobs) == 2
    assert keys(store, "blobs") == {blob_of(30), blob_of(40)}
    assert dict(read_records(store, "run")) == {}
    assert second.endangered == ()


def test_a_blob_that_a_kept_checkpoint_names_stays() -> None:
    store = clocked()
    first = write(store, 10, model=b"frozen")
    second = write(store, 20, parent=first, model=b"other")
    write(store, 30, parent=second, model=b"frozen")
    run_collect(store, KeepPolicy(last=1))
    store.clock.advance(GRACE_SECONDS)
    run_collect(store, KeepPolicy(last=1))
    assert keys(store, "blobs") == {blob_key("run", digest_of(b"frozen"))}
    assert elect(store, "run", epoch=1).step == 30


def test_a_blob_taken_into_use_between_the_phases_stays() -> None:
    store = clocked()
    chain(store, 10, 20, 30)
    run_collect(store, KeepPolicy(last=1))
    again = write(store, 40, model=b"model after 10")
    store.clock.advance(GRACE_SECONDS)
    done = run_collect(store, KeepPolicy(last=1))
    assert blob_of(10) in keys(store, "blobs")
    assert blob_of(20) not in keys(store, "blobs")
    assert done.endangered == ()
    assert elect(store, "run", epoch=1).digest == again.digest


def test_a_blob_retired_twice_waits_for_the_second_grace() -> None:
    store = clocked()
    chain(store, 10, 20)
    run_collect(store, KeepPolicy(last=1))
    write(store, 30, model=b"model after 10")
    store.clock.advance(GRACE_SECONDS / 2)
    chain(store, 40)
    run_collect(store, KeepPolicy(last=1))  # now the checkpoint of step 30 is retired too, with the same blob
    store.clock.advance(GRACE_SECONDS / 2)
    run_collect(store, KeepPolicy(last=1))
    assert blob_of(10) in keys(store, "blobs")
    store.clock.advance(GRACE_SECONDS / 2)
    run_collect(store, KeepPolicy(last=1))
    assert keys(store, "blobs") == {blob_of(40)}


@pytest.mark.parametrize("off_seconds", [-3600.0, 3600.0, 1e9])
def test_the_grace_is_the_stores_whatever_the_callers_clock_says(off_seconds: float) -> None:
    store = clocked()
    chain(store, 10, 20, 30)
    here = FakeClock(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=off_seconds))
    run_collect(store, clock=here)
    here.advance(10 * GRACE_SECONDS)
    assert run_collect(store, clock=here).deleted_blobs == ()
    store.clock.advance(GRACE_SECONDS)
    assert len(run_collect(store, clock=here).deleted_blobs) == 1


def test_a_dry_run_says_what_would_go_and_writes_nothing() -> None:
    store = MortalStore(clocked(), dies_at=-1, after=False)
    chain(store, 10, 20, 30)
    before, changes = keys(store, ""), store.changes
    told = run_collect(store, dry_run=True)
    assert [one.manifest.step for one in told.choice.retired] == [10]
    assert (keys(store, ""), store.changes) == (before, changes)


def test_nothing_is_deleted_while_nothing_is_verified_not_even_what_is_due() -> None:
    store = clocked()
    chain(store, 10, 20, 30, 40)
    run_collect(store)
    store.clock.advance(GRACE_SECONDS)
    for step in (30, 40):
        store.put(blob_of(step), b"?" * len(f"model after {step}"))
    before = keys(store, "")
    done = run_collect(store)
    assert (done.deleted_blobs, done.choice.retired) == ((), ())
    assert keys(store, "") == before


def test_a_damaged_newest_leaves_the_newest_that_reads_back() -> None:
    store = clocked()
    chain(store, 10, 20, 30, 40, 50)
    store.put(blob_of(50), b"?" * len("model after 50"))  # of the right size: only reading tells
    store.delete(blob_of(40))
    run_collect(store, KeepPolicy(last=1))
    assert elect(store, "run", epoch=1).step == 30
    assert manifest_key("run", 50, 1) in keys(store, "checkpoints")


def test_a_checkpoint_without_a_receipt_here_is_not_what_makes_it_safe() -> None:
    source, target = memory_store("a"), clocked()
    first = write(source, 10)
    second = write(source, 20, parent=first)
    for manifest in (first, second):
        replicate_checkpoint(source, target, "run", manifest, site="site-b")
    target.delete(receipt_key("run", second.digest, "site-b"))
    run_collect(target, KeepPolicy(last=1), site="site-b")
    assert elect(target, "run", epoch=1, site="site-b").step == 10


def test_receipts_of_what_is_gone_go_too() -> None:
    source, target = memory_store("a"), clocked()
    parent = None
    for step in (10, 20):
        parent = write(source, step, parent=parent)
        replicate_checkpoint(source, target, "run", parent, site="site-b")
    for _ in range(2):
        run_collect(target, KeepPolicy(last=1), site="site-b")
        target.clock.advance(GRACE_SECONDS)
    assert parent is not None
    assert [info.key for info in target.list("receipts/")] == [receipt_key("run", parent.digest, "site-b")]


@pytest.mark.parametrize(("permission", "error"), [(Permission.FENCED, Fenced), (Permission.HELD, WritesHeld)])
def test_without_permission_nothing_is_written_or_deleted(permission: Permission, error: type[Exception]) -> None:
    store = clocked()
    chain(store, 10, 20, 30)
    before = keys(store, "")
    with pytest.raises(error):
        run_collect(store, guard=Guard(permission))
    assert keys(store, "") == before


def test_a_fence_in_the_middle_stops_the_next_deletion() -> None:
    store = clocked()
    chain(store, 10, 20, 30, 40)

    class FencedSoon:
        asked = 0

        def permission(self) -> Permission:
            self.asked += 1
            return Permission.GRANTED if self.asked <= 3 else Permission.FENCED

    with pytest.raises(Fenced):
        run_collect(store, KeepPolicy(last=1), guard=FencedSoon())
    assert len(keys(store, "checkpoints")) == 3  # one of three was deleted


def test_a_newer_fork_in_the_bucket_fences_and_an_unknown_epoch_refuses() -> None:
    store = clocked()
    chain(store, 10, 20, 30)
    with pytest.raises(EpochUnknownHere):
        run_collect(store, epoch=2)
    fork(store, 2)
    with pytest.raises(Fenced, match="fork record of epoch 2"):
        run_collect(store)
    assert len(keys(store, "checkpoints")) == 3


def test_a_manifest_of_a_later_format_stops_everything() -> None:
    store = clocked()
    chain(store, 10, 20, 30)
    store.put(manifest_key("run", 40, 1), canonical({"format": "holdfast.checkpoint/3"}))
    with pytest.raises(CheckpointUnreadable, match="another format"):
        run_collect(store)
    assert len(keys(store, "checkpoints")) == 4


def test_what_a_damaged_manifest_names_stays() -> None:
    store = clocked()
    chain(store, 10, 20, 30)
    damaged = manifest_key("run", 20, 1)
    store.put(damaged, store.get(damaged)[:-1])
    for _ in range(2):
        run_collect(store, KeepPolicy(last=1))
        store.clock.advance(GRACE_SECONDS)
    assert keys(store, "blobs") == {blob_of(20), blob_of(30)}


def test_what_an_unreadable_record_names_stays() -> None:
    store = clocked()
    chain(store, 10, 20, 30)
    first = run_collect(store)
    assert first.record is not None
    store.put(first.record, store.get(first.record) + b"\n")
    store.clock.advance(GRACE_SECONDS)
    assert run_collect(store).waiting == (first.record,)
    assert blob_of(10) in keys(store, "blobs")


@pytest.mark.parametrize("grace", [-1.0, float("nan"), float("inf")])
def test_a_grace_that_is_none_is_refused(grace: float) -> None:
    with pytest.raises(GraceInvalid):
        run_collect(clocked(), grace_seconds=grace)


def test_a_writer_that_commits_over_a_deletion_is_told_of_and_passed_over() -> None:
    """The one window: a blob found whole before the deletion, its manifest committed after the last look."""
    store = clocked()
    chain(store, 10, 20, 30)
    run_collect(store, KeepPolicy(last=1))
    store.clock.advance(GRACE_SECONDS)
    late, blobs = manifest_of(40, model=b"model after 10")
    for data in blobs.values():
        ensure_blob(store, "run", digest_of(data), data)  # it is there: the writer goes on

    class CommitsMeanwhile(StoreDecorator):
        def delete(self, key: str) -> None:
            super().delete(key)
            if key == blob_of(10):
                commit_manifest(store, late, guard=AlwaysGranted())

    done = run_collect(CommitsMeanwhile(store), KeepPolicy(last=1))
    assert done.endangered == (late.key,)
    assert elect(store, "run", epoch=1).step == 30


def test_the_record_names_only_what_no_manifest_that_stays_names() -> None:
    store = clocked()
    first = write(store, 10, model=b"frozen")
    second = write(store, 20, parent=first, model=b"torn")
    third = write(store, 30, parent=second, model=b"gone")
    for step, model in ((40, b"torn"), (50, b"frozen")):
        third = write(store, step, parent=third, model=model)
    torn = manifest_key("run", 40, 1)
    store.put(torn, store.get(torn)[:-1])
    run_collect(store, KeepPolicy(last=1))
    (record,) = dict(read_records(store, "run")).values()
    assert record is not None
    assert record.blobs == (digest_of(b"gone"),)
    assert [one.key for one in record.manifests] == [manifest_key("run", step, 1) for step in (30, 20, 10)]


def test_a_step_that_another_process_reached_again_is_not_deleted() -> None:
    store = clocked()
    chain(store, 10, 20, 30)
    again, _ = manifest_of(10, model=b"another")

    class ReachesAgain(StoreDecorator):
        def put(self, key: str, data: bytes | Iterable[bytes], **options: Any) -> ObjectVersion:  # type: ignore[override]
            version = super().put(key, data, **options)
            if "/retired/" in key:  # another collection took the old one meanwhile
                super().put(again.key, again.data)
            return version

    run_collect(ReachesAgain(store))
    assert store.get(again.key) == again.data


def test_a_receipt_of_a_checkpoint_that_came_back_stays() -> None:
    source, target = memory_store("a"), clocked()
    manifests: list[CheckpointManifest] = []
    for step in (10, 20):
        manifests.append(write(source, step, parent=manifests[-1] if manifests else None))
        replicate_checkpoint(source, target, "run", manifests[-1], site="site-b")
    run_collect(target, KeepPolicy(last=1), site="site-b")
    replicate_checkpoint(source, target, "run", manifests[0], site="site-b")
    target.clock.advance(GRACE_SECONDS)
    run_collect(target, KeepPolicy(last=2), site="site-b")
    assert len(list(target.list("receipts/"))) == 2
    target.delete(blob_of(20))
    assert elect(target, "run", epoch=1, site="site-b").step == 10


def test_the_golden_record_is_what_a_collection_writes_and_reads() -> None:
    store = clocked()
    chain(store, 10, 20, 30)
    done = run_collect(store, new_id=lambda: "0123456789abcdef" * 2)
    assert done.record == f"runs/run/retired/{'0123456789abcdef' * 2}.json"
    golden = (Path(__file__).parents[2] / "golden" / "checkpoint" / "retired.json").read_bytes()
    assert store.get(done.record) == golden
    assert dict(read_records(store, "run"))[done.record] is not None


def fork(store: ObjectStore, epoch: int) -> None:
    fork_run(
        store,
        "run",
        epoch=epoch,
        parent_epoch=epoch - 1,
        election=elect(store, "run", epoch=epoch - 1, or_nothing=True),
        site="site-b",
        plan_id=f"plan-{epoch}",
        holder="test",
        reason="test",
        clock=FakeClock(),
    )


def contents(store: ObjectStore) -> set[str]:
    return keys(store, "checkpoints") | keys(store, "blobs")


def a_run_to_collect() -> ClockedStore:
    """With one retirement due and another to come."""
    store = clocked()
    chain(store, 10, 20, 30, 40)
    run_collect(store)
    chain(store, 50, 60)
    store.clock.advance(GRACE_SECONDS)
    return store


def changes_of_one_collection() -> int:
    store = MortalStore(a_run_to_collect(), dies_at=-1, after=False)
    run_collect(store)
    return store.changes


def finish(store: ClockedStore) -> None:
    for _ in range(3):
        run_collect(store)
        store.clock.advance(GRACE_SECONDS)


@pytest.mark.parametrize("after", [False, True])
def test_a_collection_that_dies_at_any_change_is_finished_by_the_next_ones(after: bool) -> None:
    undisturbed = a_run_to_collect()
    finish(undisturbed)
    number = changes_of_one_collection()
    assert number == 7  # the clock, two blobs, the record of old; a new record, two manifests
    for dies_at in range(1, number + 1):
        store = a_run_to_collect()
        with pytest.raises(Died):
            run_collect(MortalStore(store, dies_at, after=after))
        assert elect(store, "run", epoch=1).step == 60
        blobs = keys(store, "blobs")
        assert {blob_of(50), blob_of(60)} <= blobs
        run_collect(store)  # at once: what died may not have shortened the grace of what it had just retired
        assert {blob_of(30), blob_of(40)} <= keys(store, "blobs")
        finish(store)
        assert contents(store) == contents(undisturbed)
        assert dict(read_records(store, "run")) == {}


def test_a_collection_that_dies_again_and_again_still_gets_there() -> None:
    store = a_run_to_collect()
    for _ in range(12):
        with suppress(Died):
            run_collect(MortalStore(store, 2, after=True))
        assert elect(store, "run", epoch=1).step == 60
    finish(store)
    undisturbed = a_run_to_collect()
    finish(undisturbed)
    assert contents(store) == contents(undisturbed)


_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("save"), st.integers(0, 5)),  # few contents, so blobs come back
        st.tuples(st.just("collect"), st.integers(0, 9)),  # dies at this change, 0: lives
        st.tuples(st.just("wait"), st.integers(0, 2)),
        st.tuples(st.just("damage"), st.integers(0, 9)),
        st.tuples(st.just("fork"), st.just(0)),
        st.tuples(st.just("stale save"), st.integers(0, 5)),
    ),
    max_size=30,
)


@settings(max_examples=150)
@given(_EVENTS, st.integers(1, 3), st.one_of(st.none(), st.integers(1, 40)))
def test_no_history_lets_a_collection_change_what_is_elected(
    events: list[tuple[str, int]], last: int, every: int | None
) -> None:
    store, policy = clocked(), KeepPolicy(last=last, every_steps=every)
    epoch, step = 1, 0
    heads: dict[int, CheckpointManifest | None] = {1: None}
    for event, number in events:
        if event in ("save", "stale save"):
            writer = epoch if event == "save" else max(1, epoch - 1)
            step += 10
            heads[writer] = write(store, step, epoch=writer, parent=heads[writer], model=f"content {number}".encode())
        elif event == "wait":
            store.clock.advance(number * GRACE_SECONDS / 2)
        elif event == "damage":
            blobs = sorted(keys(store, "blobs"))
            if blobs:
                store.delete(blobs[number % len(blobs)])
        elif event == "fork":
            election = elect(store, "run", epoch=epoch, or_nothing=True)
            fork(store, epoch + 1)
            epoch += 1
            heads[epoch] = election.manifest
        else:
            before = elect(store, "run", epoch=epoch, or_nothing=True)
            with suppress(Died):
                run_collect(MortalStore(store, number, after=bool(number % 2)), policy, epoch=epoch)
            after = elect(store, "run", epoch=epoch, or_nothing=True)
            assert (after.digest, after.resume) == (before.digest, before.resume)
