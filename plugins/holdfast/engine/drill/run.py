"""A whole drill in one process: hypothesis, fault, plan, hypothesis, rollback, journal. The rollback always runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from holdfast.engine.authority.interface import NoMajority
from holdfast.engine.drill.comparison import compare
from holdfast.engine.drill.conclude import conclude, refused_journal, store_evidence
from holdfast.engine.drill.errors import DrillError, SteadyStateFailed
from holdfast.engine.drill.evidence import load_or_create_key, write_evidence
from holdfast.engine.drill.interface import FaultInjector
from holdfast.engine.drill.interrupts import DrillInterrupted, Interrupts, interrupts
from holdfast.engine.drill.journal import DrillJournal, DrillStatus
from holdfast.engine.drill.log import DrillState
from holdfast.engine.drill.phases import (
    await_training,
    detect,
    fail_over,
    inject,
    lift,
    look_again,
    measure,
    new_drill_id,
    prepare,
    resume_training,
)
from holdfast.engine.drill.reference import run_references
from holdfast.engine.drill.scenarios import find_scenario
from holdfast.engine.recovery.interface import Progress, ProgressSink, Rooms, Senses, ignore_progress
from holdfast.errors import ConfigError, HoldfastError, Refused


def run_drill(
    rooms: Rooms,
    group: str,
    scenario: str,
    faults: FaultInjector,
    output: Path,
    *,
    progress: ProgressSink = ignore_progress,
    senses: Senses | None = None,
    drill_id: str | None = None,
    approved_by: str | None = None,
) -> DrillJournal:
    """Run a drill and write its evidence into ``output`` (journal.json, report.html, evidence.dsse.json).

    A drill that was refused, aborted, interrupted or failed leaves evidence too. Whatever happens after the fault
    went in, it is lifted.

    Args:
        approved_by: who approves the plan's decision where the rules do not decide; a drill that is run on purpose
            is approved by the one who runs it.

    Raises:
        ConfigError: a name is unknown or a connection is missing; nothing was changed and nothing is written.
        Refused, NoMajority: a rule forbids it; nothing was changed, the evidence says so.
    """
    find_scenario(scenario)
    rooms.topology.group(group)
    load_or_create_key(rooms.environ)  # a key that cannot sign is told now, not after the fault
    drill_id = drill_id or new_drill_id(rooms.clock.now())
    with interrupts() as signals:
        try:
            state = prepare(rooms, group, scenario, drill_id=drill_id, senses=senses, progress=progress)
        except ConfigError:
            raise
        except (KeyboardInterrupt, DrillInterrupted) as interruption:
            signals.held = True
            journal = never_begun(rooms, drill_id, group, scenario, _interrupted(drill_id, interruption), "interrupted")
            write_drill_evidence(rooms, journal, output)
            return journal
        except HoldfastError as error:
            write_drill_evidence(rooms, never_begun(rooms, drill_id, group, scenario, error), output)
            raise
        return _run_prepared(state, faults, output, signals, approved_by or f"drill {drill_id}, run by {rooms.holder}")


def never_begun(
    rooms: Rooms, drill_id: str, group: str, scenario: str, error: HoldfastError, status: DrillStatus | None = None
) -> DrillJournal:
    """The journal of a drill that ended before any fault: refused by a rule, aborted for its steady state."""
    objectives = rooms.topology.group(group).objectives.model_dump(mode="json")
    journal = refused_journal(
        drill_id, group, scenario, error, run_by=rooms.holder, now=rooms.clock.now(), objectives=objectives
    )
    by_rule = isinstance(error, Refused | NoMajority) and not isinstance(error, SteadyStateFailed)
    notes: list[str] = getattr(error, "__notes__", [])
    found = error.evidence.get("steady_state") if isinstance(error, SteadyStateFailed) else None
    return journal.model_copy(
        update={
            "status": status or ("refused" if by_rule else "aborted"),
            "steady_state": {"before": found, "after": None},
            "error": {**error.as_dict(), **({"notes": "; ".join(notes)} if notes else {})},
        }
    )


def _run_prepared(
    state: DrillState, faults: FaultInjector, output: Path, signals: Interrupts, approved_by: str
) -> DrillJournal:
    status: DrillStatus | None = None
    error: HoldfastError | None = None
    try:
        try:
            _under_fault(state, faults, approved_by)
        finally:
            signals.held = True  # a second signal does not keep the fault in
            lift(state, faults)
            signals.held = False
        if signals.seen is not None:
            raise DrillInterrupted(signals.seen)
        after_fault(state)
    except (KeyboardInterrupt, DrillInterrupted) as interruption:
        status, error = "interrupted", _interrupted(state.drill_id, interruption)
    except HoldfastError as failure:
        status, error = "failed", failure
    except Exception as bug:
        status, error = "failed", DrillError("the drill met an error of its own", found=f"{type(bug).__name__}: {bug}")
        raise
    finally:
        signals.held = True
        journal = conclude(state, status=status, error=error)
        write_drill_evidence(state.rooms, journal, output, state)
    return journal


def _interrupted(drill_id: str, interruption: BaseException) -> DrillError:
    return DrillError("the drill was interrupted", where=drill_id, found=str(interruption) or "KeyboardInterrupt")


def _under_fault(state: DrillState, faults: FaultInjector, approved_by: str) -> None:
    inject(state, faults)
    detect(state)
    fail_over(state, approved_by=approved_by)
    resume_training(state)


def after_fault(state: DrillState) -> None:
    """What can be done only when the fault is out: measure, wait for the training, compare, look again."""
    given_up = Event()
    with ThreadPoolExecutor(1, "reference") as pool:
        reference = pool.submit(run_references, state, given_up)  # trains while the resumed run does
        try:
            measure(state)
            await_training(state)
            compare(state, reference.result)
        finally:
            given_up.set()
    look_again(state)


def write_drill_evidence(rooms: Rooms, journal: DrillJournal, output: Path, state: DrillState | None = None) -> None:
    """Write the signed evidence into a folder, and, of a drill that was begun, into the group's buckets."""
    paths = write_evidence(journal.as_document(), output, load_or_create_key(rooms.environ))
    if state is not None:
        kept = store_evidence(state, {path.name: path.read_bytes() for path in paths.all()})
        for site, outcome in kept.items():
            state.progress(Progress("evidence", "done" if outcome == "kept" else "failed", detail=f"{site}: {outcome}"))
