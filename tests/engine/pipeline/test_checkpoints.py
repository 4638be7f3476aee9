"""A run's checkpoints per site: what counts, what is odd, what is damaged."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import pytest

from holdfast.engine.checkpoint import AlwaysGranted, CheckpointManifest, replicate_checkpoint
from holdfast.engine.checkpoint.commit import commit_manifest, ensure_blob
from holdfast.engine.checkpoint.compression import BlobEncoder, Compression
from holdfast.engine.checkpoint.format import ENCODED_FORMAT, BlobRef, blob_key, canonical, digest_of, model_digest
from holdfast.engine.drill import checkpoints as drill_checkpoints
from holdfast.engine.objectstore.interface import CREATE, OVERWRITE
from holdfast.engine.pipeline.checkpoints import list_checkpoints, verify_checkpoints
from holdfast.engine.pipeline.runs import NoRun, check_run_name, owner_of
from holdfast.engine.recovery import new_plan, run_plan
from holdfast.engine.recovery.subjects import run_name
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError, UnknownName
from world import AWS, AZURE, GCP, GROUP, JOB, RUN, World, make_world

LATER = "holdfast.checkpoint/3"


@pytest.fixture
def world() -> World:
    return make_world()


def as_runtime(world: World) -> Runtime:
    return cast("Runtime", world)


def flip(world: World, site: str, step: int) -> None:
    """Other bytes of the same length in the blob of this step."""
    manifest = next(one for one in all_of(world, site) if one.step == step)
    key = blob_key(RUN, manifest.blobs["model"].digest)
    data = bytearray(world.bare(site).get(key))
    data[0] ^= 1
    world.bare(site).put(key, bytes(data), mode=OVERWRITE)


def all_of(world: World, site: str) -> list[CheckpointManifest]:
    return drill_checkpoints.list_checkpoints(world.bare(site), RUN)


def test_a_listing_tells_own_replicated_and_missing_receipts_apart(world: World) -> None:
    unread = world.checkpoint(AWS, 150, 1)
    reference = unread.blobs["model"]
    ensure_blob(world.bare(GCP), RUN, reference.digest, b"model at step 150")
    commit_manifest(world.bare(GCP), unread, guard=AlwaysGranted())
    found = list_checkpoints(as_runtime(world), RUN)
    receipts = {(site.site, one.step): one.receipt for site in found.sites for one in site.checkpoints}
    assert receipts == {(AWS, 150): "own", (AWS, 100): "own", (GCP, 150): f"no receipt at {GCP}", (GCP, 100): "yes"}
    assert (found.group, found.job, found.active_site) == (GROUP, JOB, AWS)


def test_what_a_stale_writer_left_is_listed_and_not_in_the_lineage(world: World) -> None:
    world.board.cut.add(AWS)
    assert run_plan(world, new_plan(world, GROUP, reason="test"), senses=world.senses).complete
    world.board.cut.clear()
    stale = world.checkpoint(AWS, 250, 1)
    replicate_checkpoint(world.bare(AWS), world.bare(GCP), RUN, stale, site=GCP, clock=world.clock)
    found = {site.site: site for site in list_checkpoints(as_runtime(world), RUN).sites}
    assert {one.step: one.in_lineage for one in found[GCP].checkpoints} == {250: False, 100: True}
    # Nobody told the lost site of the new epoch: nothing is claimed of its lineage.
    assert {one.in_lineage for one in found[AWS].checkpoints} == {None}
    assert "epoch" in str(found[AWS].error)


def test_equal_models_raise_an_alarm_only_when_steps_were_done(world: World) -> None:
    assert list_checkpoints(as_runtime(world), RUN).alarms == ()
    first = next(iter(all_of(world, AWS)))
    same = first.model_copy(update={"step": 200, "parent": first.digest, "write_id": "0" * 32})
    commit_manifest(world.bare(AWS), type(first).model_validate(same.model_dump()), guard=AlwaysGranted())
    found = list_checkpoints(as_runtime(world), RUN, site=AWS)
    assert found.alarms == ("the model at step 200 is identical to step 100's: nothing was learnt",)
    assert [one.alarm is not None for one in found.sites[0].checkpoints] == [True, False]


def test_an_unreadable_manifest_is_named_and_hides_no_other(world: World) -> None:
    world.bare(AWS).put(f"runs/{RUN}/checkpoints/{200:012d}.{1:06d}.json", b"{}")
    found = list_checkpoints(as_runtime(world), RUN, site=AWS).sites[0].checkpoints
    assert [(one.step, one.unreadable is None) for one in found] == [(200, False), (100, True)]


def test_a_site_that_does_not_answer_is_reported_and_the_others_are_listed(world: World) -> None:
    world.board.cut.add(GCP)
    found = {site.site: site for site in list_checkpoints(as_runtime(world), RUN).sites}
    assert "cut off" in str(found[GCP].error)
    assert len(found[AWS].checkpoints) == 1


def test_whole_checkpoints_are_intact_and_shared_blobs_are_read_once(world: World) -> None:
    found = verify_checkpoints(as_runtime(world), RUN)
    assert found.verdict == "intact"
    assert [(site.site, len(site.checkpoints)) for site in found.sites] == [(AWS, 1), (GCP, 1)]
    assert found.sites[0].read_bytes == len(b"model at step 100")


def compressed(world: World, step: int, **lies: object) -> CheckpointManifest:
    """A checkpoint at the active site whose model lies compressed; its manifest may lie about it."""
    content = b"the model " * 10_000
    reference, frame = BlobEncoder(Compression("auto")).form(content, digest_of(content))
    ensure_blob(world.bare(AWS), RUN, reference.digest, frame)
    blobs = {"model": BlobRef.model_validate({**reference.model_dump(), **lies})}
    document = {**all_of(world, AWS)[0].model_dump(), "step": step, "format": ENCODED_FORMAT, "blobs": blobs}
    document |= {"model_digest": model_digest(blobs, ["model"]), "write_id": f"{step:032}"}
    return commit_manifest(world.bare(AWS), CheckpointManifest.model_validate(document), guard=AlwaysGranted())


def test_compressed_checkpoints_are_decoded_and_told_with_both_sizes(world: World) -> None:
    manifest = compressed(world, 200)
    found = verify_checkpoints(as_runtime(world), RUN, site=AWS)
    assert found.verdict == "intact"
    sizes = {one.step: (one.encoded, one.size_bytes, one.content_bytes) for one in found.sites[0].checkpoints}
    assert sizes == {100: (0, 17, 17), 200: (1, manifest.size_bytes, 100_000)}
    listed = list_checkpoints(as_runtime(world), RUN, site=AWS).sites[0].checkpoints[0]
    assert (listed.encoded, listed.size_bytes, listed.content_bytes) == (1, manifest.size_bytes, 100_000)


def test_a_manifest_that_lies_about_compressed_content_is_damaged(world: World) -> None:
    compressed(world, 200, content_size_bytes=99_999)
    found = verify_checkpoints(as_runtime(world), RUN, site=AWS)
    assert found.verdict == "damaged"
    (told,) = [one.damage for one in found.sites[0].checkpoints if one.damage]
    assert "does not decode to what its manifest names" in told


def test_a_blob_that_one_manifest_names_rightly_and_another_wrongly_is_looked_at_twice(world: World) -> None:
    compressed(world, 200)
    compressed(world, 300, content_digest=digest_of(b"something else"))
    found = verify_checkpoints(as_runtime(world), RUN, site=AWS)
    assert {one.step: one.damage is not None for one in found.sites[0].checkpoints} == {
        300: True,
        200: False,
        100: False,
    }


def test_a_checkpoint_of_a_later_format_is_unknown_and_no_damage(world: World) -> None:
    world.bare(AWS).put(f"runs/{RUN}/checkpoints/000000000200.000001.json", canonical({"format": LATER}), mode=CREATE)
    found = verify_checkpoints(as_runtime(world), RUN, site=AWS)
    assert found.verdict == "unknown"
    later, older = found.sites[0].checkpoints
    assert (later.damage, older.damage, older.unknown) == (None, None, None)
    assert LATER in str(later.unknown)
    listed = list_checkpoints(as_runtime(world), RUN, site=AWS).sites[0].checkpoints
    assert [one.unreadable is not None for one in listed] == [True, False]
    flip(world, AWS, 100)
    assert verify_checkpoints(as_runtime(world), RUN, site=AWS).verdict == "damaged"


@pytest.mark.parametrize("harm", ["flipped", "missing", "manifest"])
def test_every_damage_is_found_at_its_site_and_step_alone(world: World, harm: str) -> None:
    later = world.checkpoint(AWS, 200, 1)
    if harm == "flipped":
        flip(world, AWS, 200)
    elif harm == "missing":
        world.bare(AWS).delete(blob_key(RUN, later.blobs["model"].digest))
    else:
        world.bare(AWS).put(later.key, b"{}", mode=OVERWRITE)
    found = verify_checkpoints(as_runtime(world), RUN)
    assert found.verdict == "damaged"
    assert [(site.site, one.step) for site in found.sites for one in site.checkpoints if one.damage] == [(AWS, 200)]
    assert verify_checkpoints(as_runtime(world), RUN, step=100).verdict == "intact"


def test_a_site_that_does_not_answer_is_unknown_and_damage_outweighs_it(world: World) -> None:
    world.board.cut.add(GCP)
    assert verify_checkpoints(as_runtime(world), RUN).verdict == "unknown"
    flip(world, AWS, 100)
    assert verify_checkpoints(as_runtime(world), RUN).verdict == "damaged"


def test_nothing_is_no_pass(world: World) -> None:
    assert verify_checkpoints(as_runtime(world), RUN, step=7).verdict == "nothing to verify"


def test_a_site_without_checkpoints_of_the_group_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="keeps no checkpoints"):
        list_checkpoints(as_runtime(world), RUN, site=AZURE)
    with pytest.raises(UnknownName):
        list_checkpoints(as_runtime(world), RUN, site="nowhere")


def test_a_run_is_told_by_the_longest_name_that_fits(world: World) -> None:
    topology = world.topology
    groups = {**topology.groups, f"{GROUP}-eu": topology.groups[GROUP]}
    both = topology.model_copy(update={"groups": groups})
    assert owner_of(both, f"{GROUP}-eu-{JOB}.one").group == f"{GROUP}-eu"
    assert owner_of(both, f"{GROUP}-{JOB}.one").group == GROUP
    with pytest.raises(NoRun, match="which job"):
        owner_of(both, "mine")
    assert owner_of(topology, "mine").job == JOB  # there is one job


@pytest.mark.parametrize("name", ["mine", f"{RUN}x", f"{RUN}.Übung", f"{RUN}/../x", f"{RUN}.{'x' * 100}"])
def test_a_name_that_a_failover_would_not_find_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot have this name"):
        check_run_name(GROUP, JOB, name)
    check_run_name(GROUP, JOB, f"{RUN}.one")
    check_run_name(GROUP, JOB, run_name(GROUP, JOB, datetime.now(UTC)))  # as a run is named that nobody names
