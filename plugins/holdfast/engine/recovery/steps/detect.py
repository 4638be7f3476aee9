"""Look at the source until the rules call it down, and find out what the target could go on from."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta

from holdfast.engine.health.heartbeat import HeartbeatUnreadable, decode, key_of
from holdfast.engine.health.interface import SiteVerdict, Verdict
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.interface import Evidence
from holdfast.engine.recovery.points import RecoveryPoints, find_points
from holdfast.engine.recovery.protection import KnownLag, known_lag

#: A site that is not down by then is judged by a person.
_PATIENCE = 3.0


class Detect:
    """Changes nothing. Its finding is what `decide` judges."""

    name = "detect"

    def gate(self, context: StepContext) -> None:
        """It may always be run."""

    def run(self, context: StepContext) -> Evidence:
        must_hold_points = context.plan.verb == "failover"  # a switchover brings everything over first
        if must_hold_points:
            context.ahead("points", lambda: find_points(context.rooms, context.plan, context.pool))
        verdict = context.senses.verdict(
            context.rooms, context.plan.group, context.plan.source, deadline_seconds=self._deadline(context)
        )
        context.say(self.name, "waiting", detail=f"{verdict.site} is {verdict.verdict}")
        # Fails here, where nothing has moved yet, when the target has nothing to go on from.
        points = RecoveryPoints((), ())
        if must_hold_points:
            points = context.wanted("points", lambda: find_points(context.rooms, context.plan, context.pool))
        lag = known_lag(
            context.rooms,
            context.plan.group,
            target=context.plan.target,
            epoch=context.plan.expected_epoch,
            since=last_known_alive(context, verdict),
        )
        return _evidence(context, verdict, lag, points)

    def _deadline(self, context: StepContext) -> float:
        if context.plan.verb == "switchover":
            return context.group.detection.timeout_seconds
        rules = context.group.detection
        return _PATIENCE * (
            rules.minimum_seconds
            + rules.heartbeat_stale_seconds
            + rules.consecutive_failures * (rules.interval_seconds + rules.timeout_seconds)
        )


def last_known_alive(context: StepContext, verdict: SiteVerdict) -> datetime:
    """Until when the source may have committed: its last heartbeat at the target, if it is down; else now.

    The heartbeat is stamped by the source's clock, so the group's clock skew is added.
    """
    now = context.rooms.clock.now()
    if verdict.verdict is not Verdict.DOWN:
        return now
    with suppress(ObjectStoreError, HeartbeatUnreadable):
        beat = decode(context.target.get(key_of(context.plan.source)), where=context.plan.target)
        return min(now, beat.sent_at + timedelta(seconds=context.group.fencing.clock_skew_seconds))
    return min(now, verdict.since)


def _evidence(context: StepContext, verdict: SiteVerdict, lag: KnownLag, points: RecoveryPoints) -> Evidence:
    return {
        "site": verdict.site,
        "verdict": str(verdict.verdict),
        "down": verdict.verdict is Verdict.DOWN,
        "since": verdict.since.isoformat(),
        "detected_at": context.rooms.clock.now().isoformat(),
        "reasons": list(verdict.reasons),
        "observations": [
            {**asdict(o), "signal": str(o.signal), "observed_at": o.observed_at.isoformat()}
            for o in verdict.observations
        ],
        "last_known_alive": last_known_alive(context, verdict).isoformat(),
        "replica_lag_seconds": lag.seconds,
        "replica_lag_by_subject": lag.by_subject,
        "rpo_seconds": context.group.objectives.rpo_seconds,
        "recovery_points": {
            **{p.subject: p.record.snapshot_id if p.record else None for p in points.snapshots},
            **{p.run: p.election.step for p in points.runs},
        },
    }
