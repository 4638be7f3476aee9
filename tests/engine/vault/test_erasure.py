"""One store over three clouds: any one of them lost, damaged or away costs nothing but a report."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import CREATE, ByteRange, IfMatch, ObjectStore, ObjectVersion, memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import (
    BucketNotFound,
    NotSupported,
    ObjectExists,
    ObjectNotFound,
    PermissionRefused,
    StoreUnavailable,
)
from holdfast.engine.objectstore.interface import ObjectInfo
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.vault.collect import CollectOptions, collect
from holdfast.engine.vault.erasure import ErasureStore
from holdfast.engine.vault.erasure_repair import repair, unfinished_packs
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.forget import Keep, forget
from holdfast.engine.vault.verify import Depth, VerifyOptions, verify_vault
from holdfast.errors import ConfigError
from vault_world import VaultWorld, read_tree, some_files, write_tree

NAMES = ("aws", "gcp", "azure")
PACK = "packs/daily/ab/" + "ab" * 16
OTHER_PACK = "packs/daily/cd/" + "cd" * 16
BLOCK = 64 * 1024
LARGE = random.Random(3).randbytes(5 * BLOCK + 4321)


class Cloud(StoreDecorator):
    """A store that can be away, and counts what it is asked."""

    def __init__(self, name: str) -> None:
        super().__init__(memory_store(name))
        self.away: type[Exception] | None = None
        self.asked: list[str] = []
        self._lock = threading.Lock()

    def _ask(self, verb: str) -> None:
        with self._lock:
            self.asked.append(verb)
        if self.away is not None:
            raise self.away("away")

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        self._ask("list")
        return self.inner.list(prefix, start_after=start_after)

    def head(self, key: str) -> ObjectInfo:
        self._ask("head")
        return self.inner.head(key)

    def get(self, key, **options):  # type: ignore[no-untyped-def]
        self._ask("get")
        return self.inner.get(key, **options)

    def put(self, key, data, **options):  # type: ignore[no-untyped-def]
        self._ask("put")
        return self.inner.put(key, data, **options)

    def delete(self, key: str) -> None:
        self._ask("delete")
        self.inner.delete(key)


@dataclass
class World:
    """Three clouds and the store over them."""

    clouds: dict[str, Cloud] = field(default_factory=lambda: {name: Cloud(name) for name in NAMES})
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.store = self.opened()

    def opened(self) -> ErasureStore:
        return ErasureStore(list(self.clouds.items()), clock=self.clock)

    def flip(self, name: str, key: str, at: int) -> None:
        inner = self.clouds[name].inner
        data = bytearray(inner.get(key))
        data[at % len(data)] ^= 1
        inner.put(key, bytes(data))

    def asked(self) -> dict[str, list[str]]:
        told = {name: list(cloud.asked) for name, cloud in self.clouds.items()}
        for cloud in self.clouds.values():
            cloud.asked.clear()
        return told


@pytest.fixture
def world() -> World:
    return World()


# -- the contract of a store -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [PACK, "log/000000000001.json"])
@pytest.mark.parametrize("data", [b"", b"x", LARGE[:BLOCK], LARGE])
def test_what_was_put_is_read_whole_and_in_ranges(world: World, key: str, data: bytes) -> None:
    world.store.put(key, data, mode=CREATE)
    assert isinstance(world.store, ObjectStore)
    for store in (world.store, world.opened()):
        assert store.get(key) == data
        assert b"".join(store.open(key, chunk_bytes=1000)) == data
        assert (store.head(key).key, store.head(key).size_bytes) == (key, len(data))
        assert [(info.key, info.size_bytes) for info in store.list()] == [(key, len(data))]
        size = len(data)
        for start, end in (
            (0, 1),
            (0, 0),
            (5, 70_000),
            (size // 2 - 3, size // 2 + 3),
            (size - 1, size + 9),
            (size, 2**40),
        ):
            begin = max(start, 0)
            assert store.get(key, byte_range=ByteRange(begin, end)) == data[begin:end], (start, end)
    assert world.store.problems == ()


@pytest.mark.parametrize("key", [PACK, "log/000000000001.json"])
def test_a_second_create_is_refused_and_changes_nothing(world: World, key: str) -> None:
    world.store.put(key, b"first", mode=CREATE)
    with pytest.raises(ObjectExists):
        world.store.put(key, b"second", mode=CREATE)
    assert world.store.get(key) == b"first"
    assert create_or_read(world.store, key, b"second") == b"first"


@pytest.mark.parametrize("key", [PACK, "log/000000000001.json"])
def test_of_many_that_create_at_once_one_wins(key: str) -> None:
    world = World()
    stores = [world.opened() for _ in range(6)]
    ready = threading.Barrier(len(stores), timeout=30)

    def create(number: int) -> bool:
        ready.wait()
        try:
            stores[number].put(key, f"from {number}".encode(), mode=CREATE)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(len(stores)) as pool:
        won = [number for number, it in enumerate(pool.map(create, range(len(stores)))) if it]
    assert len(won) == 1
    assert world.store.get(key) == f"from {won[0]}".encode()
    assert repair(world.store, deep=True).repaired == []


def test_missing_objects_listings_and_deletes_are_as_everywhere(world: World) -> None:
    store = world.store
    for key in (PACK, "log/1"):
        for call in (store.get, store.head, store.open):
            with pytest.raises(ObjectNotFound):
                call(key)
        store.delete(key)
    for key in ("b", "a/2", "a/1", PACK, "a-", "a0"):
        store.put(key, key.encode())
    assert [info.key for info in store.list()] == ["a-", "a/1", "a/2", "a0", "b", PACK]
    assert [info.key for info in store.list("a", start_after="a/1")] == ["a/2", "a0"]
    store.copy(PACK, "a/3")
    assert store.get("a/3") == PACK.encode()
    store.put("b", iter([b"one", b"two"]))
    assert store.get("b") == b"onetwo"
    for info in list(store.list()):
        store.delete(info.key)
    assert [list(cloud.inner.list()) for cloud in world.clouds.values()] == [[], [], []]


def test_what_cannot_be_kept_is_refused(world: World) -> None:
    with pytest.raises(NotSupported):
        world.store.put("k", b"x", mode=IfMatch(ObjectVersion("1")))
    with pytest.raises(NotSupported):
        world.store.put("k", b"x", metadata={"a": "b"})
    with pytest.raises(ConfigError):
        ErasureStore([("a", memory_store()), ("a", memory_store()), ("b", memory_store())])
    assert not world.store.capabilities().compare_and_swap


def test_a_pack_costs_half_as_much_again_and_no_cloud_holds_it(world: World) -> None:
    world.store.put(PACK, LARGE)
    stored = [len(cloud.inner.get(PACK)) for cloud in world.clouds.values()]
    assert sum(stored) < 1.52 * len(LARGE)
    assert all(LARGE not in cloud.inner.get(PACK) for cloud in world.clouds.values())


def test_a_range_in_one_piece_asks_one_cloud_for_that_range(world: World) -> None:
    world.store.put(PACK, LARGE)
    world.store.get(PACK, byte_range=ByteRange(0, 1))
    world.asked()
    assert world.store.get(PACK, byte_range=ByteRange(100, 90_000)) == LARGE[100:90_000]
    assert world.asked() == {"aws": ["get"], "gcp": [], "azure": []}
    half = len(LARGE) // 2
    world.store.get(PACK, byte_range=ByteRange(half + 10, half + 20))
    assert world.asked() == {"aws": [], "gcp": ["get"], "azure": []}


# -- a cloud away ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StoreUnavailable, PermissionRefused])
@pytest.mark.parametrize("gone", NAMES)
def test_reading_goes_on_without_any_one_cloud(world: World, gone: str, error: type[Exception]) -> None:
    for key in (PACK, "log/1"):
        world.store.put(key, LARGE, mode=CREATE)
    world.clouds[gone].away = error
    for store in (world.store, world.opened()):
        for key in (PACK, "log/1"):
            assert store.get(key) == LARGE
            assert store.get(key, byte_range=ByteRange(70_000, 300_000)) == LARGE[70_000:300_000]
            assert store.head(key).size_bytes == len(LARGE)
        assert [(info.key, info.size_bytes) for info in store.list()] == [("log/1", len(LARGE)), (PACK, len(LARGE))]
        with pytest.raises(ObjectNotFound):
            store.get("log/2")
        assert {problem.site for problem in store.problems} == {gone}


def test_two_clouds_away_are_said_so_and_nothing_is_called_missing(world: World) -> None:
    for key in (PACK, "log/1"):
        world.store.put(key, LARGE)
    for name in ("aws", "gcp"):
        world.clouds[name].away = StoreUnavailable
    for key in (PACK, "log/2"):
        for call in (world.store.get, world.store.head):
            with pytest.raises(StoreUnavailable):
                call(key)
    with pytest.raises(StoreUnavailable):
        list(world.store.list())
    assert world.store.get("log/1") == LARGE, "a copy is whole"


def test_a_cloud_that_does_not_answer_is_left_alone_for_a_while(world: World) -> None:
    world.store.put(PACK, LARGE)
    world.clouds["aws"].away = StoreUnavailable
    world.store.get(PACK)
    world.asked()
    for _ in range(5):
        world.store.get(PACK, byte_range=ByteRange(0, 1000))
    assert world.asked()["aws"] == []
    world.clouds["aws"].away = None
    world.clock.advance(31)
    world.store.get(PACK, byte_range=ByteRange(0, 1000))
    assert world.asked() == {"aws": ["get"], "gcp": [], "azure": []}


@pytest.mark.parametrize("key", [PACK, "log/1"])
def test_nothing_is_written_while_the_first_cloud_is_away(world: World, key: str) -> None:
    world.clouds["aws"].away = StoreUnavailable
    with pytest.raises(StoreUnavailable, match="aws to decide"):
        world.store.put(key, LARGE, mode=CREATE)
    assert [list(cloud.inner.list()) for cloud in world.clouds.values()] == [[], [], []]


@pytest.mark.parametrize("gone", ["gcp", "azure"])
@pytest.mark.parametrize("key", [PACK, "log/1"])
def test_a_write_without_another_cloud_is_told_and_completed_later(world: World, key: str, gone: str) -> None:
    world.clouds[gone].away = StoreUnavailable
    world.store.put(key, LARGE, mode=CREATE)
    assert [(one.site, one.key) for one in world.store.incomplete] == [(gone, key)]
    assert world.store.get(key) == LARGE
    assert repair(world.store).away == [gone]
    world.clouds[gone].away = None
    report = repair(world.store)
    assert [(one.site, one.key, one.what) for one in report.repaired] == [(gone, key, "missing")]
    assert report.is_whole
    assert world.store.incomplete == ()
    for lost in NAMES:
        world.clouds[lost].away = StoreUnavailable
        assert world.opened().get(key) == LARGE
        world.clouds[lost].away = None


@pytest.mark.parametrize("key", [PACK, "log/1"])
def test_a_write_that_one_more_loss_would_undo_is_no_success(world: World, key: str) -> None:
    for name in ("gcp", "azure"):
        world.clouds[name].away = StoreUnavailable
    with pytest.raises(StoreUnavailable) as raised:
        world.store.put(key, LARGE, mode=CREATE)
    assert raised.value.outcome_unknown
    for name in ("gcp", "azure"):
        world.clouds[name].away = None
    assert create_or_read(world.store, key, LARGE) == LARGE, "the same again completes it"
    assert repair(world.store, deep=True).repaired == []


def test_a_crash_after_the_first_cloud_leaves_nothing_that_is_taken_for_a_pack(world: World) -> None:
    """And a repair says so, and leaves it."""
    world.store.put(OTHER_PACK, LARGE)
    world.store.put(PACK, LARGE)
    for name in ("gcp", "azure"):
        world.clouds[name].inner.delete(PACK)
    store = world.opened()
    assert [info.key for info in store.list()] == [OTHER_PACK]
    with pytest.raises(ObjectNotFound):
        store.get(PACK)
    report = repair(store)
    assert list(report.unfinished) == [PACK]
    assert report.repaired == []
    assert [info.key for info in world.clouds["aws"].inner.list()] == sorted([OTHER_PACK, PACK])
    assert list(unfinished_packs(store)) == [PACK]
    world.clouds["gcp"].away = StoreUnavailable
    assert unfinished_packs(store) == {}, "nobody knows what the site has that is away"
    world.clouds["gcp"].away = None
    world.clouds["azure"].inner.delete(OTHER_PACK)
    assert unfinished_packs(world.opened()) == {}, "a site without any pack lost them, or is another bucket"


def test_nothing_is_half_removed_in_a_way_that_brings_it_back(world: World) -> None:
    world.store.put(PACK, LARGE)
    world.store.put("log/1", b"entry")
    world.clouds["azure"].away = StoreUnavailable
    for key in (PACK, "log/1"):
        with pytest.raises(StoreUnavailable):
            world.store.delete(key)
        assert world.clouds["aws"].inner.head(key), "the first goes last"
    world.clouds["azure"].away = None
    for key in (PACK, "log/1"):
        world.store.delete(key)
    assert [list(cloud.inner.list()) for cloud in world.clouds.values()] == [[], [], []]


# -- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [0, 4, 5, 9, 60, 150, 400, 700, 1_000, 80_000, -1])
def test_a_flip_anywhere_in_any_share_is_gone_around_reported_and_repaired(world: World, name: str, at: int) -> None:
    world.store.put(PACK, LARGE)
    share = world.clouds[name].inner.get(PACK)
    world.flip(name, PACK, at)
    store = world.opened()
    assert store.get(PACK) == LARGE
    for start in range(0, len(LARGE), 50_000):
        assert store.get(PACK, byte_range=ByteRange(start, start + 50_000)) == LARGE[start : start + 50_000]
    report = repair(store, deep=True)
    assert [(one.site, one.key, one.what) for one in report.repaired] == [(name, PACK, "damaged")]
    assert world.clouds[name].inner.get(PACK) == share
    assert store.problems == ()


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_a_damaged_piece_that_is_read_is_reported(world: World, name: str) -> None:
    world.store.put(PACK, LARGE)
    world.flip(name, PACK, -3)
    store = world.opened()
    assert store.get(PACK) == LARGE
    assert [(one.site, one.key, one.what) for one in store.problems] == [(name, PACK, "its share is damaged")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("left", [0, 10, 700, 100_000])
def test_a_torn_or_missing_share_is_gone_around_and_repaired(world: World, name: str, left: int) -> None:
    world.store.put(PACK, LARGE)
    share = world.clouds[name].inner.get(PACK)
    if left:
        world.clouds[name].inner.put(PACK, share[:left])
    else:
        world.clouds[name].inner.delete(PACK)
    store = world.opened()
    assert store.get(PACK) == LARGE
    assert [info.size_bytes for info in store.list()] == [len(LARGE)]
    assert {one.site for one in store.problems} <= {name}
    assert [one.site for one in repair(store).repaired] == [name]
    assert world.clouds[name].inner.get(PACK) == share


@pytest.mark.parametrize("liar", NAMES)
def test_a_cloud_that_serves_another_object_in_good_form_deceives_nobody(world: World, liar: str) -> None:
    """Its shares agree with themselves; what the others say does not."""
    world.store.put(PACK, LARGE)
    other = World()
    other.store.put(PACK, bytes(reversed(LARGE)))
    world.clouds[liar].inner.put(PACK, other.clouds[liar].inner.get(PACK))
    store = world.opened()
    assert store.get(PACK) == LARGE
    assert store.get(PACK, byte_range=ByteRange(10, 200_000)) == LARGE[10:200_000]
    report = repair(store, deep=True)
    assert [(one.site, one.what) for one in report.repaired] == [(liar, "another object's")]
    assert repair(store, deep=True).repaired == []
    assert world.clouds[liar].inner.get(PACK) != other.clouds[liar].inner.get(PACK)


@pytest.mark.parametrize("liar", NAMES)
def test_a_copy_that_two_clouds_contradict_is_not_believed(world: World, liar: str) -> None:
    world.store.put("log/1", b"the entry")
    world.clouds[liar].inner.put("log/1", b"another 1")
    store = world.opened()
    assert store.get("log/1") == b"the entry"
    report = repair(store, deep=True)
    assert [(one.site, one.what) for one in report.repaired] == [(liar, "another copy")]


def test_two_damaged_shares_are_said_to_be_too_many(world: World) -> None:
    world.store.put(PACK, LARGE)
    for name in ("aws", "azure"):
        world.flip(name, PACK, -4)
    with pytest.raises(Damaged, match="too few shares are good"):
        world.opened().get(PACK)
    report = repair(world.opened(), deep=True)
    assert len(report.failed) == 1
    assert not report.is_whole


def test_clouds_that_hold_different_objects_under_a_new_key_end_the_write(world: World) -> None:
    world.clouds["gcp"].inner.put("log/2", b"of another history")
    with pytest.raises(Damaged, match="rolled back"):
        world.store.put("log/2", b"ours", mode=CREATE)


# -- a whole vault ---------------------------------------------------------------------------------------------------


@dataclass
class VaultOverClouds:
    """A vault over three clouds, and the tree it backs up."""

    clouds: World
    vault: VaultWorld

    @classmethod
    def make(cls) -> VaultOverClouds:
        clouds = World()
        return cls(clouds, VaultWorld(store=clouds.store).make())

    def reopened(self) -> VaultWorld:
        self.vault.store = self.clouds.opened()
        return self.vault


@pytest.fixture
def over() -> VaultOverClouds:
    return VaultOverClouds.make()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    write_tree(folder, some_files())
    return folder


@pytest.mark.parametrize("lost", NAMES)
def test_a_vault_restores_with_any_one_cloud_lost(
    over: VaultOverClouds, source: Path, tmp_path: Path, lost: str
) -> None:
    over.vault.back_up(source)
    inner = over.clouds.clouds[lost].inner
    for info in list(inner.list()):
        inner.delete(info.key)
    over.clouds.clouds[lost].away = StoreUnavailable
    vault = over.reopened()
    vault.restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == some_files()
    over.clouds.clouds[lost].away = None
    assert verify_vault(over.reopened().open("reader"), VerifyOptions(depth=Depth.FULL)).is_good
    report = repair(over.clouds.opened())
    assert report.is_whole
    assert {one.site for one in report.repaired} == {lost}
    others = {name: cloud for name, cloud in over.clouds.clouds.items() if name != lost}
    for name in others:
        over.clouds.clouds[name].away = StoreUnavailable
        over.reopened().restore(tmp_path / f"without-{name}")
        assert read_tree(tmp_path / f"without-{name}") == some_files()
        over.clouds.clouds[name].away = None


@pytest.mark.parametrize("lost", NAMES)
def test_shares_that_are_missing_at_a_site_are_told_of_and_repaired(
    over: VaultOverClouds, source: Path, lost: str
) -> None:
    over.vault.back_up(source)
    inner = over.clouds.clouds[lost].inner
    packs = [info.key for info in inner.list("packs/")]
    for key in packs[:2]:
        inner.delete(key)
    report = verify_vault(over.reopened().open("reader"))
    assert (report.is_good, report.exit_code, report.warnings) == (True, 1, [])
    (told,) = report.degraded
    assert told.startswith(f"{lost}: the share of {packs[0]} and of 1 other objects is not good there (missing)")
    assert "2 of 3 are good, 2 are needed" in told
    assert "vault verify --repair" in told
    repair(over.clouds.opened())
    assert verify_vault(over.reopened().open("reader")).exit_code == 0


@pytest.mark.parametrize("site", NAMES)
@pytest.mark.parametrize("kind", ["packs/", "indexes/", "log-copies/"])
def test_a_full_verification_reads_every_share_and_copy(
    over: VaultOverClouds, source: Path, site: str, kind: str
) -> None:
    """Also the share that no reader needs while the others are there."""
    over.vault.back_up(source)
    over.vault.back_up(source)
    first = next(iter(over.clouds.clouds[site].inner.list(kind)))
    over.clouds.flip(site, first.key, first.size_bytes // 2)
    report = verify_vault(over.reopened().open("reader"), VerifyOptions(depth=Depth.FULL))
    assert report.is_good
    (told,) = report.degraded
    assert f"{site}: the {'share' if kind == 'packs/' else 'copy'} of {first.key} is not good there" in told


def test_a_site_that_is_away_is_a_warning_and_one_that_is_gone_is_more(over: VaultOverClouds, source: Path) -> None:
    over.vault.back_up(source)
    over.clouds.clouds["azure"].away = StoreUnavailable
    report = verify_vault(over.reopened().open("reader"))
    assert (report.exit_code, report.degraded) == (0, [])
    assert any("azure did not answer" in warning for warning in report.warnings)
    over.clouds.clouds["azure"].away = BucketNotFound
    report = verify_vault(over.reopened().open("reader"))
    assert report.exit_code == 1
    assert report.degraded[0].startswith("azure: ")


@pytest.mark.parametrize("ruined", NAMES)
def test_a_vault_restores_with_everything_at_one_cloud_overwritten(
    over: VaultOverClouds, source: Path, tmp_path: Path, ruined: str
) -> None:
    over.vault.back_up(source)
    inner = over.clouds.clouds[ruined].inner
    before = {info.key: inner.get(info.key) for info in inner.list() if not info.key.startswith(("head", "clock/"))}
    for key, data in before.items():
        inner.put(key, random.Random(len(data)).randbytes(len(data)))
    over.reopened().restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == some_files()
    store = over.clouds.opened()
    assert repair(store, deep=True).is_whole
    assert {key: inner.get(key) for key in before} == before


def test_a_cloud_away_during_a_backup_is_caught_up(over: VaultOverClouds, source: Path, tmp_path: Path) -> None:
    over.clouds.clouds["azure"].away = StoreUnavailable
    over.vault.back_up(source)
    assert {one.site for one in over.clouds.store.incomplete} == {"azure"}
    over.clouds.clouds["azure"].away = None
    assert repair(over.clouds.opened()).is_whole
    for lost in ("aws", "gcp"):
        over.clouds.clouds[lost].away = StoreUnavailable
        over.reopened().restore(tmp_path / lost)
        assert read_tree(tmp_path / lost) == some_files()
        over.clouds.clouds[lost].away = None


def test_a_backup_is_refused_while_the_first_cloud_is_away_and_works_after(
    over: VaultOverClouds, source: Path, tmp_path: Path
) -> None:
    over.vault.back_up(source)
    over.clouds.clouds["aws"].away = StoreUnavailable
    write_tree(source, {"new": b"new" * 10_000})
    with pytest.raises(StoreUnavailable, match="aws to decide"):
        over.reopened().back_up(source)
    over.clouds.clouds["aws"].away = None
    over.reopened().back_up(source)
    over.vault.restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == read_tree(source)


def test_a_collection_frees_every_cloud(over: VaultOverClouds, source: Path, tmp_path: Path) -> None:
    over.vault.back_up(source)
    write_tree(source, {path: b"other" + data for path, data in some_files(seed=9).items()})
    over.vault.back_up(source)
    before = [sum(info.size_bytes for info in cloud.inner.list()) for cloud in over.clouds.clouds.values()]
    vault, _ = forget(over.vault.open("admin"), Keep(last=1))
    for _ in range(2):
        vault, _ = collect(vault, CollectOptions(grace=timedelta(0), orphan_age=timedelta(0)))
    after = [sum(info.size_bytes for info in cloud.inner.list()) for cloud in over.clouds.clouds.values()]
    assert all(now < 0.7 * then for now, then in zip(after, before, strict=True))
    over.vault.restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == read_tree(source)
    assert repair(over.clouds.store, deep=True).repaired == []


ALL_OLD = CollectOptions(grace=timedelta(0), orphan_age=timedelta(days=-1))


def test_a_collection_removes_the_share_of_a_write_that_was_broken_off(
    over: VaultOverClouds, source: Path, tmp_path: Path
) -> None:
    """At the first site alone, old enough, while all sites answer."""
    over.vault.back_up(source)
    inner = over.clouds.clouds["aws"].inner
    inner.put(OTHER_PACK, b"a share")
    for _ in range(2):
        collect(over.vault.open("admin"), CollectOptions(grace=timedelta(0)))
    assert inner.get(OTHER_PACK) == b"a share", "its backup may be running"
    _, report = collect(over.vault.open("admin"), replace(ALL_OLD, orphan_age=timedelta(days=-36500), dry_run=True))
    assert report.deleted_entries == 1
    assert inner.get(OTHER_PACK) == b"a share"
    over.clouds.clouds["azure"].away = StoreUnavailable
    with pytest.raises(StoreUnavailable):
        collect(over.reopened().open("admin"), ALL_OLD)
    assert inner.get(OTHER_PACK) == b"a share"
    over.clouds.clouds["azure"].away = None
    before = {name: [info.key for info in cloud.inner.list("packs/")] for name, cloud in over.clouds.clouds.items()}
    collect(over.reopened().open("admin"), ALL_OLD)
    after = {name: [info.key for info in cloud.inner.list("packs/")] for name, cloud in over.clouds.clouds.items()}
    assert after == {name: [key for key in keys if key != OTHER_PACK] for name, keys in before.items()}
    over.vault.restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == read_tree(source)


@pytest.mark.parametrize("aside", [("gcp", "azure"), ("aws", "gcp"), ("aws", "azure")])
@pytest.mark.parametrize("everything", [False, True])
def test_the_last_shares_of_what_is_needed_are_never_removed(
    over: VaultOverClouds, source: Path, tmp_path: Path, aside: tuple[str, str], everything: bool
) -> None:
    """Two sites answer, and have lost all packs but one, or everything: some share of it may come back."""
    over.vault.back_up(source)
    over.vault.back_up(source)
    shares = {
        name: {info.key: cloud.inner.get(info.key) for info in cloud.inner.list("" if everything else "packs/")}
        for name, cloud in over.clouds.clouds.items()
    }
    for name in aside:
        for key in list(shares[name])[0 if everything else 1 :]:
            over.clouds.clouds[name].inner.delete(key)
    for deep in (False, True):
        assert not repair(over.clouds.opened(), deep=deep).repaired or everything
        with pytest.raises(Damaged):
            collect(over.reopened().open("admin"), ALL_OLD)
        with pytest.raises(Damaged):
            collect(over.reopened().open("admin"), replace(ALL_OLD, dry_run=True))
    (left,) = over.clouds.clouds.keys() - set(aside)
    inner = over.clouds.clouds[left].inner
    assert {key: inner.get(key) for key in shares[left] if key.startswith("packs/")} == {
        key: data for key, data in shares[left].items() if key.startswith("packs/")
    }
    for key, data in shares[aside[0]].items():
        over.clouds.clouds[aside[0]].inner.put(key, data)
    over.reopened().restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == read_tree(source)


@pytest.mark.parametrize("kind", ["packs/", "indexes/", "log/", "log-copies/", "keys/"])
def test_flips_in_every_object_of_a_class_at_one_cloud_cost_nothing(
    over: VaultOverClouds, source: Path, tmp_path: Path, kind: str
) -> None:
    over.vault.back_up(source)
    rng = random.Random(7)
    for number, name in enumerate(NAMES):
        world = VaultOverClouds(World(), over.vault)
        for other, cloud in over.clouds.clouds.items():
            for info in cloud.inner.list():
                world.clouds.clouds[other].inner.put(info.key, cloud.inner.get(info.key))
        for info in list(world.clouds.clouds[name].inner.list(kind)):
            world.clouds.flip(name, info.key, rng.randrange(info.size_bytes))
        world.reopened().restore(tmp_path / str(number))
        assert read_tree(tmp_path / str(number)) == some_files()
        assert verify_vault(world.reopened().open("reader"), VerifyOptions(depth=Depth.FULL)).is_good


@pytest.mark.parametrize("lost", NAMES)
def test_an_empty_bucket_takes_the_place_of_a_lost_one(
    over: VaultOverClouds, source: Path, tmp_path: Path, lost: str
) -> None:
    over.vault.back_up(source)
    kept = {info.key for info in over.clouds.clouds[lost].inner.list() if not info.key.startswith(("head", "clock/"))}
    over.clouds.clouds[lost] = Cloud(lost)
    report = repair(over.clouds.opened())
    assert report.is_whole
    assert {info.key for info in over.clouds.clouds[lost].inner.list()} == kept
    write_tree(source, {"new": b"new" * 10_000})
    over.reopened().back_up(source)
    over.vault.restore(tmp_path / "out")
    assert read_tree(tmp_path / "out") == read_tree(source)
    assert over.clouds.store.problems == ()
