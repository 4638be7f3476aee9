"""Whether a process goes on from what the orchestrator elected when it started the job (``HOLDFAST_RESUME_FROM``).

The process elects for itself, so this only says where the two differ. A job that is restarted within its epoch goes on
from what it saved since: that descends from what was elected, and is no difference.
"""

from __future__ import annotations

import logging
from typing import Any

from holdfast.engine.checkpoint.elect import Election, PassedOver, ancestors_named, lineage
from holdfast.engine.checkpoint.format import run_root
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.snapshot.lineage import require_fork
from holdfast.errors import HoldfastError

_log = logging.getLogger(__name__)


def expected_facts(store: ObjectStore, election: Election, expected: str | None) -> dict[str, Any] | None:
    """What the heartbeat tells of it, the difference logged; None: the orchestrator did not say what it elected.

    Args:
        expected: the digest of the manifest that it elected.
    """
    if expected is None:
        return None
    try:
        unlike = difference(store, election, expected)
    except HoldfastError as error:  # a statement, not a condition: training goes on
        unlike = f"not known: {error}"
    if unlike is not None:
        _log.warning("run %s, epoch %d: expected to go on from %s: %s", election.run, election.epoch, expected, unlike)
    return {"manifest": expected, "difference": unlike}


def difference(store: ObjectStore, election: Election, expected: str) -> str | None:
    """Why an election is neither of this digest nor of what descends from it; None: it is one of both.

    Raises:
        EpochUnknownHere, ObjectStoreError: see `elect`.
    """
    found = election.manifest
    if found is not None and (found.digest == expected or expected in ancestors_named(found)):
        return None
    here = f"step {election.step} of epoch {found.epoch}" if found is not None else "the start"
    passed: list[PassedOver] = []
    fork = require_fork(store, run_root(election.run), election.epoch)
    descends = set(ancestors_named(found)) if found is not None else set()
    for located in lineage(store, election.run, epoch=election.epoch, fork=fork, passed=passed):
        one = located.manifest
        if one.digest == expected:
            if one.digest in descends:
                return None
            why = next((over.reason for over in election.passed_over if over.key == located.key), None)
            return f"it goes on from {here}, not from step {one.step}: {why or 'which it does not descend from'}"
        if one.digest in descends:
            descends.update(ancestors_named(one))
    if found is not None and found.epoch == election.epoch:
        return None  # what it descends from may be collected by now
    return f"it goes on from {here}: the expected one is not here"
