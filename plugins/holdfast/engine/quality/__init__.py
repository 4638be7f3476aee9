"""Is a dataset what training expects? Great Expectations suites over a snapshot's table."""

from holdfast.engine.quality.expectations import (
    ExpectationReport,
    ExpectationsNotMet,
    Unmet,
    evaluate,
    require_met,
    validate,
)

__all__ = ["ExpectationReport", "ExpectationsNotMet", "Unmet", "evaluate", "require_met", "validate"]
