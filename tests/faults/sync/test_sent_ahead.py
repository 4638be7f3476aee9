"""The seeded faults again, at stores that take requests ahead: several small objects are on their way at a time.

The rule is the one of `test_seeded_faults`; besides, nothing is left on its way.
"""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest

from ahead_world import NamedByMd5, SentAhead
from holdfast.clock import FakeClock, SystemClock
from holdfast.engine.config.models import Limits
from holdfast.engine.config.sync import Sync, Verification
from holdfast.engine.objectstore import RetryingStore, memory_store
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.interface import ObjectInfo, ObjectStore, ObjectVersion
from holdfast.engine.objectstore.limited import SiteLimiter, limited
from holdfast.engine.replication.copying import Done, Item, SmallCopier
from holdfast.engine.replication.landing import Landing
from holdfast.engine.replication.several import SeveralCopier
from holdfast.engine.replication.verification import md5_tag
from holdfast.errors import HoldfastError
from sync_faults import HURRIED, KINDS, NAMES, settle
from sync_harms import Killed, Trace
from sync_world import World

MANY = [*NAMES, *(f"many/{number:02}" for number in range(30))]
QUICK, ALL = range(2), range(16)
CASES = [
    pytest.param(kind, seed, id=f"{kind}-{seed}", marks=() if seed in QUICK else pytest.mark.slow)
    for kind in KINDS
    for seed in ALL
]


@pytest.mark.parametrize(("kind", "seed"), CASES)
def test_every_snapshot_shown_is_a_state_the_source_had(kind: str, seed: int) -> None:
    rng = random.Random(f"ahead-{kind}-{seed}")
    names = ("aws", "gcp", "azure")[: rng.choice((2, 3))]
    world = World({name: NamedByMd5(memory_store(name)) for name in names}, clock=FakeClock())
    for name in rng.sample(MANY, rng.randint(5, len(MANY))):
        world.source.put(name, rng.randbytes(rng.choice((0, 1, 100, 5000))))
    policy = Sync(
        verify=rng.choice((Verification.ALL, Verification.PROVIDER, Verification.PROVIDER)),
        layout=rng.choice(("direct", "direct", "staged")),
    )
    operations, ahead = 100, []

    def wrap(site: str, store: object) -> SentAhead:
        # Not every target takes requests ahead.
        inner = RetryingStore(store, HURRIED, clock=world.clock, rng=random.Random(1))
        ahead.append(SentAhead(inner, rng, rng.choice((0.0, 0.2, 1.0))))
        return ahead[-1]

    for _ in range(3):
        for _ in range(rng.randint(0, 3)):
            world.source.mutate(rng, MANY)
        since, trace = world.source.now(), Trace(KINDS[kind](rng, world, operations))
        try:
            report = world.sync(trace, policy=policy, threads=rng.choice((1, 16, 40)), wrap=wrap)
        except (HoldfastError, Killed):
            pass  # what it left behind is looked at below
        else:
            world.check_claims(report, since)
        world.check_everything_shown()
        operations = max(len(trace.ops), 20)
    assert {store.on_their_way for store in ahead} == {0}
    settle(world, policy)


def test_it_really_goes_ahead() -> None:
    world = World({name: NamedByMd5(memory_store(name)) for name in ("aws", "gcp")})
    for name in MANY:
        world.source.put(name, name.encode())
    seen: list[SentAhead] = []

    def wrap(site: str, store: object) -> SentAhead:
        seen.append(SentAhead(store, random.Random(site), 0.0))
        return seen[-1]

    report = world.sync(policy=Sync(verify=Verification.PROVIDER), wrap=wrap)
    assert report.targets[0].copied_objects == len(MANY)
    assert [store.taken for store in seen] == [len(MANY), len(MANY)]
    assert world.shows("gcp") == world.source.live


@pytest.mark.parametrize("concurrency", [1, 2, 5])
@pytest.mark.parametrize("verify", [Verification.ALL, Verification.PROVIDER])
def test_few_places_are_shared_and_all_given_back(concurrency: int, verify: Verification) -> None:
    world = World({name: NamedByMd5(memory_store(name)) for name in ("aws", "gcp")}, clock=SystemClock())
    for number in range(150):
        world.source.put(f"{number}", f"{number}".encode())
    limiters = {name: SiteLimiter(Limits(concurrency=concurrency)) for name in world.stores}

    def wrap(site: str, store: object) -> RetryingStore:
        return RetryingStore(limited(SentAhead(store, random.Random(site)), limiters[site]), HURRIED)

    report = world.sync(policy=Sync(verify=verify), threads=64, wrap=wrap)
    assert report.targets[0].error is None
    assert world.shows("gcp") == world.source.live
    assert {limiter.places.in_flight for limiter in limiters.values()} == {0}


def test_a_source_whose_etags_only_look_like_md5s_waits_for_no_place_of_its_own() -> None:
    class Encrypted(NamedByMd5):
        """As S3 with SSE-KMS: an ETag of the same look that is none of the bytes'."""

        def _whole(self, key: str) -> tuple[ObjectInfo, bytes, Attributes]:
            info, data, attributes = super()._whole(key)
            tag = md5_tag(b"another" + data) if key.startswith("data/") else info.version.e_tag
            return replace(info, version=ObjectVersion(tag)), data, attributes

    world = World({"aws": Encrypted(memory_store("aws")), "gcp": NamedByMd5(memory_store("gcp"))}, clock=SystemClock())
    for number in range(60):
        world.source.put(f"{number}", f"{number}".encode())
    limiters = {name: SiteLimiter(Limits(concurrency=8)) for name in world.stores}
    receiver = Taker(world.stores["gcp"])
    store = limited(SentAhead(world.stores["aws"], random.Random(1), 0.0), limiters["aws"])
    small = SmallCopier(store, [receiver], world.clock)
    several = SeveralCopier(store, [receiver], small, preserves=False)
    items = [
        Item(n, info.key, info.key, info.key, info.size_bytes, info.version, None, None, ())
        for n, info in enumerate(world.stores["aws"].list("data/"))
    ]
    done: list[Done] = []
    thread = threading.Thread(target=several.copy, args=(items, done.append, lambda: False), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert sorted(one.item.index for one in done) == list(range(60))
    assert limiters["aws"].places.in_flight == 0


class Taker:
    """A target that nothing is brought to."""

    active = True

    def __init__(self, store: ObjectStore) -> None:
        self.landing = Landing(
            store, folder="market", policy=Sync(), run_id="0" * 32, clock=SystemClock(),
            translate=lambda found: found, spares={},
        )  # fmt: skip

    def fail(self, error: HoldfastError) -> None:
        raise error
