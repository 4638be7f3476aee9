"""Odd names, taken from rclone's and s5cmd's own tests: each object is copied exactly or refused with the reason.

rclone: fstest/fstests (encoding, NFC and NFD, leading and trailing spaces and dots), fs/sync (case-only names); s5cmd:
e2e (`//`, relative segments, URL-like and glob characters).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import local_store, memory_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectInfo
from holdfast.engine.objectstore.keys import MAXIMUM_KEY_BYTES, check_key
from holdfast.engine.objectstore.parts import PartLimits, part_bytes_for
from holdfast.errors import HoldfastError
from sync_world import World

FOLDER = "data/market/"
LONGEST = MAXIMUM_KEY_BYTES - len(FOLDER)


def long_name(size_bytes: int) -> str:
    """A name of folders each of which a local folder can hold."""
    return "/".join("n" * 200 for _ in range(20))[:size_bytes].rstrip("/").ljust(size_bytes, "x")


GOOD = [
    "plain",
    "space in name",
    " leading space",
    "trailing space ",
    "trailing dot.",
    "..two leading dots",
    ".hidden/..x/x..",
    "%41 is not A",
    "%2F",
    "100%",
    "a+b",
    "a&b=c?d#e;f,g",
    "quote'\"`",
    "*[star]{brace}?",
    "<lt>gt|pipe:colon",
    "~ ! @ $ ^ ( )",
    "caf\u00e9 composed",
    "cafe\u0301 decomposed",
    "日本語/中文",
    "🚀",
    "\u00a0non-breaking\u200b",
    "ﬁ ligature",
    "\ufffd",
    "-dash",
    "--help",
    "con",
    "nul.txt",
    "http:/x",
    "dir/_SUCCESS",
    long_name(700),
]
REFUSED = [
    "a//b",
    "/leading",
    "trailing/",
    "./a",
    "a/./b",
    "a/../b",
    "..",
    "tab\there",
    "new\nline",
    "back\\slash",
    "delete\x7f",
    "\x01",
    "x" * (MAXIMUM_KEY_BYTES + 1),
]


class OddSource(StoreDecorator):
    """A bucket in which some other tool put objects under keys that only some stores keep as they are."""

    def __init__(self, inner, odd: list[str]) -> None:
        super().__init__(inner)
        self._odd = odd

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        found = list(self.inner.list(prefix, start_after=start_after))
        model = next(iter(self.inner.list(FOLDER)))
        found += [replace(model, key=FOLDER + name) for name in self._odd if (FOLDER + name).startswith(prefix)]
        return iter(sorted(found, key=lambda info: info.key))


class CaseFolding(StoreDecorator):
    """A target that cannot tell `A` from `a`, as a folder on Windows or macOS: it keeps the name it saw first."""

    def _fold(self, key: str) -> str:
        folder, _, _ = key.partition("/")
        if folder != "data":
            return key  # its own records are all in lower case
        return next((info.key for info in self.inner.list(folder) if info.key.lower() == key.lower()), key)

    def parts(self):
        return None

    def head(self, key):
        return self.inner.head(self._fold(key))

    def get(self, key, **kwargs):
        return self.inner.get(self._fold(key), **kwargs)

    def open(self, key, **kwargs):
        return self.inner.open(self._fold(key), **kwargs)

    def put(self, key, data, **kwargs):
        return self.inner.put(self._fold(key), data, **kwargs)

    def delete(self, key):
        self.inner.delete(self._fold(key))


@pytest.fixture(params=["memory", "local"])
def world(request, tmp_path) -> World:
    """The source in memory; one target of each kind, or of this kind."""
    if request.param == "memory":
        return World({"aws": memory_store("aws"), "gcp": memory_store("gcp")})
    (tmp_path / "gcp").mkdir()
    return World({"aws": memory_store("aws"), "gcp": local_store("gcp", tmp_path / "gcp")})


def all_right(world: World, report) -> None:
    assert [target.error or target.refused for target in report.targets] == [None] * len(world.targets)
    for site in world.targets:
        assert world.shows(site) == world.source.live


def refusal(world: World, **kwargs) -> str | None:
    """Why the only target did not get it; ``None``: it got it, exactly."""
    try:
        (target,) = world.sync(**kwargs).targets
    except HoldfastError as error:  # with its only target lost, the sync itself fails
        assert world.latest("gcp") is None
        return str(error)
    if target.error or target.refused:
        assert world.latest("gcp") is None
        return target.error or target.refused
    assert world.shows("gcp") == world.source.live
    return None


@pytest.mark.parametrize("layout", ["direct", "staged"])
def test_odd_names_are_copied_exactly(world, layout):
    for number, name in enumerate(GOOD):
        world.source.put(name, f"{number}: {name}".encode())
    report = world.sync(policy=Sync(layout=layout))
    assert report.refused_objects == ()
    all_right(world, report)


def test_odd_names_are_copied_from_a_folder(tmp_path):
    (tmp_path / "aws").mkdir()
    world = World({"aws": local_store("aws", tmp_path / "aws"), "gcp": memory_store("gcp")})
    for number, name in enumerate(GOOD):
        world.source.put(name, f"{number}: {name}".encode())
    all_right(world, world.sync())


def test_composed_and_decomposed_names_stay_two_objects(world):
    world.source.put("caf\u00e9", b"composed")
    world.source.put("cafe\u0301", b"decomposed")
    all_right(world, world.sync())
    assert len(world.shows("gcp")) == 2


def test_empty_objects_are_copied(world):
    for name in ("empty", "also/empty", "third"):
        world.source.put(name, b"")
    all_right(world, world.sync())
    world.source.put("empty", b"not any more")
    world.source.put("third", b"")
    all_right(world, world.sync())


@pytest.mark.parametrize("equal", [False, True], ids=["other bytes", "equal bytes"])
def test_a_key_that_is_also_a_prefix_is_copied_or_refused(world, equal):
    world.source.put("key", b"same" if equal else b"1")
    world.source.put("key/inside", b"same" if equal else b"2")
    world.source.put("other", b"3")
    reason = refusal(world)
    assert reason is None or "key/inside" in reason, "the reason names the object"


def test_a_key_that_is_also_a_prefix_is_copied_between_clouds():
    world = World({name: memory_store(name) for name in ("aws", "gcp")})
    for name in ("key", "key/inside", "key/inside/deeper"):
        world.source.put(name, b"same")
    all_right(world, world.sync())


@pytest.mark.parametrize("layout", ["direct", "staged"])
@pytest.mark.parametrize("equal", [False, True], ids=["other bytes", "equal bytes"])
def test_names_that_differ_in_case_only_are_kept_apart_or_refused_on_a_folding_target(layout, equal):
    world = World({"aws": memory_store("aws"), "gcp": CaseFolding(memory_store("gcp"))})
    world.source.put("Readme", b"same" if equal else b"upper")
    world.source.put("readme", b"same" if equal else b"lower")
    reason = refusal(world, policy=Sync(layout=layout))
    assert reason is None or "eadme" in reason, "the reason names the object"


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_a_key_that_not_every_store_keeps_is_refused_with_its_reason(name):
    world = World({"aws": memory_store("aws"), "gcp": memory_store("gcp")})
    world.source.put("good", b"g")
    world.stores["aws"] = OddSource(world.stores["aws"], [name])
    try:
        report = world.sync()
    except HoldfastError as error:
        pytest.fail(f"one odd key stops the sync of everything: {error}")
    assert [refusal.path for refusal in report.refused_objects] == [name]
    assert "its key has" in report.refused_objects[0].reason
    assert "sync.filters.exclude" in report.refused_objects[0].reason, "what to do about it"
    assert world.shows("gcp") == {"good": b"g"}


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_a_refused_key_is_named_and_explained(name):
    with pytest.raises(ObjectStoreError) as refused:
        check_key(FOLDER + name, "here")
    assert refused.value.found
    assert repr(FOLDER + name)[1:40].split("x")[0] in str(refused.value)


@pytest.mark.parametrize("layout", ["direct", "staged"])
def test_the_longest_key_is_copied_or_refused_with_its_name(layout):
    """Under `.versions/` a key gets 27 bytes longer than it is at the source."""
    world = World({"aws": memory_store("aws"), "gcp": memory_store("gcp")})
    world.source.put(long_name(LONGEST), b"long")
    world.source.put("good", b"g")
    reason = refusal(world, policy=Sync(layout=layout))
    if reason is not None:
        assert layout == "staged"
        assert "nnnn" in reason, "the reason names the object"
        assert "1024 bytes" in reason


def test_a_name_too_long_for_a_folder_is_refused_with_its_name(tmp_path):
    (tmp_path / "gcp").mkdir()
    world = World({"aws": memory_store("aws"), "gcp": local_store("gcp", tmp_path / "gcp")}, clock=SystemClock())
    world.source.put("y" * 300, b"1")
    reason = refusal(world)
    assert reason is not None
    assert "yyyy" in reason


def three_sites(folder) -> World:
    """A source, a folder, and a bucket that takes every name."""
    stores = {"aws": memory_store("aws"), "gcp": local_store("gcp", folder), "azure": memory_store("azure")}
    return World(stores, clock=SystemClock())


def test_a_target_that_cannot_hold_a_name_says_so_before_anything_is_read_for_it_and_the_others_go_on(tmp_path):
    world = three_sites(tmp_path)
    world.source.put("y" * 254, b"1")
    world.source.put("y" * 253, b"2")
    world.source.put("good", b"g")
    report = world.sync()
    folder, bucket = report.targets
    assert [refusal.path for refusal in folder.refusals] == ["y" * 254]
    assert "254 of 253 bytes" in folder.refusals[0].reason
    assert "yyyy" in folder.error
    assert "sync.filters.exclude" in folder.error, "what to do about it"
    assert folder.copied_objects == 0
    assert world.latest("gcp") is None, "a snapshot is whole or not there"
    assert (bucket.error, bucket.refusals) == (None, ())
    assert world.shows("azure") == world.source.live
    assert report.refused_objects == (), "the object is in the snapshot"
    world.sync(policy=Sync(filters={"exclude": ["y" * 254]}))
    assert world.shows("gcp") == {"good": b"g", "y" * 253: b"2"}


def test_a_key_that_is_a_folder_of_another_fails_the_folder_alone_and_says_what_to_do(tmp_path):
    world = three_sites(tmp_path)
    world.source.put("key", b"same")
    world.source.put("key/inside", b"same")
    folder, bucket = world.sync().targets
    assert "key" in folder.error
    assert "sync.filters.exclude" in folder.error
    assert world.latest("gcp") is None
    assert bucket.error is None
    assert world.shows("azure") == world.source.live


def test_a_name_too_long_under_versions_only_matters_where_it_has_to_go_there():
    """What a target has at its own key stays there when the layout changes."""
    world = World({name: memory_store(name) for name in ("aws", "gcp", "azure")})
    name = long_name(LONGEST - 1)
    world.source.put(name, b"long")
    world.sync()
    world.source.put("other", b"o")
    report = world.sync(policy=Sync(layout="staged"))
    all_right(world, report)
    world.source.put(name, b"changed")
    with pytest.raises(ObjectStoreError, match=r"nnnn.*1024 bytes"):
        world.sync(policy=Sync(layout="staged"))
    assert world.shows("gcp") == {name: b"long", "other": b"o"}


GIB, TIB = 1 << 30, 1 << 40


@pytest.mark.parametrize("size_bytes", [1, 8 << 20, (8 << 20) * 10_000, (8 << 20) * 10_000 + 1, 500 * GIB, 5 * TIB])
def test_an_object_of_any_size_has_at_most_ten_thousand_parts(size_bytes):
    limits = PartLimits(smallest_bytes=5 << 20, largest_bytes=5 * GIB, most_parts=10_000, in_order=False)
    part_bytes = part_bytes_for(size_bytes, limits)
    assert part_bytes >= limits.smallest_bytes
    assert -(-size_bytes // part_bytes) <= 10_000
    assert part_bytes_for(size_bytes, limits) == part_bytes, "a later process cuts it the same way"


def test_parts_keep_to_what_a_backend_takes():
    aligned = PartLimits(smallest_bytes=1, largest_bytes=GIB, most_parts=None, in_order=True, multiple_bytes=256 * 1024)
    assert part_bytes_for(3 * TIB, aligned) % (256 * 1024) == 0
    small = PartLimits(smallest_bytes=1, largest_bytes=8 << 20, most_parts=100, in_order=False)
    with pytest.raises(ValueError, match="most"):
        part_bytes_for(TIB, small)
