"""Where a job runs next: its ordered placements at the active site, and what became of its attempts so far.

A trainer's own fault is no machine's: it is counted apart and never retried elsewhere, where it would only fail again
and cost again. A lost machine is replaced, up to a budget. Where no placement has room, that is said as it is: what to
give up then is the group's to decide, not a strategy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.engine.compute.interface import ENDED, ComputeError, JobState
from holdfast.engine.compute.recovery_strategies import Attempt, recovery_strategy
from holdfast.engine.config import Topology
from holdfast.engine.config.compute import Placement
from holdfast.engine.config.models import TrainingJob
from holdfast.errors import ConfigError, UnknownName

#: Machines that may be lost under one job at one site before a person should look.
MOST_LOST_MACHINES = 10

#: The machine was lost under the job: nothing is wrong with the job.
LOST_MACHINE = frozenset({JobState.LOST, JobState.PREEMPTED})

#: Nothing was said of where to run: as the site's compute says.
ANYWHERE = Placement()


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of a job's attempts, the job's own faults apart from its machines'."""

    user_errors: int
    lost_machines: int
    without_capacity: int

    @classmethod
    def of(cls, history: Sequence[Attempt]) -> Counts:
        states = [one.state for one in history]
        return cls(
            states.count(JobState.FAILED),
            sum(state in LOST_MACHINE for state in states),
            states.count(JobState.NO_CAPACITY),
        )

    def __str__(self) -> str:
        return (
            f"{_many(self.user_errors, 'fault')} of its own, {_many(self.lost_machines, 'machine')} lost, "
            f"{_many(self.without_capacity, 'placement')} without a machine"
        )


@dataclass(frozen=True, slots=True)
class RunAt:
    """Ask for a machine here."""

    placement: Placement
    reason: str
    counts: Counts


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Another machine would not help; a person should look."""

    reason: str
    counts: Counts


@dataclass(frozen=True, slots=True)
class Degraded:
    """No placement of this site has room now: the group's policy says what is given up.

    Args:
        tried: the placements that were asked for a machine since one last ran.
    """

    site: str
    reason: str
    tried: tuple[Placement, ...]
    counts: Counts


Decision = RunAt | GiveUp | Degraded


def allowed_placements(job: TrainingJob, site: str) -> tuple[Placement, ...]:
    """Where the job may run at a site, best first. A job without placements runs as the site says."""
    return tuple(one for one in job.placements or (ANYWHERE,) if one.site in (None, site))


def next_placement(
    job: TrainingJob, site: str, history: Sequence[Attempt], *, most_lost_machines: int = MOST_LOST_MACHINES
) -> Decision:
    """Where the job is tried next. Pure: the same history gives the same decision, in whichever process.

    Args:
        site: the one that is active.
        history: the job's attempts in this epoch, oldest first; empty before the first.
        most_lost_machines: how many machines may be lost before it is given up.

    Raises:
        UnknownName: the job's recovery names no registered strategy.
        ComputeError: the last attempt still runs, and a second one would be a second writer.
    """
    strategy = recovery_strategy(job.recovery)
    counts = Counts.of(history)
    if (ended := _ended_for_good(history, counts, most_lost_machines)) is not None:
        return ended
    placements = allowed_placements(job, site)
    asked = _asked_since_one_ran(history)
    ranked = strategy.ranked(placements, history) if placements else ()
    free = [one for one in ranked if one not in asked]
    if free:
        return RunAt(free[0], _why(history, job.recovery), counts)
    if not placements:
        reason = f"the job has no placement at {site}"
    elif not ranked:
        reason = f"{job.recovery} allows none of the {len(placements)} placements at {site}"
    else:
        reason = f"none of the {len(ranked)} placements at {site} has a machine now"
    return Degraded(site, reason, asked, counts)


def check_placement(placement: Placement, site: str) -> None:
    """Raises ConfigError: the placement is at another site than the job."""
    if placement.site not in (None, site):
        raise ConfigError(
            "a job cannot run at a placement of another site",
            where="placement",
            expected=f"one at {site}, or at any site",
            found=str(placement.site),
            fix="Take one of `allowed_placements`",
        )


def check_recovery(topology: Topology, job: str) -> None:
    """Check what the configuration cannot, because it does not know the strategies.

    Raises:
        UnknownName: the job's recovery names no registered strategy, or a placement an unknown site.
        ConfigError: the strategy is no use for the job's placements.
    """
    settings = topology.job(job)
    where = f"{topology.path}: training.{job}"
    for number, placement in enumerate(settings.placements):
        if placement.site is not None and placement.site not in topology.sites:
            raise UnknownName(
                "a placement is at no site of the topology",
                where=f"{where}.placements.{number}",
                expected=" or ".join(sorted(topology.sites)),
                found=placement.site,
            )
    placements = settings.placements or (ANYWHERE,)
    taken_away = [Attempt(placements[0], JobState.PREEMPTED)]
    if not recovery_strategy(settings.recovery).ranked(placements, taken_away):
        raise ConfigError(
            "the recovery strategy does not fit the job's placements",
            where=f"{where}.recovery",
            expected="a placement to go to once a machine was taken away",
            found=f"none of {len(placements)} that {settings.recovery} allows",
            fix="Add one, e.g. without spot, or choose another strategy",
        )


def _ended_for_good(history: Sequence[Attempt], counts: Counts, most_lost_machines: int) -> GiveUp | None:
    if not history:
        return None
    last = history[-1].state
    if last not in ENDED:
        raise ComputeError(
            "the job's last attempt has not ended",
            where="next_placement",
            expected="an attempt that ended",
            found=str(last),
            fix="Ask its backend again; a lost answer is not a lost machine",
        )
    if last is JobState.FAILED:
        return GiveUp("the trainer failed by itself; another machine would only fail again", counts)
    if last in (JobState.SUCCEEDED, JobState.FENCED, JobState.STOPPED):
        return GiveUp(f"the last attempt ended as {last}, which no other machine is needed for", counts)
    if counts.lost_machines > most_lost_machines:
        return GiveUp(f"{counts.lost_machines} machines were lost, more than the {most_lost_machines} allowed", counts)
    return None


def _asked_since_one_ran(history: Sequence[Attempt]) -> tuple[Placement, ...]:
    asked: list[Placement] = []
    for one in reversed(history):
        if one.ran:
            break
        asked.append(one.placement)
    return tuple(reversed(asked))


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _why(history: Sequence[Attempt], recovery: str) -> str:
    return "the first attempt" if not history else f"the last attempt ended as {history[-1].state}; {recovery}"
