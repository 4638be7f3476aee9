"""What happens to one training run, drawn from a seed: the lives of its processes, and what ends each of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

#: Steps of every run.
STEPS = 16
ADAPTERS = ("plain", "sklearn", "xgboost", "lightgbm", "torch")

How = Literal["step", "put", "instant", "byte", "asked"]


@dataclass(frozen=True)
class Death:
    """How a process ends before its run does. Whatever it is, the process is dead before it can finish.

    Args:
        how: ``step``: SIGKILL in the training thread; ``put``: SIGKILL right before or after a write; ``instant``:
            SIGKILL by the parent after so many seconds, wherever the process is; ``byte``: the kernel ends it inside
            a write, after so many bytes; ``asked``: SIGTERM, the polite one.
        step: so many steps after where the process began; for ``instant``, where it waits to be killed.
        nth: the how many-th write of the process, counted over all its stores.
        after: after the write, or after the step's save was handed over, instead of before it.
        size_bytes: how much of the object ``byte`` lets through.
        seconds: for ``instant``.
    """

    how: How
    step: int = 1
    nth: int = 1
    after: bool = False
    size_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Zombie:
    """Instead of dying, the process is suspended, its site is failed over, and then it goes on.

    Args:
        step: it is suspended at the first write after so many steps.
        nth: at the how many-th write from there.
        wakes: right after the fork record was written, or when the run has ended elsewhere.
        stale: its lease is so long that it believes for ever that it may write. Else it finds out when it wakes.
    """

    step: int
    nth: int
    wakes: Literal["after the fork", "at the end"]
    stale: bool


@dataclass(frozen=True)
class Trouble:
    """What a process lives with.

    Args:
        unavailable, lost: chance per request that the store answers 503, or did it and the answer is lost.
        full: from the how many-th write on, and for how many, the disk takes only a part of each object.
        standby_down: the other site never answers.
        clock_seconds: how far the wall clock is off from the start.
        jump: at this step both clocks jump by so many seconds; the monotonic one only forward.
        other_machine: the process says that its processor is another one.
    """

    unavailable: float = 0.0
    lost: float = 0.0
    full: tuple[int, int] | None = None
    standby_down: bool = False
    clock_seconds: float = 0.0
    jump: tuple[int, float] | None = None
    other_machine: bool = False


@dataclass(frozen=True)
class Damage:
    """What becomes of the newest checkpoint's bytes while no process looks.

    Args:
        kind: one bit flipped, or cut short.
        part: one of its blobs, or its manifest.
        both: at both sites instead of the active one alone.
    """

    kind: Literal["flip", "truncate"]
    part: Literal["blob", "manifest"]
    both: bool


@dataclass(frozen=True)
class Life:
    """One process of the run, up to what comes after it. Without a death or a zombie it ends the run."""

    death: Death | None = None
    zombie: Zombie | None = None
    trouble: Trouble = Trouble()
    damage: Damage | None = None
    failover: bool = False


@dataclass(frozen=True)
class Scenario:
    """One run of the suite. Equal seeds and adapters give equal scenarios.

    Args:
        flavour: which of the adapter's models.
        mode: the save mode.
        every: steps between two checkpoints.
        pace: what training waits for after a save, so that more or less of it is durable when the process ends.
        sites: two folders and a register in a third, or two buckets of an emulated S3 and the ranked register on it.
        told: whether a promotion's fork record is brought to the site left behind, too.
        lives: the last one ends the run.
    """

    seed: int
    adapter: str
    flavour: int
    mode: Literal["copy", "blocking", "overlap"]
    every: int
    pace: Literal["nothing", "durable", "replicated"]
    sites: Literal["folders", "s3"]
    told: bool
    lives: tuple[Life, ...]


def draw(adapter: str, seed: int) -> Scenario:
    """At least two processes die by SIGKILL; a third of the runs have a zombie, most a failover."""
    rng = random.Random(f"{adapter}-{seed}")
    sites: Literal["folders", "s3"] = "s3" if seed % 18 == 7 else "folders"
    lives = [_deadly(rng, sites) for _ in range(rng.choice((2, 2, 3)))]
    if rng.random() < 0.25:
        lives.insert(rng.randrange(len(lives) + 1), Life(death=_asked(rng), trouble=_trouble(rng, sites)))
    if rng.random() < 0.4:
        lives.insert(rng.randrange(len(lives) + 1), Life(zombie=_zombie(rng), failover=True))
    last = _trouble(rng, sites)
    return Scenario(
        seed=seed,
        adapter=adapter,
        flavour=rng.randrange(100),
        mode=rng.choice(("copy", "blocking", "overlap") if adapter == "torch" else ("copy", "copy", "blocking")),
        every=rng.choice((1, 2, 3)),
        pace=rng.choice(("nothing", "durable", "replicated", "replicated")),
        sites=sites,
        told=rng.random() < 0.7,
        lives=(*lives, Life(trouble=last)),
    )


def undisturbed(adapter: str, flavour: int) -> Scenario:
    """The run that every other one of this adapter and flavour must equal."""
    return Scenario(0, adapter, flavour, "copy", STEPS, "nothing", "folders", told=True, lives=(Life(),))


def at_write(adapter: str, nth: int) -> Scenario:
    """Killed right before the ``nth`` write of its first process, which is right after the one before; then again."""
    again = Death("put", nth=nth % 7 + 1, after=True)
    lives = (Life(death=Death("put", nth=nth)), Life(death=again, failover=nth % 3 == 0), Life())
    return Scenario(nth, adapter, 1, "copy", STEPS // 2, "replicated", "folders", told=True, lives=lives)


def _deadly(rng: random.Random, sites: str) -> Life:
    hows: list[How] = ["step", "put", "put", "instant", *(["byte"] if sites == "folders" else [])]
    death = Death(
        how=rng.choice(hows),
        step=rng.randint(1, 7),
        nth=rng.randint(1, 30),
        after=rng.random() < 0.5,
        size_bytes=rng.choice((0, 1, rng.randrange(400))),
        seconds=rng.uniform(0.0, 0.35),
    )
    trouble = _trouble(rng, sites)
    if death.how == "byte":  # one limit on a file's size at a time
        trouble = Trouble(clock_seconds=trouble.clock_seconds)
    return Life(
        death=death,
        trouble=trouble,
        damage=_damage(rng) if rng.random() < 0.45 else None,
        failover=rng.random() < 0.4,
    )


def _asked(rng: random.Random) -> Death:
    return Death("asked", step=rng.randint(1, 5))


def _zombie(rng: random.Random) -> Zombie:
    return Zombie(
        step=rng.randint(1, 5),
        nth=rng.randint(1, 4),
        wakes=rng.choice(("after the fork", "at the end")),
        stale=rng.random() < 0.75,
    )


def _trouble(rng: random.Random, sites: str) -> Trouble:
    kind = rng.choice(("none", "none", "none", "storm", "lost", "full", "down", "clock", "jump", "machine"))
    if kind == "storm":
        return Trouble(unavailable=rng.choice((0.05, 0.2)))
    if kind == "lost":
        return Trouble(lost=rng.choice((0.05, 0.2)), unavailable=0.05)
    if kind == "full" and sites == "folders":
        return Trouble(full=(rng.randint(1, 8), rng.choice((1, 5, 20))))
    if kind == "down":
        return Trouble(standby_down=True)
    if kind == "clock":
        return Trouble(clock_seconds=rng.choice((-3600.0, 3600.0)))
    if kind == "jump":
        return Trouble(jump=(rng.randint(1, 6), rng.choice((-3600.0, 3600.0))))
    return Trouble(other_machine=kind == "machine" and rng.random() < 0.4)


def _damage(rng: random.Random) -> Damage:
    return Damage(
        kind=rng.choice(("flip", "truncate")),
        part=rng.choice(("blob", "blob", "blob", "manifest")),
        both=rng.random() < 0.3,
    )
