"""Giving a plan up, which is possible until its epoch is committed and never after."""

from __future__ import annotations

import json

from holdfast.engine.objectstore.errors import ObjectExists, ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import CREATE
from holdfast.engine.recovery.errors import GateClosed, PastNoReturn, RecordsUnavailable
from holdfast.engine.recovery.interface import Rooms
from holdfast.engine.recovery.plan import Plan, plan_folder


def _key(plan: Plan) -> str:
    return f"{plan_folder(plan.group, plan.plan_id)}/aborted.json"


def abort_plan(rooms: Rooms, plan: Plan, *, by: str, reason: str) -> None:
    """Give a plan up and free the group; that of a drill stays taken until the drill ends.

    A runner that is committing the epoch at this very moment wins: the register decides, and running the plan
    again then rolls it forward.

    Raises:
        PastNoReturn: its epoch is committed.
        RecordsUnavailable: no bucket took the mark.
        NoMajority: it is not known whether the epoch is committed.
    """
    authority = rooms.authority(plan.group)
    state = authority.read(plan.group)
    if state is not None and (state.epoch, state.plan_id) == (plan.epoch, plan.plan_id):
        raise PastNoReturn(
            "the plan's epoch is committed",
            where=f"plan {plan.plan_id}",
            expected=f"epoch {plan.expected_epoch}",
            found=f"epoch {state.epoch}",
            fix="Roll it forward: `holdfast failover resume`",
        )
    mark = json.dumps(
        {"plan_id": plan.plan_id, "at": rooms.clock.now().isoformat(), "by": by, "reason": reason}
    ).encode()
    failures = []
    for site in plan.record_sites:
        try:
            rooms.store(site).put(_key(plan), mark, mode=CREATE, content_type="application/json")
        except ObjectExists:
            continue
        except ObjectStoreError as error:
            failures.append(str(error))
    if len(failures) == len(plan.record_sites):
        raise RecordsUnavailable("no bucket took the abort mark", where=_key(plan), found="; ".join(failures))
    if plan.operation_kind != "drill":  # its fault may be in: the drill itself frees the group at its end
        authority.release(plan.group, plan.operation)


def check_not_aborted(rooms: Rooms, plan: Plan) -> None:
    """Raises GateClosed when somebody gave the plan up."""
    for site in plan.record_sites:
        try:
            rooms.store(site).head(_key(plan))
        except (ObjectNotFound, ObjectStoreError):
            continue
        raise GateClosed(
            "the plan was given up",
            where=f"{site}: {_key(plan)}",
            expected="no abort mark",
            found="one",
            fix="Make a new plan",
        )
