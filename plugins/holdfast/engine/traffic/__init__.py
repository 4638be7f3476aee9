"""Where a service's clients go: traffic records, switched by epoch."""

from holdfast.engine.traffic.interface import (
    StaleTrafficEpoch,
    TrafficError,
    TrafficRecord,
    TrafficState,
    TrafficUnavailable,
)
from holdfast.engine.traffic.open import open_record
from holdfast.engine.traffic.resolve import Address, NotResolved, resolve_service

__all__ = [
    "Address",
    "NotResolved",
    "StaleTrafficEpoch",
    "TrafficError",
    "TrafficRecord",
    "TrafficState",
    "TrafficUnavailable",
    "open_record",
    "resolve_service",
]
