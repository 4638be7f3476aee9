"""A drill in several processes: each phase knows the drill by its id alone. `holdfast.engine.drill.run` is the same
story in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.engine.drill.conclude import conclude
from holdfast.engine.drill.evidence import load_or_create_key
from holdfast.engine.drill.interface import FaultInjector
from holdfast.engine.drill.journal import DrillJournal
from holdfast.engine.drill.log import DrillState, open_drill
from holdfast.engine.drill.phases import detect, fail_over, inject, lift, prepare, resume_training
from holdfast.engine.drill.run import after_fault, never_begun, write_drill_evidence
from holdfast.engine.pipeline.failover import Say, tell
from holdfast.engine.recovery.interface import Evidence
from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError, HoldfastError


def begin_drill(
    runtime: Runtime, group: str, scenario: str, drill_id: str, output: Path, *, say: Say
) -> dict[str, Any]:
    """Prepare a drill. One that a rule or its steady state refuses leaves evidence of the refusal in ``output``.

    Raises:
        ConfigError: a name is unknown or a connection is missing; nothing was changed and nothing is written.
        Refused, NoMajority: nothing was changed.
    """
    load_or_create_key(runtime.environ)  # a key that cannot sign is told now, not after the fault
    try:
        state = prepare(runtime, group, scenario, drill_id=drill_id, progress=lambda seen: tell(say, seen))
    except ConfigError:
        raise
    except HoldfastError as error:
        write_drill_evidence(runtime, never_begun(runtime, drill_id, group, scenario, error), output)
        raise
    plan = state.plan
    return {"drill_id": drill_id, "source": plan.source, "target": plan.target, "epoch": plan.expected_epoch}


def inject_fault(runtime: Runtime, drill_id: str, faults: FaultInjector, *, say: Say) -> Evidence:
    """Set the scenario's fault."""
    return inject(_open(runtime, drill_id, say), faults)


def detect_outage(runtime: Runtime, drill_id: str, *, say: Say) -> Evidence:
    """Watch until the rules call the site down."""
    return detect(_open(runtime, drill_id, say))


def fail_over_in_drill(runtime: Runtime, drill_id: str, *, say: Say) -> Evidence:
    """From the decision to the first right answer. A drill that is run on purpose is approved by being run."""
    return fail_over(_open(runtime, drill_id, say), approved_by=f"drill {drill_id}")


def resume_training_in_drill(runtime: Runtime, drill_id: str, *, say: Say) -> Evidence:
    """Submit the training at the new site."""
    return resume_training(_open(runtime, drill_id, say))


def lift_fault(runtime: Runtime, drill_id: str, faults: FaultInjector, *, say: Say) -> Evidence:
    """Take the fault away, any number of times."""
    return lift(_open(runtime, drill_id, say), faults)


def examine(runtime: Runtime, drill_id: str, *, say: Say) -> dict[str, Any]:
    """What was lost, what the old site still wrote, whether the model and the answers are the same, the steady state.

    The uninterrupted reference run trains while the resumed one does.
    """
    state = _open(runtime, drill_id, say)
    after_fault(state)
    return {
        "model": state.evidence("compare_model").get("model"),
        "steady_state": state.evidence("steady_state_after").get("holds"),
    }


def close_drill(runtime: Runtime, drill_id: str, output: Path, *, say: Say) -> DrillJournal:
    """Write the drill's journal, report and signature into ``output`` and the group's buckets, and free the group.

    Raises:
        DrillNotFound: it was never prepared.
    """
    state = _open(runtime, drill_id, say)
    journal = conclude(state)
    write_drill_evidence(runtime, journal, output, state)
    return journal


def _open(runtime: Runtime, drill_id: str, say: Say) -> DrillState:
    return open_drill(runtime, drill_id, progress=lambda seen: tell(say, seen))
