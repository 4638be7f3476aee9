"""The process dies: at every single operation in turn, inside a large object, and by SIGKILL at any instant."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.objectstore import local_store, memory_store
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.replication.objects import WHOLE_BYTES
from sync_harms import Cut, Kill, Killed, Lost, Trace
from sync_world import World

MIB = 1024 * 1024
PART_BYTES = 8 * MIB
#: Too large to be put whole: it goes in five parts.
LARGE_BYTES = WHOLE_BYTES + PART_BYTES


def scene() -> World:
    """Both targets have an old snapshot; the source has an added, a changed and a removed object since."""
    world = World({name: memory_store(name) for name in ("aws", "gcp", "azure")})
    for name, data in {"keep": b"k", "over": b"1", "gone": b"g"}.items():
        world.source.put(name, data)
    world.sync()
    world.source.put("over", b"22")
    world.source.put("added/_SUCCESS", b"")
    world.source.delete("gone")
    return world


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 7], ids=["each", "every seventh"])
def test_a_kill_at_any_operation_leaves_the_old_or_the_new_state(after, stride):
    for index in count(step=stride):
        world = scene()
        old, new = world.shows("gcp"), world.source.live
        try:
            world.sync(Trace([Kill(index, after_it=after)]))
        except Killed:
            pass
        else:
            break
        for site in world.targets:
            assert world.shows(site) in (old, new), f"operation {index}"
        world.check_everything_shown()
        report = world.sync()
        assert all(target.ok for target in report.targets), f"operation {index}"
        assert [world.shows(site) for site in world.targets] == [new, new]
        world.sweep()
        assert [world.unfinished(site) for site in world.targets] == [[], []]
    assert index > 20


def large_world(stores=None) -> World:
    world = World(stores or {name: memory_store(name) for name in ("aws", "gcp", "azure")})
    world.source.put("model.bin", random.Random(1).randbytes(LARGE_BYTES))
    world.source.put("small", b"s")
    return world


def acknowledged(trace: Trace, site: str, last: int) -> int:
    """Parts the process was told of before operation ``last``, at which it died."""
    return sum(1 for op in trace.ops[:last] if (op.verb, op.site) == ("put_part", site))


@pytest.mark.parametrize("nth", [pytest.param(n, marks=() if n in (1, 4) else pytest.mark.slow) for n in range(1, 6)])
@pytest.mark.parametrize("how", ["killed", "cut off"])
def test_a_copy_resumes_at_the_part_where_it_stopped(nth, how):
    world = large_world()
    dry = Trace()
    large_world().sync(dry)
    parts = [op.index for op in dry.ops if (op.verb, op.site) == ("put_part", "gcp")]
    assert len(parts) == LARGE_BYTES // PART_BYTES, "a large object goes in parts"
    at = parts[nth - 1]
    first, second = Trace([Kill(at) if how == "killed" else Cut("gcp", at)]), Trace()
    try:
        report = world.sync(first)
        assert how == "cut off"
        assert {target.site: target.ok for target in report.targets} == {"gcp": False, "azure": True}
    except Killed:
        assert how == "killed"
    assert world.latest("gcp") is None
    world.sync(second)
    for site in world.targets:
        assert world.shows(site) == world.source.live
        whole = LARGE_BYTES // PART_BYTES
        # With one stream at most the part in flight is sent again.
        assert second.count("put_part", site) <= whole - acknowledged(first, site, at) + 1
    assert [world.unfinished(site) for site in world.targets] == [[], []]
    journals = [info.key for site in world.targets for info in world.stores[site].list("uploads/")]
    assert journals == [], "a finished copy leaves no journal"


def test_an_object_that_changed_while_its_copy_lay_dead_is_copied_anew():
    world = large_world()
    dry = Trace()
    large_world().sync(dry)
    at = [op.index for op in dry.ops if op.verb == "put_part"][4]
    with pytest.raises(Killed):
        world.sync(Trace([Kill(at)]))
    world.source.put("model.bin", random.Random(2).randbytes(LARGE_BYTES))
    world.sync()
    assert [world.shows(site) for site in world.targets] == [world.source.live, world.source.live]
    world.sweep()
    assert [world.unfinished(site) for site in world.targets] == [[], []]


def test_an_object_nobody_wants_any_more_leaves_no_upload_after_the_sweep():
    world = large_world()
    dry = Trace()
    large_world().sync(dry)
    at = [op.index for op in dry.ops if op.verb == "put_part"][4]
    with pytest.raises(Killed):
        world.sync(Trace([Kill(at)]))
    world.source.delete("model.bin")
    world.sync()
    world.sweep()
    assert [world.unfinished(site) for site in world.targets] == [[], []]


def test_large_objects_survive_lost_answers():
    world = large_world()
    for seed in range(60):
        try:
            report = world.sync(Trace([Lost(random.Random(seed), 0.05)]))
        except StoreUnavailable:
            pass
        else:
            if all(target.ok for target in report.targets):
                break
        world.check_everything_shown()
    assert [world.shows(site) for site in world.targets] == [world.source.live, world.source.live]
    world.sweep()
    assert [world.unfinished(site) for site in world.targets] == [[], []]


# -- real processes ----------------------------------------------------------------------------------------------------

SITES = ("aws", "gcp", "azure")


def folder_world(folder: Path) -> World:
    for name in SITES:
        (folder / name).mkdir(exist_ok=True)
    return World({name: local_store(name, folder / name) for name in SITES}, clock=SystemClock())


def start(folder: Path) -> subprocess.Popen[str]:
    """A process that syncs the folder's sites; it says when it begins, and its report at the end."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("syncing_process.py")), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    return process


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    answer: dict[str, object] = json.loads(output)
    return answer


@pytest.fixture(scope="module")
def usual_seconds(tmp_path_factory) -> float:
    """How long an undisturbed process takes here, so that kills fall into it."""
    folder = tmp_path_factory.mktemp("usual")
    populate(folder_world(folder), random.Random(0))
    process = start(folder)
    began = time.monotonic()
    finish(process)
    return time.monotonic() - began


def populate(world: World, rng: random.Random) -> None:
    world.source.put("large.bin", rng.randbytes(LARGE_BYTES))
    for number in range(40):
        world.source.put(f"many/{number:02}", rng.randbytes(rng.choice((0, 100, 20_000))))


@pytest.mark.parametrize("seed", [pytest.param(n, marks=() if n < 1 else pytest.mark.slow) for n in range(8)])
def test_a_sigkill_at_any_instant_costs_at_most_the_parts_in_flight(seed, tmp_path, usual_seconds):
    """Three kills each; the source changes in between."""
    rng = random.Random(seed)
    world = folder_world(tmp_path)
    populate(world, rng)
    for _ in range(3):
        process = start(tmp_path)
        delay_seconds = rng.uniform(0, usual_seconds)
        try:
            process.wait(delay_seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        world.check_everything_shown()
        if rng.random() < 0.5:
            world.source.put(f"many/{rng.randrange(50):02}", rng.randbytes(50))
    arrived = {site: survived(world, site) for site in world.targets}
    answer = finish(start(tmp_path))
    for site in world.targets:
        assert world.shows(site) == world.source.live
        whole = LARGE_BYTES // PART_BYTES
        if arrived[site] is not None:
            assert answer["parts"][site] <= whole - arrived[site] + 1
    world.sweep()
    assert [world.unfinished(site) for site in world.targets] == [[], []]


def survived(world: World, site: str) -> int | None:
    """How many parts of an unfinished upload are at a target; None when there is no upload."""
    from holdfast.engine.objectstore.parts import part_store

    parts = part_store(world.stores[site])
    if parts is None:
        return None
    found = [len(parts.parts(upload)) for upload in parts.uploads("data/")]
    return max(found) if found else None
