"""One training process: forked from a warm one, it trains, saves, resumes, and dies where its `Life` says."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
import traceback
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from faults.training import loops, mutants
from faults.training.scenario import STEPS, Life, Scenario
from faults.training.stores import GROUP, RUN, SITES, Fate, Log, Place, harmed
from holdfast.clock import SystemClock
from holdfast.engine.authority.lease import Lease
from holdfast.engine.checkpoint import Checkpointer, Fenced, Resumed, StopRequested
from holdfast.engine.checkpoint.fingerprint import environment_fingerprint
from holdfast.engine.checkpoint.heartbeat import HeartbeatObject
from holdfast.engine.training import LeaseGuard
from holdfast.errors import HoldfastError

#: No process of the suite lives longer, whatever becomes of its parent.
LONGEST_SECONDS = 60
#: How long training waits, at most, for a save it paces itself by. No verdict depends on it.
PACE_SECONDS = 5.0


@dataclass(frozen=True)
class Job:
    """What a process is told, as a `TrainingBackend` would tell it.

    Args:
        number: the how many-th process of the run.
        mutant: a part of the state to forget; see `mutants`.
        protocol: a rule of the protocol to break; see `mutants`.
    """

    scenario: Scenario
    life: Life
    number: int
    place: Place
    epoch: int
    site: str
    log: Path
    mutant: str | None = None
    protocol: str | None = None
    #: A person said that the run begins again: nothing of it is left to go on from.
    anew: bool = False


class HarmedClock(SystemClock):
    """A clock that is off, and that jumps."""

    def __init__(self, seconds: float) -> None:
        self._wall_seconds = seconds
        self._monotonic_seconds = 0.0

    def jump(self, seconds: float) -> None:
        self._wall_seconds += seconds
        self._monotonic_seconds += max(0.0, seconds)  # as after a machine's sleep; it never goes back

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._wall_seconds)

    def monotonic(self) -> float:
        return super().monotonic() + self._monotonic_seconds


def main(job: Job) -> None:
    """Train; exits with the job's own exit code."""
    os.setsid()
    signal.alarm(LONGEST_SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    death = job.life.death
    if death is not None and death.how == "byte":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    log = Log(job.log)
    try:
        with mutants.protocol(job.protocol):
            code = _train(job, log)
    except (Fenced, StopRequested) as error:
        log.say("left", error=str(error))
        code = error.exit_code
    except Exception as error:
        transient = isinstance(error, HoldfastError) and error.transient
        log.say("failed", error=traceback.format_exc(), transient=transient)
        code = 1
    os._exit(code)


def _train(job: Job, log: Log) -> int:
    life, scenario = job.life, job.scenario
    fate = Fate(log, life.death, life.zombie, life.trouble)
    clock = HarmedClock(life.trouble.clock_seconds)
    if life.trouble.clock_seconds:
        log.say("clock off", seconds=life.trouble.clock_seconds)
    loop = mutants.remember(loops.make(scenario.adapter, scenario.flavour), scenario.adapter, job.mutant)
    checkpointer = _checkpointer(job, fate, clock)
    log.say("fingerprint", fingerprint=checkpointer.fingerprint)
    resumed = None if job.anew else checkpointer.resume(loop.adapter)
    _say_resumed(log, resumed)
    begin = resumed.step if resumed else 0
    # A process that outlived its epoch has still much to say, all of it wrong.
    last = STEPS if life.zombie is None else STEPS + 6
    if begin >= STEPS:
        fate.after_last_step()
    with checkpointer:
        for number in range(begin + 1, last + 1):
            loop.step(number)
            if fate.awake:
                loop.step(number + 1000)
            jump = life.trouble.jump
            if jump is not None and number == begin + jump[0]:
                log.say("clock jumped", seconds=jump[1])
                clock.jump(jump[1])
            fate.at_step(number - begin, saved=False)
            if checkpointer.step(number, loop.adapter):
                _pace(checkpointer, job, number)
            fate.at_step(number - begin, saved=True)
            if number == STEPS:
                fate.after_last_step()
        finished = checkpointer.finish(
            loop.adapter, save_seconds=20.0, replica_seconds=0.2 if life.trouble.standby_down else 5.0
        )
    log.say("finished", step=finished.manifest.step, replicated=finished.replicated, writes=fate.writes)
    fate.at_end()
    return 0


def _checkpointer(job: Job, fate: Fate, clock: HarmedClock) -> Checkpointer:
    scenario, trouble = job.scenario, job.life.trouble
    rng = random.Random(f"{scenario.adapter}-{scenario.seed}-{job.number}")
    own = harmed(job.place, job.site, "own", fate, trouble, rng)
    other = next(site for site in SITES if site != job.site)
    standby = harmed(job.place, other, "standby", fate, trouble, rng)
    zombie = job.life.zombie
    fence_seconds = 3600.0 if zombie is not None and zombie.stale else 0.8
    lease = Lease(GROUP, job.site, job.place.register("trainer"), fence_seconds=fence_seconds, clock=clock)
    fingerprint = environment_fingerprint()
    if trouble.other_machine:
        fingerprint["isa"] = "another"
    return Checkpointer(
        own,
        RUN,
        epoch=job.epoch,
        site=job.site,
        every_steps=scenario.every,
        mode=scenario.mode,
        total_steps=STEPS,
        guard=LeaseGuard(lease, job.epoch, renew_seconds=fence_seconds / 4),
        replicas={other: standby},
        fingerprint=fingerprint,
        heartbeat=HeartbeatObject(own, f"jobs/{RUN}.e{job.epoch}/heartbeat.json"),
        heartbeat_seconds=30.0,
        retry_seconds=0.005,
        clock=clock,
    )


def _say_resumed(log: Log, resumed: Resumed | None) -> None:
    if resumed is None:
        log.say("resumed", step=0, digest=None, resume="from the start")
    else:
        passed = [f"{one.key[-24:]}: {one.reason}" for one in resumed.passed_over]
        log.say("resumed", step=resumed.step, digest=resumed.manifest.digest, resume=resumed.resume, passed_over=passed)


def _pace(checkpointer: Checkpointer, job: Job, step: int) -> None:
    """Wait a little until the save is as far as the scenario wants it; whether it gets there decides nothing."""
    pace, deadline = job.scenario.pace, time.monotonic() + PACE_SECONDS
    if pace == "nothing" or job.life.trouble.unavailable >= 0.2:
        return
    if pace == "replicated" and job.life.trouble.standby_down:
        pace = "durable"
    while time.monotonic() < deadline and not _is_at(checkpointer.status(), pace, step):
        checkpointer.before_update()  # what is still being copied gets on its way
        time.sleep(0.0005)


def _is_at(status: dict[str, Any], pace: str, step: int) -> bool:
    if status["permission"] == "fenced":
        return True
    durable = status["checkpoint"]
    if durable is None or durable["step"] < step:
        return False
    return pace == "durable" or all((one["step"] or 0) >= step for one in status["replicas"].values())
