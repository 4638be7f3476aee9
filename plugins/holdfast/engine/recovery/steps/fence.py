"""Wait until the old site has fenced itself; meanwhile prepare what the next steps need.

The old site's agent and jobs stop writing when they read no majority for T_fence. The last majority they read can
be as late as the commit, so the wait is T_fence plus the clock skew from there. It is cut short only when the old
site's own agent answers that it is fenced in the new epoch. A process that did not see the commit itself waits all
of it again: wall clocks of two machines prove nothing.
"""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Any

from holdfast.engine.authority.lease import fence_wait_seconds
from holdfast.engine.recovery.context import StepContext
from holdfast.engine.recovery.expected import expect_answers
from holdfast.engine.recovery.interface import Evidence
from holdfast.engine.recovery.points import find_points
from holdfast.engine.recovery.stop_jobs import stop_old_jobs
from holdfast.engine.traffic.interface import TrafficState

_LOOK_SECONDS = 0.25
_ASK_SECONDS = 0.2


class Fence:
    """Changes nothing at the target."""

    name = "fence"

    def gate(self, context: StepContext) -> None:
        context.evidence("commit_epoch")

    def run(self, context: StepContext) -> Evidence:
        clock, rules = context.rooms.clock, context.group.fencing
        needed = fence_wait_seconds(context.group)
        seen_commit = context.scratch.committed_at is not None
        began = context.scratch.committed_at if context.scratch.committed_at is not None else clock.monotonic()
        context.ahead("points", lambda: find_points(context.rooms, context.plan, context.pool))
        context.ahead("expected", lambda: expect_answers(context))
        for service in context.group.services:
            # Opens the provider's client, which costs seconds; the switch itself then is one round trip or two.
            context.ahead(f"traffic {service}", partial(_warm_up, context, service))
        jobs = context.pool.submit(stop_old_jobs, context)
        confirmed = self._wait(context, began + needed, jobs)
        return {
            "fence_seconds": rules.fence_seconds,
            "clock_skew_seconds": rules.clock_skew_seconds,
            "waited_from": "the commit, seen by this process"
            if seen_commit
            else "here, the commit was another process's",
            "waited_seconds": round(clock.monotonic() - began, 6),
            "confirmed_by_old_site": confirmed,
            "old_jobs": jobs.result(),
        }

    def _wait(self, context: StepContext, until: float, jobs: Future[list[dict[str, Any]]]) -> bool:
        """True when the old site itself confirmed: its service refuses in the new epoch and its jobs are known dead."""
        clock = context.rooms.clock
        looking: Future[bool] | None = None
        while (left := until - clock.monotonic()) > 0:
            if looking is None:
                looking = context.pool.submit(_old_site_is_fenced, context)
            elif looking.done():
                if looking.result() and jobs.done() and all(job["dead"] for job in jobs.result()):
                    return True
                looking = None
            clock.sleep(min(left, _LOOK_SECONDS))
        return False


def _warm_up(context: StepContext, service: str) -> TrafficState | None:
    return context.rooms.traffic(service).read()


def _old_site_is_fenced(context: StepContext) -> bool:
    """Every service instance at the old site refuses, and names the new epoch while it does."""
    plan = context.plan
    answers = [
        context.senses.ask_site(context.rooms, service, plan.source, timeout_seconds=_ASK_SECONDS)
        for service in context.group.services
    ]
    return bool(answers) and all(a.refused is not None and a.epoch == plan.epoch for a in answers)
