"""The residency proof: every copy that exists, where it lies, what allowed it there, and whether it may be there."""

from holdfast.engine.audit.residency.prove import prove
from holdfast.engine.audit.residency.report import Copy, CopyKind, ResidencyReport, Verdict

__all__ = ["Copy", "CopyKind", "ResidencyReport", "Verdict", "prove"]
