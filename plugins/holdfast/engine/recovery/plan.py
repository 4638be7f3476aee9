"""A plan: what is to be done, fixed before it is begun and named by its hash."""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime
from typing import Literal, Self

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from holdfast.engine.authority.interface import EpochState, OperationKind
from holdfast.engine.config import Group
from holdfast.engine.objectstore.errors import ObjectExists, ObjectStoreError
from holdfast.engine.objectstore.interface import CREATE, ObjectStore
from holdfast.engine.recovery.anywhere import find_anywhere
from holdfast.engine.recovery.errors import GateClosed, PlanAltered, PlanNotFound, RecordsUnavailable
from holdfast.engine.recovery.interface import Rooms
from holdfast.engine.recovery.residency import require_allowed
from holdfast.errors import ConfigError, UnknownName

Verb = Literal["failover", "switchover"]

#: The steps of each verb, in order. `commit_epoch` is the point of no return.
STEPS: dict[Verb, tuple[str, ...]] = {
    "failover": ("detect", "decide", "commit_epoch", "fence", "promote", "switch_traffic", "verify", "resume_training"),
    "switchover": (
        "detect",
        "decide",
        "quiesce",
        "commit_epoch",
        "fence",
        "promote",
        "switch_traffic",
        "verify",
        "resume_training",
    ),
}


class Plan(BaseModel):
    """The ordered steps that make ``target`` the active site of ``group``.

    ``expected_epoch`` is the epoch the plan was made in; the plan commits the next one and nothing else.
    ``operation`` is the id under which the group is claimed: the plan's own, or the drill's it belongs to.
    ``asked_by`` is the person who asked for it: only version 2 has it, and version 1 is asked for by nobody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["holdfast.plan/1", "holdfast.plan/2"] = "holdfast.plan/1"
    plan_id: str
    verb: Verb
    group: str
    source: str
    target: str
    witnesses: tuple[str, ...]
    expected_epoch: int = Field(ge=1)
    reason: str
    created_at: datetime
    created_by: str
    steps: tuple[str, ...]
    operation: str
    operation_kind: OperationKind
    asked_by: str | None = Field(None, min_length=1, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _says_who_asked(self) -> Self:
        if (self.format == "holdfast.plan/2") is (self.asked_by is None):
            raise ValueError(f"expected `asked_by` in holdfast.plan/2 alone; found {self.asked_by!r} in {self.format}")
        return self

    @property
    def epoch(self) -> int:
        """The epoch this plan commits."""
        return self.expected_epoch + 1

    @property
    def hash(self) -> str:
        """``sha256:<hex>`` of the plan's canonical JSON (RFC 8785)."""
        return f"sha256:{hashlib.sha256(rfc8785.dumps(self.model_dump(mode='json'))).hexdigest()}"

    @property
    def record_sites(self) -> tuple[str, ...]:
        """The sites whose buckets hold the plan and its records: those that a dead source cannot take away."""
        return (self.target, *self.witnesses)


def plan_folder(group: str, plan_id: str) -> str:
    return f"plans/{group}/{plan_id}"


def new_plan(
    rooms: Rooms,
    group: str,
    *,
    verb: Verb = "failover",
    target: str | None = None,
    reason: str,
    plan_id: str | None = None,
    operation: str | None = None,
    operation_kind: OperationKind | None = None,
    asked_by: str | None = None,
) -> Plan:
    """Make a plan from the group's committed state; nothing is written.

    Args:
        target: the site to activate; by default the first standby that is not active now.
        operation: the claim it runs under; by default the plan's own id.
        asked_by: the person who asks for it; none: nobody does, it is a schedule's or a drill's.

    Raises:
        UnknownName, ConfigError: the group, the verb or the target is not one.
        GateClosed: a rule forbids this plan (no authority yet; the traffic record's zone is hosted at the source).
        ResidencyRefused: something of the group may not lie at the target.
        NoMajority: nobody knows which site is active.
    """
    settings = rooms.topology.group(group)
    if verb not in STEPS:
        raise UnknownName("unknown verb", where="plan", expected=f"one of {', '.join(STEPS)}", found=repr(verb))
    wanted = None if target is None else _known_target(rooms, group, settings, target)
    state = rooms.authority(group).read(group)
    if state is None:
        raise GateClosed(
            "the group has no epoch yet",
            where=group,
            expected="an initialised register",
            found="none",
            fix="Run `holdfast authority init`",
        )
    chosen = wanted or _default_target(settings, state)
    if chosen == state.active_site:
        raise ConfigError("the target is the active site already", where=group, expected="another site", found=chosen)
    require_allowed(rooms.topology, group, chosen)
    plan_id = plan_id or f"{rooms.clock.now():%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    plan = Plan(
        format="holdfast.plan/2" if asked_by else "holdfast.plan/1",
        plan_id=plan_id,
        verb=verb,
        group=group,
        source=state.active_site,
        target=chosen,
        witnesses=tuple(s for s in settings.sites.all() if s not in (state.active_site, chosen)),
        expected_epoch=state.epoch,
        reason=reason,
        created_at=rooms.clock.now(),
        created_by=rooms.holder,
        steps=STEPS[verb],
        operation=operation or plan_id,
        operation_kind=operation_kind or verb,
        asked_by=asked_by or None,
    )
    check_feasible(rooms, plan)
    return plan


def check_feasible(rooms: Rooms, plan: Plan) -> None:
    """Refuse a failover that cannot be carried out before anything moves. Raises GateClosed."""
    if plan.verb == "switchover":
        return
    for name in rooms.topology.group(plan.group).services:
        record = rooms.topology.service(name).record
        if record.site == plan.source:
            raise GateClosed(
                f"the traffic of {name} cannot be switched away from {plan.source}: its zone is hosted there",
                where=f"services.{name}.record.site",
                expected=f"a site other than {plan.source}",
                found=record.site,
                fix="Host the zone at another cloud, or make a switchover while the site is alive",
            )


def _known_target(rooms: Rooms, group: str, settings: Group, target: str) -> str:
    rooms.topology.site(target)
    candidates = (settings.sites.active, *settings.sites.standby)
    if target not in candidates:
        raise ConfigError(
            "this site cannot become active",
            where=f"groups.{group}.sites",
            expected=f"one of {', '.join(candidates)}",
            found=target,
        )
    return target


def _default_target(settings: Group, state: EpochState) -> str:
    return next(s for s in (*settings.sites.standby, settings.sites.active) if s != state.active_site)


def save_plan(rooms: Rooms, plan: Plan) -> None:
    """Write the plan into the buckets of its record sites; at least one must take it.

    Raises:
        PlanAltered: another plan has this id.
        RecordsUnavailable: no bucket took it.
    """
    data = plan.model_dump_json().encode()
    key = f"{plan_folder(plan.group, plan.plan_id)}/plan.json"
    failures = []
    for site in plan.record_sites:
        store = rooms.store(site)
        try:
            _create_once(store, key, data)
        except (ObjectStoreError, ConfigError) as error:
            failures.append(error)
    if len(failures) == len(plan.record_sites):
        raise RecordsUnavailable(
            "no bucket took the plan",
            where=key,
            found="; ".join(str(e) for e in failures),
            fix="Bring the target's or the witness's object store back",
        )


def _create_once(store: ObjectStore, key: str, data: bytes) -> None:
    try:
        store.put(key, data, mode=CREATE, content_type="application/json")
    except ObjectExists:
        if store.get(key) != data:
            raise PlanAltered(
                "another plan has this id", where=f"{store.name}: {key}", fix="Choose another plan id"
            ) from None


def load_plan(rooms: Rooms, group: str, plan_id: str) -> Plan:
    """Read a plan back from whichever of the group's buckets answers.

    Raises:
        PlanNotFound: none that answers has it.
        PlanAltered: what is there is no plan of this id.
    """
    key = f"{plan_folder(group, plan_id)}/plan.json"
    found = find_anywhere(rooms, rooms.topology.group(group).sites.all(), key)
    if found.data is None:
        raise PlanNotFound(
            "there is no such plan",
            where=f"group {group}",
            expected="a plan id",
            found=plan_id,
            fix=f"Not asked: {'; '.join(found.silent)}" if found.silent else None,
        )
    try:
        plan = Plan.model_validate_json(found.data)
    except ValidationError as error:
        raise PlanAltered("this is no plan", where=f"{found.site}: {key}", found=str(error)) from None
    if (plan.plan_id, plan.group) != (plan_id, group):
        raise PlanAltered("this is another plan", where=f"{found.site}: {key}", expected=plan_id, found=plan.plan_id)
    return plan
