"""Security posture: what is set at every site and behind it, compared with what should be; unknown is not pass."""

from holdfast.engine.audit.posture.checks import BY_ID, CHECKS
from holdfast.engine.audit.posture.interface import CannotTell, Check, Resource, Result, Severity, Status, Thresholds
from holdfast.engine.audit.posture.ocsf import as_ocsf
from holdfast.engine.audit.posture.run import Posture, check_posture

__all__ = [
    "BY_ID",
    "CHECKS",
    "CannotTell",
    "Check",
    "Posture",
    "Resource",
    "Result",
    "Severity",
    "Status",
    "Thresholds",
    "as_ocsf",
    "check_posture",
]
