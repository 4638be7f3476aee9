"""One run of the suite from its begin to its end: starts, kills, damages, promotes, and checks after each of them.

Its part is the orchestrator's: it keeps the register, elects and forks with the engine's own functions, and starts
processes. What must hold is decided by `oracle` and by the undisturbed run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from faults.training import mutants, trainer
from faults.training.oracle import Checkpoint, Site
from faults.training.scenario import STEPS, Damage, Death, Life, Scenario
from faults.training.stores import GROUP, RUN, SITES, Place, read_log
from faults.training.tally import Tally
from holdfast.clock import SystemClock
from holdfast.engine.checkpoint import Fenced, begin_run, copy_forks, elect, fork_run
from holdfast.engine.snapshot import EpochUnknownHere

#: A training process that has not ended by then never will.
END_SECONDS = 45.0
CUT_IN_A_WRITE = -signal.SIGXFSZ
#: Starts of one process again that a store's 503s ended.
TRIES = 6


class Violation(AssertionError):
    """Something that must never be has been."""


def require(holds: bool, what: str, **facts: Any) -> None:
    if not holds:
        raise Violation(f"{what}: " + ", ".join(f"{name}={value}" for name, value in facts.items()))


@dataclass
class Stale:
    """What had been written of an epoch when it was over, and what of it counts."""

    epoch: int
    lineage: set[str]
    written: set[str]


@dataclass
class Orchestration:
    """A run under way.

    Args:
        reference: the final state that an undisturbed run has; None for that run itself.
    """

    scenario: Scenario
    place: Place
    reference: tuple[Any, ...] | None
    tally: Tally
    mutant: str | None = None
    protocol: str | None = None
    epoch: int = 0
    site: str = SITES[0]
    processes: int = 0
    known: dict[str, Checkpoint] = field(default_factory=dict)
    damaged: set[tuple[str, str]] = field(default_factory=set)
    stale: list[Stale] = field(default_factory=list)
    zombies: list[tuple[ForkServerProcess, Path]] = field(default_factory=list)
    directions: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._stores = {site: self.place.store(site) for site in SITES}
        self._register = self.place.register("orchestrator")
        self._rng = random.Random(f"orchestrator-{self.scenario.adapter}-{self.scenario.seed}")
        self._context = multiprocessing.get_context("forkserver")

    # -- the story -----------------------------------------------------------------------------------------------------

    def run(self) -> tuple[Any, ...]:
        """Returns the run's final state, by digests. Raises Violation."""
        try:
            with mutants.protocol(self.protocol):
                self._begin()
                for life in self.scenario.lives:
                    self._live(life)
                self._end_zombies()
                return self._conclude()
        finally:
            self._bury()

    def _begin(self) -> None:
        state = self._register.advance(
            GROUP, expected_epoch=0, active_site=self.site, plan_id="plan-1", reason="the begin"
        )
        self.epoch = state.epoch
        begin_run(
            self._stores[self.site],
            RUN,
            epoch=self.epoch,
            site=self.site,
            plan_id="plan-1",
            holder="orchestrator",
            clock=SystemClock(),
        )

    def _live(self, life: Life) -> None:
        anew = False
        for _ in range(TRIES):
            code, log = self._start_and_wait(life, anew=anew)
            if self._refused(code, log):
                anew = True  # here the person who is asked says so
                continue
            if not self._failed_for_now(code, log):
                break
            self.tally["started again"] += 1
        self._check_end(life, code, log)
        self._check_whole()
        if life.damage is not None:
            self._damage(life.damage)
        if life.failover:
            self._fail_over()
            self._wake("after the fork")

    def _start_and_wait(self, life: Life, *, anew: bool) -> tuple[int | None, list[dict[str, Any]]]:
        """The exit code, None for a process that is suspended, and what it said."""
        self.processes += 1
        path = self.place.folder / f"process-{self.processes}.log"
        before = self._look(self.site).best(self.epoch)
        job = trainer.Job(
            self.scenario,
            life,
            self.processes,
            self.place,
            self.epoch,
            self.site,
            path,
            mutant=self.mutant,
            protocol=self.protocol,
            anew=anew,
        )
        process = self._context.Process(target=trainer.main, args=(job,), daemon=True)
        process.start()
        if life.zombie is not None:
            code = self._until_suspended(process, path, life)
        else:
            code = self._until_dead(process, life.death)
        log = read_log(path)
        self._count(life, code, log)
        self._check_begin(before, log)
        return code, log

    def _until_dead(self, process: ForkServerProcess, death: Death | None) -> int | None:
        if death is not None and death.how == "instant":
            process.join(death.seconds)
            if process.is_alive():
                process.kill()
        process.join(END_SECONDS)
        if process.is_alive():
            process.kill()
            raise Violation(f"the process never ended: {self._said()}")
        return process.exitcode

    def _until_suspended(self, process: ForkServerProcess, path: Path, life: Life) -> int | None:
        assert life.zombie is not None
        assert process.pid is not None
        deadline = time.monotonic() + END_SECONDS
        while process.is_alive():
            if is_stopped(process.pid):
                self.zombies.append((process, path))
                self.tally["zombie"] += 1
                self.tally["zombie with a stale lease"] += life.zombie.stale
                return None
            require(time.monotonic() < deadline, "the process was never suspended", said=self._said())
            time.sleep(0.002)
        return process.exitcode

    def _refused(self, code: int | None, log: list[dict[str, Any]]) -> bool:
        """A process that would have to begin again does not, in silence; and there is nothing it could go on from."""
        if code != 1 or not any(one["what"] == "failed" and "NothingSelectable" in one["error"] for one in log):
            return False
        require(
            self._look(self.site).best(self.epoch) is None,
            "a resume was refused while a verified checkpoint exists",
            said=self._said(),
        )
        self.tally["beginning anew refused"] += 1
        return True

    @staticmethod
    def _failed_for_now(code: int | None, log: list[dict[str, Any]]) -> bool:
        return code == 1 and any(one["what"] == "failed" and one["transient"] for one in log)

    # -- what the orchestrator does ------------------------------------------------------------------------------------

    def _fail_over(self) -> None:
        """Commit a new epoch, elect at the other site what the old one left there, and fork."""
        old, target = self.epoch, next(site for site in SITES if site != self.site)
        plan = f"plan-{old + 1}"
        state = self._register.advance(
            GROUP, expected_epoch=old, active_site=target, plan_id=plan, reason=f"{self.site} is lost"
        )
        try:
            election = elect(self._stores[target], RUN, epoch=old, site=target, or_nothing=True)
        except EpochUnknownHere:
            require(not self._look(target).knows(old), "an election was refused without need", site=target)
            self.tally["election refused"] += 1
            copy_forks(self._stores[self.site], self._stores[target], RUN)
            election = elect(self._stores[target], RUN, epoch=old, site=target, or_nothing=True)
        seen = self._look(target)
        self._check_election(seen.best(old), election.digest, where=f"promoting {target} to epoch {state.epoch}")
        fork_run(
            self._stores[target],
            RUN,
            epoch=state.epoch,
            parent_epoch=old,
            election=election,
            site=target,
            plan_id=plan,
            holder="orchestrator",
            reason=state.reason,
            clock=SystemClock(),
        )
        here = {*seen.checkpoints, *self._look(self.site).checkpoints}
        lineage = seen.ancestry(election.digest, before=state.epoch)
        self.stale.append(Stale(old, lineage, {one for one in here if self.known[one].told["epoch"] == old}))
        if self.scenario.told:
            copy_forks(self._stores[target], self._stores[self.site], RUN)
        self.tally["failover"] += 1
        self.directions.add(target)
        if len(self.directions) == len(SITES):
            self.tally["failover from both directions"] += 1
        self.epoch, self.site = state.epoch, target

    def _damage(self, damage: Damage) -> None:
        """Harm the checkpoint that a run would go on from now."""
        newest = self._look(self.site).best(self.epoch)
        if newest is None:
            return
        for site in SITES if damage.both else (self.site,):
            objects = self._look(site).objects
            digests = sorted(one["digest"] for one in newest.told["blobs"].values())
            blob = f"runs/{RUN}/blobs/{self._rng.choice(digests).replace(':', '-')}"
            key = newest.key if damage.part == "manifest" else blob
            if not objects.get(key):
                continue
            self._stores[site].put(key, self._harmed(objects[key], damage))
            self.damaged.add((site, key))
            self.tally[f"{damage.part} {'flipped' if damage.kind == 'flip' else 'truncated'}"] += 1

    def _harmed(self, data: bytes, damage: Damage) -> bytes:
        at = self._rng.randrange(len(data))
        if damage.kind == "truncate":
            return data[:at]
        # Of a manifest the highest bit, which no text has: one that still reads well is told by nothing in its bucket.
        bit = 0x80 if damage.part == "manifest" else 1 << self._rng.randrange(8)
        return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]

    def _wake(self, when: str) -> None:
        lives = [life for life in self.scenario.lives if life.zombie is not None]
        for (process, _), life in zip(self.zombies, lives, strict=False):
            assert life.zombie is not None
            assert process.pid is not None
            if when in (life.zombie.wakes, "now") and is_stopped(process.pid):
                os.kill(process.pid, signal.SIGCONT)

    def _end_zombies(self) -> None:
        self._wake("now")
        for process, path in self.zombies:
            process.join(END_SECONDS)
            log = read_log(path)
            require(process.exitcode in (0, Fenced.exit_code), "a zombie ended badly", code=process.exitcode, log=log)
            self.tally["zombie fenced"] += process.exitcode == Fenced.exit_code
            self.tally["stale write attempted"] += sum(one["what"] == "stale write" for one in log)

    def _bury(self) -> None:
        """No process outlives its test."""
        for process, _ in self.zombies:
            if process.is_alive():
                process.kill()
        for child in multiprocessing.active_children():
            if isinstance(child, ForkServerProcess):
                child.kill()
                child.join(10)

    # -- what must hold ------------------------------------------------------------------------------------------------

    def _check_begin(self, before: Checkpoint | None, log: list[dict[str, Any]]) -> None:
        """A process goes on from what the oracle says, and tells truly how."""
        told = next((one for one in log if one["what"] == "resumed"), None)
        if told is None:
            return
        self._check_election(before, told["digest"], where=f"process {self.processes}")
        if before is None:
            return
        own = next(one["fingerprint"] for one in log if one["what"] == "fingerprint")
        same = all(before.told["fingerprint"].get(name) == value for name, value in own.items())
        expected = "bitwise" if same else "numerically equivalent"
        require(told["resume"] == expected, "a resume is called what it is not", told=told["resume"], is_=expected)
        self.tally[f"resumed {expected}"] += 1

    def _check_election(self, wanted: Checkpoint | None, elected: str | None, *, where: str) -> None:
        require(
            wanted is None or elected is not None,
            "a start from zero while a verified checkpoint exists",
            where=where,
            checkpoint=wanted and wanted.key,
            said=self._said(),
        )
        require(
            elected == (wanted and wanted.digest),
            "another checkpoint was elected than the newest verified one of the lineage",
            where=where,
            wanted=wanted and wanted.key,
            elected=elected and self.known.get(elected, elected),
        )

    def _check_end(self, life: Life, code: int | None, log: list[dict[str, Any]]) -> None:
        if life.zombie is not None:
            allowed: tuple[int | None, ...] = (None,)
        elif life.death is None:
            allowed = (0,)
        elif life.death.how == "asked":
            allowed = (75, 0)
        else:
            allowed = (-signal.SIGKILL, CUT_IN_A_WRITE) if life.death.how == "byte" else (-signal.SIGKILL,)
        require(code in allowed, "the process did not end as it should", code=code, said=self._said())

    def _check_whole(self) -> None:
        """Whatever was committed is whole, wherever the process died."""
        for name in SITES:
            site = self._look(name)
            for one in site.checkpoints.values():
                if self._lacks(site, one) and self._lacks(self._look(name), one):  # a listing is no moment
                    require(False, "a checkpoint was committed without its blobs", where=name, key=one.key)

    def _lacks(self, site: Site, checkpoint: Checkpoint) -> bool:
        return any((site.name, key) not in self.damaged for key in site.missing(checkpoint))

    def _conclude(self) -> tuple[Any, ...]:
        self._check_whole()
        seen = self._look(self.site)
        final = seen.best(self.epoch)
        require(final is not None, "nothing is left of the run", said=self._said())
        assert final is not None
        election = elect(self._stores[self.site], RUN, epoch=self.epoch, site=self.site, or_nothing=True)
        self._check_election(final, election.digest, where="the end")
        require(final.told["step"] == STEPS, "the run did not end at its last step", step=final.told["step"])
        self._check_stale(final)
        if self.reference is not None:
            different = _differences(self.reference, final.content)
            require(not different, "the result is another than the undisturbed run's", in_=different)
        self.tally["run"] += 1
        self.tally[f"saved in mode {self.scenario.mode}"] += 1
        self.tally["run on s3" if self.place.endpoint else "run in folders"] += 1
        return final.content

    def _check_stale(self, final: Checkpoint) -> None:
        """Nothing an epoch wrote after it was over is in anybody's ancestry, at any site."""
        sites = [self._look(name) for name in SITES]
        descent = {final.digest, *sites[0].ancestry(final.digest, before=self.epoch + 1)}
        for past in self.stale:
            of_epoch = {digest for digest, one in self.known.items() if one.told["epoch"] == past.epoch}
            late = of_epoch - past.written
            self.tally["stale checkpoint taken by a store"] += len(late)
            require(not (of_epoch - past.lineage) & descent, "a stale write was accepted", epoch=past.epoch)
            for site in sites:
                if not site.knows(self.epoch):
                    continue
                elected = elect(self._stores[site.name], RUN, epoch=self.epoch, site=site.name, or_nothing=True)
                wrong = elected.digest in of_epoch - past.lineage
                require(not wrong, "a stale write was elected", epoch=past.epoch, where=site.name)

    def _look(self, site: str) -> Site:
        return Site.read(site, self._stores[site], self.known)

    # -- what happened -------------------------------------------------------------------------------------------------

    def _count(self, life: Life, code: int | None, log: list[dict[str, Any]]) -> None:
        said = [one["what"] for one in log]
        death, trouble = life.death, life.trouble
        if code == -signal.SIGKILL:
            killed = next((one for one in log if one["what"] == "killed"), None)
            if killed is None:
                self.tally["killed at an instant"] += 1
            else:
                self.tally["killed at a step" if killed["how"] == "step" else f"killed {killed['where']}"] += 1
        if code == CUT_IN_A_WRITE:
            self.tally["killed inside a write"] += 1
        if death is not None and death.how == "asked":
            self.tally["asked to leave"] += code == 75
        self.tally["503"] += said.count("fail-before") if not trouble.standby_down else 0
        self.tally["standby down"] += trouble.standby_down and "fail-before" in said
        self.tally["answer lost"] += said.count("fail-after")
        self.tally["disk full"] += said.count("disk full")
        if trouble.clock_seconds:
            self.tally[f"clock an hour {'ahead' if trouble.clock_seconds > 0 else 'behind'}"] += 1
        for one in log:
            if one["what"] == "clock jumped":
                self.tally[f"clock jumped {'ahead' if one['seconds'] > 0 else 'back'}"] += 1
            if one["what"] == "resumed" and one.get("passed_over"):
                self.tally["passed over the newest"] += 1

    def last_said(self, what: str) -> dict[str, Any]:
        """What the last process said last of this kind."""
        return next(one for one in reversed(self._last_log()) if one["what"] == what)

    def _last_log(self) -> list[dict[str, Any]]:
        return read_log(self.place.folder / f"process-{self.processes}.log")

    def _said(self) -> str:
        """The last process's own words, for a message."""
        log = self._last_log()
        return "\n".join(json.dumps(one) for one in log[-12:])


def is_stopped(pid: int) -> bool:
    """Whether the whole process is suspended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        states = [Path(task, "stat").read_text().rpartition(")")[2].split()[0] for task in _tasks(pid)]
        return bool(states) and all(state in "Tt" for state in states)
    return False


def _tasks(pid: int) -> list[str]:
    folder = Path(f"/proc/{pid}/task")
    return [str(one) for one in folder.iterdir()]


def _differences(reference: tuple[Any, ...], found: tuple[Any, ...]) -> list[str]:
    names = ("step", "model", "blobs", "state")
    wrong = [name for name, one, other in zip(names, reference, found, strict=True) if one != other]
    if "blobs" in wrong:
        wrong += sorted(name for name in reference[2] if reference[2][name] != found[2].get(name))
    return wrong
