"""Hundreds of syncs that meet every kind of fault, each run from one seed.

What must hold, whatever happens: every snapshot a target shows is a state the source really had, byte for byte; a
target reported as done is not older than its run; once the fault is over one more run brings the newest state; and
after the sweep no unfinished upload is left.

A run is named by its kind of fault and its seed (`pytest -k "kill-17"` runs one again). `HOLDFAST_SYNC_SEEDS=17,18`
runs other seeds than the suite's.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from holdfast.clock import FakeClock, SystemClock
from holdfast.engine.config.sync import Sync, Verification
from holdfast.engine.objectstore import RetryingStore, local_store, memory_store
from holdfast.errors import HoldfastError
from sync_faults import HURRIED, KINDS, NAMES, settle
from sync_harms import Harm, Killed, Trace
from sync_world import World

QUICK, ALL = range(3), range(24)


def chosen_seeds() -> Sequence[int]:
    given = os.environ.get("HOLDFAST_SYNC_SEEDS")
    return [int(seed) for seed in given.split(",")] if given else ALL


CASES = [
    pytest.param(kind, seed, id=f"{kind}-{seed}", marks=() if seed in QUICK else pytest.mark.slow)
    for kind in KINDS
    for seed in chosen_seeds()
]


def build(rng: random.Random, folder: Path, *, clock: FakeClock | SystemClock) -> World:
    """A source and one or two targets, each in memory or in a folder, with some objects."""
    stores = {}
    for name in ("aws", "gcp", "azure")[: rng.choice((2, 2, 3))]:
        if rng.random() < 0.7:
            stores[name] = memory_store(name)
        else:
            (folder / name).mkdir()
            stores[name] = local_store(name, folder / name)
    world = World(stores, clock=clock)
    for name in rng.sample(NAMES, rng.randint(3, len(NAMES))):
        world.source.put(name, rng.randbytes(rng.choice((0, 1, 100, 5000))))
    return world


def policy_for(rng: random.Random, kind: str) -> Sync:
    verify = rng.choice((Verification.ALL, Verification.ALL, Verification.PROVIDER))
    return Sync(verify=verify, layout=rng.choice(("direct", "direct", "staged")))


def one_run(world: World, policy: Sync, harms: Sequence[Harm], rng: random.Random) -> int:
    """One sync under harm; returns how many operations it came to."""
    trace = Trace(harms)
    since = world.source.now()
    retrying = rng.random() < 0.5

    def wrap(site, store):
        return RetryingStore(store, HURRIED, clock=world.clock, rng=random.Random(1)) if retrying else store

    try:
        report = world.sync(trace, policy=policy, threads=rng.choice((1, 1, 1, 4)), wrap=wrap)
    except (HoldfastError, Killed):
        pass  # what it left behind is looked at below
    else:
        world.check_claims(report, since)
    world.check_everything_shown()
    return max(len(trace.ops), 20)


@pytest.mark.parametrize(("kind", "seed"), CASES)
def test_every_snapshot_shown_is_a_state_the_source_had(kind, seed, tmp_path):
    print(f"kind={kind} seed={seed}")
    rng = random.Random(f"{kind}-{seed}")
    world = build(rng, tmp_path, clock=FakeClock())
    policy = policy_for(rng, kind)
    operations = 60
    for _ in range(3):
        for _ in range(rng.randint(0, 3)):
            world.source.mutate(rng, NAMES)
        operations = one_run(world, policy, KINDS[kind](rng, world, operations), rng)
    settle(world, policy)


@pytest.mark.parametrize("seed", [pytest.param(n, marks=() if n < 2 else pytest.mark.slow) for n in range(24)])
def test_two_runs_at_once_publish_states_the_source_had(seed, tmp_path):
    rng = random.Random(f"two-{seed}")
    world = build(rng, tmp_path, clock=SystemClock())
    policy = Sync()
    for _ in range(2):
        since, errors = world.source.now(), []
        barrier = threading.Barrier(3)

        def run(world=world, since=since, errors=errors, barrier=barrier):
            barrier.wait(10)
            try:
                world.check_claims(world.sync(policy=policy, threads=2), since)
            except HoldfastError:
                pass  # one of two may be told to try again
            except BaseException as error:
                errors.append(error)

        runs = [threading.Thread(target=run) for _ in range(2)]
        for thread in runs:
            thread.start()
        barrier.wait(10)
        for _ in range(3):
            world.source.mutate(rng, NAMES)
        for thread in runs:
            thread.join(60)
            assert not thread.is_alive()
        assert errors == []
        world.check_everything_shown()
    settle(world, policy)
