"""Election at a named site: what came from elsewhere needs this site's receipt, and residency has the first word."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from engine.checkpoint.worlds import write
from holdfast.engine.checkpoint import CheckpointManifest, elect, newest, replicate_checkpoint
from holdfast.engine.checkpoint.format import blob_key
from holdfast.engine.checkpoint.replicate import receipt_key
from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.recovery import new_plan
from holdfast.engine.recovery.points import find_points
from holdfast.engine.recovery.residency import checkpoints_allowed
from world import GCP, GROUP, RUN, make_world


def copied_without_receipt(source: ObjectStore, target: ObjectStore, manifest: CheckpointManifest) -> None:
    """As a bucket's own replication would bring it: every byte, and nobody's word that it was read back."""
    for key in (*(blob_key("run", blob.digest) for blob in manifest.blobs.values()), manifest.key):
        target.put(key, source.get(key))


def test_a_checkpoint_from_elsewhere_without_a_receipt_is_passed_over() -> None:
    source, target = memory_store("a"), memory_store("b")
    first = write(source, 10)
    second = write(source, 20, parent=first)
    replicate_checkpoint(source, target, "run", first, site="site-b")
    copied_without_receipt(source, target, second)
    election = elect(target, "run", epoch=1, site="site-b")
    assert election.digest == first.digest
    assert [(one.key, one.reason) for one in election.passed_over] == [(second.key, "no receipt at site-b")]
    assert elect(target, "run", epoch=1).digest == second.digest  # who names no site asks for the bytes alone


def test_what_was_written_at_the_site_needs_no_receipt() -> None:
    store = memory_store()
    own = write(store, 10)
    assert elect(store, "run", epoch=1, site="site-a").digest == own.digest


def test_another_sites_receipt_does_not_count() -> None:
    source, target = memory_store("a"), memory_store("b")
    manifest = write(source, 10)
    replicate_checkpoint(source, target, "run", manifest, site="site-b")
    assert elect(target, "run", epoch=1, site="site-c").manifest is None
    target.put(receipt_key("run", manifest.digest, "site-c"), target.get(receipt_key("run", manifest.digest, "site-b")))
    moved = elect(target, "run", epoch=1, site="site-c")
    assert moved.manifest is None
    assert moved.passed_over[0].reason == "the receipt at site-c is of another checkpoint or site"


def test_an_unreadable_receipt_is_no_receipt() -> None:
    source, target = memory_store("a"), memory_store("b")
    manifest = write(source, 10)
    replicate_checkpoint(source, target, "run", manifest, site="site-b")
    target.put(receipt_key("run", manifest.digest, "site-b"), b"{}")
    election = elect(target, "run", epoch=1, site="site-b")
    assert (election.manifest, election.passed_over[0].reason) == (None, "the receipt at site-b is not readable")


def test_a_receipt_does_not_stand_in_for_damaged_bytes() -> None:
    source, target = memory_store("a"), memory_store("b")
    manifest = write(source, 10)
    replicate_checkpoint(source, target, "run", manifest, site="site-b")
    target.delete(blob_key("run", manifest.model_digest))
    assert elect(target, "run", epoch=1, site="site-b").manifest is None


def test_what_residency_forbids_is_passed_over_with_its_reason() -> None:
    store = memory_store()
    good = write(store, 10, dataset_snapshot="open")
    bad = write(store, 20, parent=good, dataset_snapshot="closed")

    def allowed(manifest: CheckpointManifest) -> str | None:
        return "made from closed data" if manifest.dataset_snapshot == "closed" else None

    election = elect(store, "run", epoch=1, allowed=allowed)
    assert election.digest == good.digest
    assert [(one.key, one.reason) for one in election.passed_over] == [(bad.key, "made from closed data")]
    found = newest(store, "run", epoch=1, allowed=allowed)
    assert found is not None
    assert found.digest == good.digest


def test_a_residency_class_tightened_later_forbids_what_lies_there_already() -> None:
    world = make_world()
    job = world.topology.group(GROUP).training[0]
    manifest = write(memory_store(), 10)
    assert checkpoints_allowed(world.topology, job, GCP)(manifest) is None
    world.topology.sites[GCP] = world.topology.site(GCP).model_copy(update={"jurisdiction": "US"})
    reason = checkpoints_allowed(world.topology, job, GCP)(manifest)
    assert reason is not None
    assert "residency forbids it" in reason


def test_a_plan_does_not_elect_a_checkpoint_nobody_read_back_at_its_target() -> None:
    world = make_world()
    plan = new_plan(world, GROUP, reason="test", plan_id="p1", target=GCP)
    with ThreadPoolExecutor(4) as pool:
        before = find_points(world, plan, pool).runs[0].election
        assert before.digest is not None
        world.bare(GCP).delete(receipt_key(RUN, before.digest, GCP))
        after = find_points(world, plan, pool).runs[0].election
    assert after.digest != before.digest
    assert after.passed_over[0].reason == f"no receipt at {GCP}"
