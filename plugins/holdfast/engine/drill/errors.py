"""How a drill ends when it does not end well."""

from __future__ import annotations

from holdfast.engine.recovery.interface import Evidence
from holdfast.errors import HoldfastError, Refused


class DrillError(HoldfastError):
    """Base of the errors of this package."""


class SteadyStateFailed(Refused, DrillError):
    """The world was not in its steady state before the fault, so no fault was injected."""

    #: What was found, for the journal.
    evidence: Evidence


class DrillNotFound(DrillError):
    """No bucket that answers knows this drill."""

    exit_code = 2
    #: How many sites did not answer, so that it might lie there.
    silent_sites = 0


class FaultNotNoticed(DrillError):
    """The fault is in, and the rules did not call the site down: a real outage would have gone unanswered."""


class FaultFailed(DrillError):
    """The fault could not be injected or lifted."""


class TrainingFailed(DrillError):
    """The resumed training did not end well in the time allowed."""


class ReferenceFailed(DrillError):
    """The uninterrupted reference run did not end well, so nothing can be compared with it."""
