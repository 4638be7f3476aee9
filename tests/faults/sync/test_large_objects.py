"""Large objects under faults, at targets that offer less than memory's parts, under every way to verify.

The rule is the suite's: whatever a site shows is a state the source really had, byte for byte; and once the fault is
over one more run brings the newest.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.config.sync import Sync, Verification
from holdfast.engine.objectstore import memory_store
from holdfast.engine.objectstore.encrypted import EncryptedStore, Scope
from holdfast.engine.objectstore.envelope import KeyRing
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.replication import rounds
from holdfast.errors import HoldfastError
from sync_harms import BentReads, BentWrites, Cut, CutReads, Harm, Kill, Killed, Lost, Movement, Op, Storm, Trace, bent
from sync_world import DATASET, World
from without_parts import WithoutParts, unchecked_parts

NAMES = ("big", "bigger", "small")
QUICK, ALL = range(2), range(12)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Everything above a kilobyte is large, and its parts are 4000 bytes."""
    monkeypatch.setattr(rounds, "PARTS_ABOVE_BYTES", 1000)
    monkeypatch.setattr("holdfast.engine.replication.large.part_bytes_for", lambda size, limits: 4000)


def encrypted(store: ObjectStore) -> ObjectStore:
    return EncryptedStore(store, [Scope(f"data/{DATASET}/", DATASET, lambda: KeyRing((bytes(32),)))])


def ends_by_checksum(store: ObjectStore) -> ObjectStore:
    return unchecked_parts(store, ends_by_checksum=True)


def plain(store: ObjectStore) -> ObjectStore:
    return store


TARGETS: Sequence[Callable[[ObjectStore], ObjectStore]] = (
    plain,
    unchecked_parts,
    ends_by_checksum,
    encrypted,
    WithoutParts,
)


def harms(rng: random.Random, world: World, verify: Verification) -> Sequence[Harm]:
    """Bytes bent on the way from the source, and one thing more. What `sampled` leaves unread is not bent there."""
    more: list[Sequence[Harm]] = [
        [Kill(rng.randrange(80), after_it=rng.random() < 0.5)],
        [Lost(rng, 0.05)],
        [Storm(rng, 0.03)],
        [CutReads(rng, 0.03)],
        [Cut("gcp", rng.randrange(80), rng.choice((1, 1_000_000)))],
        [Movement(world.source, rng, NAMES, frozenset(rng.randrange(80) for _ in range(2)))],
    ]
    if verify is not Verification.SAMPLED:
        more.append([BentReads(rng, 0.03, site="gcp"), BentWrites(rng, 0.05)])
    return [BentReads(rng, 0.04, site="aws"), *rng.choice(more)]


def changed(world: World, rng: random.Random) -> None:
    """Some objects are overwritten, sometimes by bytes they had before."""
    for name in rng.sample(NAMES, 2):
        size = {"big": 9_500, "bigger": 41_000, "small": 500}[name]
        world.source.put(name, random.Random(f"{name}-{rng.randrange(3)}").randbytes(size))


@pytest.mark.parametrize("seed", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in ALL])
@pytest.mark.parametrize("verify", list(Verification))
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_a_large_object_is_what_the_source_had_or_not_shown(target, verify, seed):
    rng = random.Random(f"large-{target.__name__}-{verify}-{seed}")
    world = World({"aws": memory_store("aws"), "gcp": target(memory_store("gcp"))}, clock=FakeClock())
    policy = Sync(verify=verify, layout=rng.choice(("direct", "staged")), sample_share=1e-9)
    for _ in range(4):
        changed(world, rng)
        since = world.source.now()
        try:
            report = world.sync(Trace(harms(rng, world, verify)), policy=policy)
        except (HoldfastError, Killed):
            pass  # what it left behind is looked at below
        else:
            world.check_claims(report, since)
        world.check_everything_shown()
    report = world.sync(policy=policy)
    assert [one.error or one.refused for one in report.targets] == [None]
    assert world.shows("gcp") == world.source.live
    world.check_everything_shown()
    world.sweep()
    assert world.unfinished("gcp") == []


class Rot(Harm):
    """One object at the source reads wrong, always; its version is as before."""

    def __init__(self, name: str) -> None:
        self.name, self.reads = name, 0

    def read(self, op: Op, data: bytes) -> bytes:
        if op.site != "aws" or op.key != f"data/market/{self.name}":
            return data
        self.reads += 1
        if self.reads > 500:
            raise Killed("it is read again and again")
        return bent(data, 1) if len(data) > 1 else data


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
@pytest.mark.parametrize("known", [True, False])
def test_rot_at_the_source_ends_the_run_and_nothing_of_it_is_shown(target, name, known):
    world = World({"aws": memory_store("aws"), "gcp": target(memory_store("gcp"))})
    changed_at = {"big": 9_500, "bigger": 41_000, "small": 500}
    for other, size in changed_at.items():
        world.source.put(other, random.Random(other).randbytes(size))
    if known:  # hashed and published once; a new target needs it when it has rotted
        world.sync()
        world.stores["gcp"] = target(memory_store("gcp"))
    with pytest.raises(HoldfastError):
        world.sync(Trace([Rot(name)]))
    assert world.shows("gcp") is None
    report = world.sync()
    assert [one.error for one in report.targets] == [None]
    assert world.shows("gcp") == world.source.live
