"""What was seen of the sites, from where, and what follows from it."""

from holdfast.engine.health.heartbeat import GroupBeat, Heartbeat
from holdfast.engine.health.interface import Observation, Probe, Signal, SiteVerdict, Verdict
from holdfast.engine.health.lookout import Lookout, open_lookout
from holdfast.engine.health.probes import OUTSIDE, ObjectStoreProbe, ServiceProbe
from holdfast.engine.health.reader import HeartbeatProbe, HeartbeatReader, HeartbeatView
from holdfast.engine.health.verdict import Detector
from holdfast.engine.health.watch import NotDown, Watch, as_rows, open_watch

__all__ = [
    "OUTSIDE",
    "Detector",
    "GroupBeat",
    "Heartbeat",
    "HeartbeatProbe",
    "HeartbeatReader",
    "HeartbeatView",
    "Lookout",
    "NotDown",
    "ObjectStoreProbe",
    "Observation",
    "Probe",
    "ServiceProbe",
    "Signal",
    "SiteVerdict",
    "Verdict",
    "Watch",
    "as_rows",
    "open_lookout",
    "open_watch",
]
