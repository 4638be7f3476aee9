"""A merge while writers go on, and one that dies: no update is lost, nothing that was replaced comes back."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from holdfast.engine.snapshot import digest_of, load_manifest, records
from holdfast.errors import HoldfastError
from merge_world import ELSEWHERE, HERE, PREFIX, THERE, MergeWorld
from sync_harms import Cut, Harm, HarmedStore, Kill, Killed, Movement, Op, Trace
from sync_world import DATASET, SITES, see

NAMES = ("a", "b", "c/d", "c/_SUCCESS", "e", "new")
#: Every so many operations are disturbed; all of them in the slow suite.
STRIDES = [9, pytest.param(1, marks=pytest.mark.slow)]
FILES = {name: f"first {name}".encode() for name in NAMES[:-1]}


def scene(winner: str) -> MergeWorld:
    """Changes of every kind at both sites since the snapshot both have."""
    world = MergeWorld(FILES, winner=winner)
    world.put(HERE, "a")
    world.put(THERE, "b")
    world.put(HERE, "c/d")
    world.put(THERE, "c/d")
    world.drop(THERE, "e")
    world.put(THERE, "new")
    return world


def quiet(world: MergeWorld) -> None:
    """Writers are quiet now: two merges, the second of which has nothing to do."""
    world.merge()
    world.merge()
    again = world.merge()
    assert again.record is None
    assert again.changed_objects == 0
    world.check_agreed()
    world.check_replica_is_whole()
    world.check_no_update_is_lost(initial=FILES)


class OneChange(Harm):
    """Before one operation, a writer at one site does one thing."""

    def __init__(self, world: MergeWorld, at: int, site: str, path: str, *, drop: bool) -> None:
        self.world, self.at, self.site, self.path, self.drop = world, at, site, path, drop

    def before(self, op: Op) -> None:
        if op.index == self.at:
            if self.drop and self.world.may_drop(self.site, self.path):
                self.world.drop(self.site, self.path)
            else:
                self.world.put(self.site, self.path)


def operations(winner: str) -> int:
    trace = Trace()
    scene(winner).merge(trace)
    return len(trace.ops)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("drop", [False, True], ids=["write", "removal"])
@pytest.mark.parametrize("site", [HERE, THERE])
@pytest.mark.parametrize("winner", [HERE, THERE])
def test_a_change_before_any_operation_of_a_merge_is_never_lost(
    winner: str, site: str, drop: bool, stride: int
) -> None:
    first = 4 * drop + 2 * (winner == HERE) + (site == HERE)  # almost every operation is met by one of these tests
    for at in range(first % stride, operations(winner) + 1, stride):
        path = NAMES[at // stride % len(NAMES)]
        world = scene(winner)
        try:
            world.merge(Trace([OneChange(world, at, site, path, drop=drop)]))
            quiet(world)
        except AssertionError as error:
            raise AssertionError(f"a change of {path} at {site} before operation {at}: {error}") from error


@pytest.mark.parametrize(
    ("winner", "after"),
    [pytest.param(HERE, False, id="before"), pytest.param(THERE, True, id="after", marks=pytest.mark.slow)],
)
def test_a_merge_that_dies_at_any_write_leaves_old_snapshots_and_the_next_one_completes_it(
    winner: str, after: bool
) -> None:
    trace = Trace()
    scene(winner).merge(trace)
    for op in trace.ops:
        if not op.writes:
            continue
        world = scene(winner)
        old = {site: records(world.stores[site], DATASET) for site in SITES}
        with pytest.raises(Killed):
            world.merge(Trace([Kill(op.index, after_it=after)]))
        for site in SITES:
            assert records(world.stores[site], DATASET)[: len(old[site])] == old[site], op
        for record in records(world.stores[ELSEWHERE], DATASET):
            see(world.stores[ELSEWHERE], record)
        # What the peer's writers do before the next run is a change on top of what was merged, not against it.
        mine = world.put(THERE, "b")
        quiet(world)
        assert world.shows(HERE)["b"] == mine, op
        assert not [one for one in world.overruled() if one.path == "b"], op


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize(("winner", "site"), [(HERE, HERE), (THERE, THERE), (HERE, ELSEWHERE)])
def test_a_site_that_is_cut_off_during_a_merge_loses_nothing(winner: str, site: str, stride: int) -> None:
    for at in range(0, operations(winner), stride):
        world = scene(winner)
        try:
            report = world.merge(Trace([Cut(site, at)]))
        except HoldfastError:
            assert site != ELSEWHERE
        else:
            # Without the active site's lineage nobody else gets the commit record either.
            assert all(one.error is None or site in (one.site, HERE) for one in report.targets)
        quiet(world)


@pytest.mark.parametrize("seed", [*range(12), *(pytest.param(n, marks=pytest.mark.slow) for n in range(12, 200))])
def test_random_histories_at_two_sites_lose_nothing(seed: int) -> None:
    rng = random.Random(seed)
    world = MergeWorld(FILES, winner=rng.choice([HERE, THERE]))
    for _ in range(6):
        for _ in range(rng.randrange(4)):
            world.mutate(rng, NAMES)
        at = frozenset(rng.sample(range(120), rng.choice((0, 1, 3, 8))))
        harms: list[Harm] = [Movement(world, rng, NAMES, at)]
        if rng.random() < 0.3:
            harms.append(Kill(rng.randrange(150), after_it=rng.random() < 0.5))
        with suppress(HoldfastError, Killed):
            world.merge(Trace(harms))
        world.check_replica_is_whole()
    quiet(world)


def test_a_merge_by_many_threads_while_writers_go_on_loses_nothing() -> None:
    for seed in range(5):
        rng = random.Random(seed)
        files = {f"{n:02d}": f"first {n}".encode() for n in range(30)}
        world = MergeWorld(files)
        for _ in range(25):
            world.mutate(rng, list(files))
        trace = Trace([Movement(world, rng, list(files), frozenset(rng.sample(range(150), 5)))])
        stores = world.stores
        world.merge(trace, threads=8)
        world.merge()
        assert world.merge().record is None
        world.check_agreed()
        world.check_no_update_is_lost(initial=files)
        assert isinstance(HarmedStore(stores[HERE], HERE, trace).name, str)


def test_the_other_sites_own_key_is_never_overwritten() -> None:
    world = scene(HERE)
    before = {site: {path: world.at(site, path) for path in NAMES} for site in (HERE, THERE)}
    world.merge()
    for site, files in before.items():
        for path, data in files.items():
            assert data is None or world.at(site, path) == data
    keys = {info.key.removeprefix(PREFIX) for info in world.stores[HERE].list(PREFIX)}
    assert {"a", "b", "c/d", "c/_SUCCESS", "e", "new"} <= keys


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(n, marks=pytest.mark.slow) for n in range(8, 60))])
def test_a_merged_snapshot_shows_one_moment_of_both_sites(seed: int) -> None:
    """Each site's writers have objects of their own, so a moment of both is a state that the snapshot must equal."""
    rng = random.Random(seed)
    names = {HERE: [f"h/{n:02d}" for n in range(9)], THERE: [f"t/{n:02d}" for n in range(9)]}
    files = {path: f"first {path}".encode() for paths in names.values() for path in paths}
    world = MergeWorld(files)
    live, moments = dict(files), [dict(files)]

    class Writers:
        def mutate(self, _rng: random.Random, _names: object) -> None:
            site = rng.choice([HERE, THERE])
            path = rng.choice(names[site])
            if path in live and len(live) > 12 and world.at(site, path) is not None and rng.random() < 0.4:
                world.drop(site, path)
                del live[path]
            else:
                live[path] = world.put(site, path)
            moments.append(dict(live))

    for _ in range(3):
        Writers().mutate(rng, ())
        at = frozenset(rng.sample(range(140), 12))
        with suppress(HoldfastError):
            world.merge(Trace([Movement(Writers(), rng, (), at)]))
        for site in SITES:
            record = world.latest(site)
            assert record is not None
            shown = load_manifest(world.stores[site], record)
            digests = dict(zip(shown.paths, shown.table["digest"].to_pylist(), strict=True))
            known = [{path: digest_of(data) for path, data in moment.items()} for moment in moments]
            assert digests in known, f"{site} shows what never was at one moment"


class KillAfterPut(Harm):
    """The process dies when an object of this path has landed at a site."""

    def __init__(self, site: str, path: str) -> None:
        self.site, self.path, self.dead = site, path, False

    def before(self, op: Op) -> None:
        if self.dead:
            raise Killed(f"before {op}")

    def after(self, op: Op) -> None:
        if (op.site, op.verb) == (self.site, "put") and op.key.endswith(f"/{self.path}"):
            self.dead = True
            raise Killed(f"after {op}")


def test_a_removal_is_still_seen_after_a_run_that_died_while_it_brought_the_other_sites_change() -> None:
    world = MergeWorld({"x": b"0", "k": b"0"}, winner=THERE)
    world.put(THERE, "x", b"1")
    world.merge()  # under `.versions/` at the active site now, beside what its writers had
    world.drop(HERE, "x")
    world.put(THERE, "x", b"2")
    with pytest.raises(Killed):
        world.merge(Trace([KillAfterPut(HERE, "x")]))
    world.put(THERE, "x", b"1")  # as both had it: the removal is the only change left
    world.merge()
    assert world.check_agreed() == {"k": b"0"}


class DropAfterPut(Harm):
    """When an object has landed at the other site's own key, its writers remove it where it came from."""

    def __init__(self, world: MergeWorld, path: str) -> None:
        self.world, self.path, self.done = world, path, False

    def after(self, op: Op) -> None:
        if not self.done and (op.site, op.verb, op.key) == (THERE, "put", PREFIX + self.path):
            self.done = True
            self.world.drop(HERE, self.path)


def test_runs_that_have_nothing_to_publish_leave_nothing_behind_at_either_site() -> None:
    world = MergeWorld({"a": b"0"})
    world.put(HERE, "a")
    world.put(HERE, "x")
    world.merge(Trace([DropAfterPut(world, "x")]))
    assert world.at(THERE, "x") is not None  # of no snapshot, and read by each run until one is published
    before = {site: [info.key for info in world.stores[site].list("")] for site in SITES}
    for _ in range(2):
        report = world.merge()
        assert report.record is None
        assert all(target.ok and target.receipt_key for target in report.targets)
    assert {site: [info.key for info in world.stores[site].list("")] for site in SITES} == before


class TwoRemovals(Harm):
    """Before the n-th page of the listings of a site's folder, its first object goes, and then its last."""

    def __init__(
        self, world: MergeWorld, site: str, page: int, live: dict[str, bytes], moments: list[set[str]]
    ) -> None:
        self.world, self.site, self.page, self.live, self.moments = world, site, page, live, moments

    def before(self, op: Op) -> None:
        if (op.site, op.verb, op.key) != (self.site, "list", PREFIX):
            return
        self.page -= 1
        for path in (min(self.live), max(self.live)) if self.page == 0 else ():
            self.world.drop(self.site, path)
            del self.live[path]
            self.moments.append(set(self.live))


@pytest.mark.parametrize("site", [HERE, THERE])
def test_a_listing_that_tore_is_not_taken_for_a_moment(site: str) -> None:
    for page in range(2, 14):
        files = {f"{n:02d}": f"first {n}".encode() for n in range(12)}
        world = MergeWorld(files)
        world.put(HERE, "05")
        moments = [set(files)]
        world.merge(Trace([TwoRemovals(world, site, page, dict(files), moments)]))
        for record in world.snapshots():
            assert set(load_manifest(world.stores[HERE], record).paths) in moments, page
