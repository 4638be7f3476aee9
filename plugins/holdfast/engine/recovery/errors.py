"""How a plan ends when it does not end well: who has to do what next is in the type."""

from __future__ import annotations

from holdfast.errors import HoldfastError, Refused


class RecoveryError(HoldfastError):
    """Base of the errors of this package."""


class NeedsHuman(Refused, RecoveryError):
    """The rules do not allow to go on without a person's approval; nothing was changed."""


class SelfApproval(Refused, RecoveryError):
    """Whoever asked for it approved it as well, where the group asks for four eyes; nothing was changed."""


class GateClosed(Refused, RecoveryError):
    """A condition of a step does not hold; the step was not begun."""


class PlanNotFound(RecoveryError):
    """No bucket that answers holds this plan."""

    exit_code = 2


class PlanAltered(Refused, RecoveryError):
    """The plan's content is not what its hash says, or another plan has its id."""


class PlanSuperseded(Refused, RecoveryError):
    """The group moved on without this plan: what it still wants to do is over."""


class PastNoReturn(Refused, RecoveryError):
    """The plan's epoch is committed: it can only be rolled forward."""


class NoRecoveryPoint(Refused, RecoveryError):
    """The target holds no verified snapshot of something the group needs."""


class RecordsUnavailable(RecoveryError):
    """No bucket took the step's record, so the plan could not be resumed from here on."""

    transient = True


class WrongAnswer(RecoveryError):
    """The service answered in the time allowed, but never correctly from the new site in the new epoch."""
