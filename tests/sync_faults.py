"""Kinds of faults a sync meets, drawn from a seed, and what must hold when they are over."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from holdfast.clock import FakeClock
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import RetryPolicy
from sync_harms import (
    BentReads,
    BentWrites,
    BrownOut,
    Cut,
    CutReads,
    Denied,
    Full,
    Harm,
    Kill,
    Lost,
    Movement,
    Skew,
    Storm,
    WrongChecksums,
)
from sync_world import World

NAMES = ("a", "b", "b2", "c/d", "c/e", "c/_SUCCESS", "long/path/x.parquet", "ü nïcode/é", "empty", "z")
HURRIED = RetryPolicy(attempts=3, budget_seconds=30.0, first_delay_seconds=0.01, longest_delay_seconds=0.05)

Draw = Callable[[random.Random, World, int], Sequence[Harm]]


def somewhere(rng: random.Random, operations: int) -> int:
    return rng.randrange(operations + 3)


def kill(rng: random.Random, world: World, operations: int) -> Sequence[Harm]:
    return [Kill(somewhere(rng, operations), after_it=rng.random() < 0.5)]


def cut(rng: random.Random, world: World, operations: int) -> Sequence[Harm]:
    last = rng.choice((1, 3, 1_000_000))
    return [Cut(rng.choice(list(world.stores)), somewhere(rng, operations), last)]


def brown_out(rng: random.Random, world: World, operations: int) -> Sequence[Harm]:
    return [BrownOut(rng, 0.15, world.clock, site=rng.choice((None, *world.stores)))]


def corrupt(rng: random.Random, world: World, operations: int) -> Sequence[Harm]:
    return [BentReads(rng, 0.05), BentWrites(rng, 0.15)]


def wrong_checksums(rng: random.Random, world: World, operations: int) -> Sequence[Harm]:
    return [WrongChecksums(rng, 0.15), BentWrites(rng, 0.05)]


def truncate(rng: random.Random, world: World, operations: int) -> Sequence[Harm]:
    return [CutReads(rng, 0.05)]


def lost(rng: random.Random, world: World, operations: int) -> Sequence[Harm]:
    return [Lost(rng, 0.08)]


def storm(rng: random.Random, world: World, operations: int) -> Sequence[Harm]:
    return [Storm(rng, rng.choice((0.03, 0.1)), site=rng.choice((None, *world.stores)))]


def movement(rng: random.Random, world: World, operations: int) -> Sequence[Harm]:
    at = frozenset(somewhere(rng, operations) for _ in range(rng.randint(1, 4)))
    return [Movement(world.source, rng, NAMES, at)]


def movement_and_kill(rng: random.Random, world: World, operations: int) -> Sequence[Harm]:
    return [*movement(rng, world, operations), *kill(rng, world, operations)]


def skew(rng: random.Random, world: World, operations: int) -> Sequence[Harm]:
    assert isinstance(world.clock, FakeClock)
    world.clock.advance(rng.choice((-7200, -90, 90, 86400)))
    return [Skew(site, rng.choice((-3600.0, -1.0, 1.0, 3600.0))) for site in world.stores]


def credentials(rng: random.Random, world: World, operations: int) -> Sequence[Harm]:
    return [Denied(rng.choice(list(world.stores)), somewhere(rng, operations), rng.choice((2, 1_000_000)))]


def disk_full(rng: random.Random, world: World, operations: int) -> Sequence[Harm]:
    return [Full(rng.choice(world.targets), somewhere(rng, operations))]


def everything(rng: random.Random, world: World, operations: int) -> Sequence[Harm]:
    return [
        Storm(rng, 0.02),
        Lost(rng, 0.02),
        CutReads(rng, 0.01),
        BentWrites(rng, 0.02),
        *movement(rng, world, operations),
        *(kill(rng, world, operations) if rng.random() < 0.3 else ()),
    ]


KINDS: dict[str, Draw] = {
    "kill": kill,
    "cut": cut,
    "brown-out": brown_out,
    "corrupt": corrupt,
    "wrong-checksums": wrong_checksums,
    "truncate": truncate,
    "lost": lost,
    "storm": storm,
    "movement": movement,
    "movement-and-kill": movement_and_kill,
    "skew": skew,
    "credentials": credentials,
    "disk-full": disk_full,
    "everything": everything,
}


def settle(world: World, policy: Sync) -> None:
    """The fault is over: one run brings every target to the source's state, and the sweep leaves nothing."""
    report = world.sync(policy=policy)
    assert [target.error or target.refused for target in report.targets] == [None] * len(world.targets)
    for site in world.targets:
        assert world.shows(site) == world.source.live, f"{site} is not the source's newest state"
    world.check_everything_shown()
    world.sweep()
    for site in world.targets:
        assert world.unfinished(site) == []
