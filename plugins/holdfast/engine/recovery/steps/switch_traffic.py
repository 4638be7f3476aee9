"""Send the services' clients to the new site."""

from __future__ import annotations

from typing import Any

from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.errors import PlanSuperseded
from holdfast.engine.recovery.interface import Evidence
from holdfast.engine.traffic.interface import StaleTrafficEpoch, TrafficUnavailable

_TRIES = 5
_PAUSE_SECONDS = 0.2


class SwitchTraffic:
    """Idempotent on (site, epoch); a record that carries a newer epoch is left alone."""

    name = "switch_traffic"

    def gate(self, context: StepContext) -> None:
        context.evidence("promote")

    def run(self, context: StepContext) -> Evidence:
        switched = [context.pool.submit(_switch, context, service) for service in context.group.services]
        return {"records": [future.result() for future in switched]}


def _switch(context: StepContext, service: str) -> dict[str, Any]:
    record = context.rooms.traffic(service)
    for attempt in range(1, _TRIES + 1):
        try:
            state = record.switch(context.plan.target, epoch=context.plan.epoch)
        except StaleTrafficEpoch as error:
            raise PlanSuperseded(
                "the traffic record is of a newer epoch",
                where=error.where,
                expected=error.expected,
                found=error.found,
                fix="Another plan moved this service on; leave it to that one",
            ) from error
        except TrafficUnavailable as error:
            if attempt == _TRIES:
                raise
            context.say("switch_traffic", "waiting", detail=str(error))
            context.rooms.clock.sleep(_PAUSE_SECONDS * attempt)
        else:
            return {
                "service": service,
                "site": state.site,
                "epoch": state.epoch,
                "values": list(state.values),
                "ttl_seconds": state.ttl_seconds,
                "attempts": attempt,
            }
    raise AssertionError("unreachable")
