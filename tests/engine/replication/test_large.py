"""Large objects, in parts and as streams: wrong bytes are never published, kept or put over others."""

from __future__ import annotations

import random
import threading
from types import SimpleNamespace

import pytest

from holdfast.engine.config.sync import Sync, Verification
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.encrypted import EncryptedStore, Scope
from holdfast.engine.objectstore.envelope import KeyRing
from holdfast.engine.objectstore.parts import PartLimits
from holdfast.engine.replication import rounds
from holdfast.engine.replication.copying import Crew
from holdfast.engine.replication.large import BUFFERS_BYTES, PartWork, common_part_bytes
from holdfast.engine.snapshot import records
from holdfast.engine.snapshot.placement import replica_metadata
from sync_harms import Harm, HarmedStore, Killed, Trace, bent, unavailable
from sync_world import DATASET, World, see
from without_parts import WithoutParts, unchecked_parts

BIG = random.Random(1).randbytes(41_000)
OTHER = random.Random(2).randbytes(41_000)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Everything above a kilobyte is large, and its parts are 4000 bytes."""
    monkeypatch.setattr(rounds, "PARTS_ABOVE_BYTES", 1000)
    monkeypatch.setattr("holdfast.engine.replication.large.part_bytes_for", lambda size, limits: 4000)


class BentOnce(Harm):
    """One read of an object at a site, by its number, arrives with a flipped bit; the wire says nothing."""

    def __init__(self, name="big", *, site="aws", verbs=("open", "get", "read_into"), least_bytes=1000, at=1):
        self.name, self.site, self.verbs, self.least_bytes, self.left = name, site, verbs, least_bytes, at
        self._lock = threading.Lock()

    def read(self, op, data):
        if op.site != self.site or op.verb not in self.verbs or not op.key.endswith(f"/{self.name}"):
            return data
        if len(data) < self.least_bytes:
            return data
        with self._lock:
            self.left -= 1
            return bent(data, 1) if self.left == 0 else data


def encrypted(store):
    return EncryptedStore(store, [Scope(f"data/{DATASET}/", DATASET, lambda: KeyRing((bytes(32),)))])


def world_of(target, **objects):
    world = World({"aws": memory_store("aws"), "gcp": target})
    for name, data in objects.items():
        world.source.put(name, data)
    return world


def harmed(trace, site="aws"):
    """Only one site is harmed and tells checksums."""
    return lambda name, store: HarmedStore(store, name, trace) if name == site else store


def whole(world, report):
    assert all(target.ok for target in report.targets), report.targets
    assert {site: world.shows(site) for site in world.targets} == dict.fromkeys(world.targets, world.source.live)
    world.check_everything_shown()


# -- as a stream -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [encrypted, WithoutParts])
def test_a_bit_flipped_in_a_stream_is_not_published(target):
    world, bend = world_of(target(memory_store("gcp")), big=BIG), BentOnce()
    whole(world, world.sync(wrap=harmed(Trace([bend]))))
    assert bend.left <= 0
    assert len(list(world.stores["gcp"].list("data/"))) == 1, "what was read wrong never became an object"


def test_a_stream_read_wrong_for_one_of_two_targets_is_published_at_neither():
    world = World({name: memory_store(name) for name in ("aws", "gcp", "azure")})
    world.stores |= {name: WithoutParts(world.stores[name]) for name in world.targets}
    world.source.put("big", BIG)
    whole(world, world.sync(wrap=harmed(Trace([BentOnce(at=2)]))))


def test_a_stream_leaves_bytes_that_an_older_snapshot_names():
    world = world_of(WithoutParts(memory_store("gcp")), big=BIG)
    first = world.sync().record
    for data in (OTHER, BIG, OTHER):
        world.source.put("big", data)
        trace = Trace([BentOnce()])
        report = world.sync(wrap=harmed(trace))
        whole(world, report)
    assert see(world.stores["gcp"], first)["big"] == BIG
    assert len(records(world.stores["gcp"], DATASET)) == 4


def test_a_stream_whose_place_is_taken_by_other_bytes_goes_elsewhere():
    world, clean = world_of(WithoutParts(memory_store("gcp")), big=BIG), Trace()
    world.sync(clean)
    [info] = world.stores["gcp"].list("data/")
    other = world_of(WithoutParts(memory_store("gcp")))
    other.stores["aws"] = other.source.store = world.stores["aws"]
    other.source.states.append({"big": BIG})
    other.stores["gcp"].put(info.key, OTHER)
    assert all(target.ok for target in other.sync().targets)
    assert other.shows("gcp") == {"big": BIG}
    assert other.stores["gcp"].get(info.key) == OTHER


@pytest.mark.parametrize("broken", [(), ("azure",), ("gcp",)])
def test_a_replica_at_the_source_is_no_data_whichever_target_breaks(broken):
    class Broken(Harm):
        def before(self, op):
            if op.site in broken and op.verb == "put" and op.key.endswith("/z"):
                raise unavailable(op, "cut off", unknown=False)

    world = World({name: WithoutParts(memory_store(name)) for name in ("aws", "gcp", "azure")})
    world.source.put("a", b"ours")
    world.stores["aws"].put("data/market/z", BIG, metadata=replica_metadata("x", "z"))
    world.sync(Trace([Broken()]))
    shown = [world.shows(site) for site in world.targets if site not in broken]
    assert shown == [{"a": b"ours"}] * len(shown)


# -- in parts ----------------------------------------------------------------------------------------------------------


class KilledAtPart(Harm):
    """The process is gone when a part is to be put for the n-th time."""

    def __init__(self, at):
        self.left = at

    def before(self, op):
        if op.verb == "put_part":
            self.left -= 1
        if self.left <= 0:
            raise Killed


def believing(verify):
    """A policy that reads nothing back where it is not told to."""
    return Sync(verify=verify, sample_share=1e-9) if verify is Verification.SAMPLED else Sync(verify=verify)


@pytest.mark.parametrize("verify", list(Verification))
@pytest.mark.parametrize("ends_by_checksum", [False, True])
def test_a_part_read_wrong_is_not_kept_by_a_store_that_tells_no_checksums(verify, ends_by_checksum):
    world = world_of(unchecked_parts(memory_store("gcp"), ends_by_checksum=ends_by_checksum), big=BIG)
    whole(world, world.sync(policy=believing(verify), wrap=harmed(Trace([BentOnce()]))))
    assert world.unfinished("gcp") == []


@pytest.mark.parametrize("verify", list(Verification))
@pytest.mark.parametrize("ends_by_checksum", [False, True])
def test_a_part_sent_wrong_by_a_run_that_was_killed_is_not_published(monkeypatch, verify, ends_by_checksum):
    monkeypatch.setattr("holdfast.engine.replication.large.MOST_WORKERS", 1)
    world = world_of(unchecked_parts(memory_store("gcp"), ends_by_checksum=ends_by_checksum), big=BIG)
    with pytest.raises(Killed):
        world.sync(Trace([BentOnce(), KilledAtPart(6)]), policy=believing(verify))
    trace = Trace()
    report = world.sync(policy=believing(verify), wrap=harmed(trace, "gcp"))
    whole(world, report)
    whole(world, world.sync(policy=believing(verify)))
    assert world.unfinished("gcp") == []


def test_parts_that_survived_are_not_sent_again_to_a_store_that_tells_no_checksums(monkeypatch):
    monkeypatch.setattr("holdfast.engine.replication.large.MOST_WORKERS", 1)
    world = world_of(unchecked_parts(memory_store("gcp")), big=BIG)
    with pytest.raises(Killed):
        world.sync(Trace([KilledAtPart(6)]))
    sent, policy = [], believing(Verification.SAMPLED)
    put_part = type(world.stores["gcp"].parts()._inner).put_part
    monkeypatch.setattr(
        type(world.stores["gcp"].parts()._inner),
        "put_part",
        lambda parts, upload, number, *args, **kwargs: (
            sent.append(number),
            put_part(parts, upload, number, *args, **kwargs),
        )[1],
    )
    report = world.sync(policy=policy)
    whole(world, report)
    assert sent == [6, 7, 8, 9, 10, 11]
    assert report.targets[0].receipt_key is not None


def test_only_the_part_read_wrong_is_sent_again_where_checksums_are_told():
    world, trace = world_of(memory_store("gcp"), big=BIG), Trace([BentOnce()])
    whole(world, world.sync(trace))
    assert (trace.count("begin"), trace.count("put_part")) == (1, 12)


def test_an_upload_is_begun_for_parts_of_the_size_that_all_its_stores_take(monkeypatch):
    begun, world = [], world_of(memory_store("gcp"), big=BIG)
    kind = type(world.stores["gcp"].parts())
    begin = kind.begin

    def noted(self, key, **kwargs):
        begun.append(kwargs["part_bytes"])
        return begin(self, key, **kwargs)

    monkeypatch.setattr(kind, "begin", noted)
    whole(world, world.sync())
    assert begun == [4000]


def test_a_worker_that_dies_before_its_part_ends_the_sync(monkeypatch):
    made, another = iter(range(100)), threading.Event()

    def memory(*size):
        if size and next(made) == 0:
            another.wait(10)  # until somebody has the second part and waits for the first
            raise MemoryError
        if size:
            another.set()
        return bytearray(*size)

    monkeypatch.setattr("holdfast.engine.replication.large.bytearray", memory, raising=False)
    world, ended = world_of(memory_store("gcp"), big=BIG), []

    def run():
        with pytest.raises(MemoryError):
            world.sync()
        ended.append(True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert ended, "the other workers wait for a part that nobody brings"


@pytest.mark.parametrize("size_gib", [1, 79, 300, 1024, 5 * 1024])
def test_buffers_are_within_the_budget_or_one_part(monkeypatch, size_gib):
    monkeypatch.undo()
    size_bytes, s3 = size_gib << 30, PartLimits(5 << 20, 5 << 30, 10_000, in_order=False)
    google = PartLimits(256 << 10, 1 << 30, None, in_order=True, multiple_bytes=256 << 10)
    part_bytes = common_part_bytes(size_bytes, [s3, google])
    assert part_bytes % google.multiple_bytes == 0
    assert part_bytes <= max(8 << 20, size_bytes // 10_000 + (1 << 20)), "no larger than it must be"
    job = SimpleNamespace(part_bytes=part_bytes, count=-(-size_bytes // part_bytes))
    workers = PartWork([job], Crew(None)).workers
    assert workers * part_bytes <= max(BUFFERS_BYTES, part_bytes)
