"""Holdfast's records as OCSF: Datastore Activity for what was copied, saved, backed up and removed, API Activity for
decisions and epochs, Application Lifecycle for plans, drills, jobs and reports of cost.

A record says by its ``format`` what it is. Everything not known becomes Base Event.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.audit.ocsf import schema as ocsf
from holdfast.engine.audit.sources import holdfast_decisions

_WRITE, _UPDATE, _DELETE, _CREATE, _OTHER = 5, 2, 7, 6, 99
_SUCCESS, _FAILURE = 1, 2
#: Columns of `ocsf.SCHEMA` that an `_Event` fills, by the name of its field.
_COLUMNS = {
    "class_uid": ("class_uid", pa.int32()),
    "activity_id": ("activity_id", pa.int32()),
    "severity_id": ("severity_id", pa.int32()),
    "status_id": ("status_id", pa.int32()),
    "status_code": ("status_code", pa.string()),
    "status_detail": ("status_detail", pa.string()),
    "time": ("time", pa.int64()),
    "message": ("message", pa.string()),
    "uid": ("metadata.uid", pa.string()),
    "code": ("metadata.event_code", pa.string()),
    "sequence": ("metadata.sequence", pa.int64()),
    "correlation": ("metadata.correlation_uid", pa.string()),
    "user": ("actor.user.name", pa.string()),
    "signer": ("actor.user.uid", pa.string()),
    "invoked_by": ("actor.invoked_by", pa.string()),
    "actor_app": ("actor.app_name", pa.string()),
    "host": ("src_endpoint.hostname", pa.string()),
    "service": ("src_endpoint.svc_name", pa.string()),
    "at_site": ("dst_endpoint.svc_name", pa.string()),
    "operation": ("api.operation", pa.string()),
    "api_service": ("api.service.name", pa.string()),
    "app": ("app.name", pa.string()),
    "app_uid": ("app.uid", pa.string()),
    "bucket": ("databucket.name", pa.string()),
    "bucket_type": ("databucket.type_id", pa.int32()),
}  # fmt: skip


@dataclass(slots=True)
class _Event:
    """What one record says. Empty texts are null in the table."""

    class_uid: int = ocsf.BASE_EVENT
    activity_id: int = 0
    severity_id: int = 1
    status_id: int | None = None
    status_code: str | None = None
    status_detail: str | None = None
    time: int = 0
    message: str | None = None
    uid: str | None = None
    code: str | None = None
    sequence: int | None = None
    correlation: str | None = None
    user: str | None = None
    signer: str | None = None
    invoked_by: str | None = None
    actor_app: str | None = None
    host: str | None = None
    service: str | None = None
    operation: str | None = None
    api_service: str | None = None
    app: str | None = None
    app_uid: str | None = None
    bucket: str | None = None
    bucket_type: int | None = None
    at_site: str | None = None
    resource: tuple[str, str] | None = None  # name, type


_Record = Mapping[str, Any]


def normalise(raw: pa.LargeBinaryArray) -> pa.Table:
    """One row of OCSF per record, in order. A record without a time gets 0, since OCSF wants one."""
    mask = holdfast_decisions.are_decisions(raw)
    decisions = holdfast_decisions.normalise(raw.filter(mask)) if pc.any(mask).as_py() else None
    if decisions is None:
        return _one_by_one(raw)
    others = _one_by_one(raw.filter(pc.invert(mask)))
    places = pa.concat_arrays([pc.indices_nonzero(mask), pc.indices_nonzero(pc.invert(mask))])
    return pa.concat_tables([decisions, others]).take(pc.sort_indices(places)).combine_chunks()


def _one_by_one(raw: pa.LargeBinaryArray) -> pa.Table:
    events = [_event(record) for record in raw.to_pylist()]
    columns: dict[str, Any] = {
        path: pa.array([getattr(event, name) for event in events], kind) for name, (path, kind) in _COLUMNS.items()
    }
    columns["metadata.product.name"] = "Holdfast"
    columns["metadata.product.vendor_name"] = "Holdfast"
    columns["metadata.log_name"] = columns["metadata.event_code"]
    columns["resources"] = pa.array(
        [None if one.resource is None else [dict(zip(("name", "type"), one.resource, strict=True))] for one in events],
        ocsf.SCHEMA.field("resources").type,
    )
    return ocsf.build(len(events), columns)


def _event(record: bytes) -> _Event:
    try:
        found = json.loads(record)
        if not isinstance(found, dict):
            return _Event()
        form = found.get("format")
        if form is None and {"plan_id", "at", "by", "reason"} <= found.keys():
            form = "aborted"
        made = _MAKERS[str(form).partition("/")[0]](found)
        made.code = str(form)
        return made if _fits(made) else _Event()
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return _Event()


def _fits(event: _Event) -> bool:
    """Whether each field is of its column's type: a record may say anything."""
    for name, (_, kind) in _COLUMNS.items():
        value = getattr(event, name)
        if value is None:
            continue
        if pa.types.is_string(kind):
            if not isinstance(value, str) or not _is_text(value):
                return False
        elif type(value) is not int or not 0 <= value < 2 ** (kind.bit_width - 1):
            return False
    if (event.class_uid, event.app) == (ocsf.APPLICATION_LIFECYCLE, None) or (
        event.class_uid == ocsf.API_ACTIVITY and event.operation is None
    ):
        return False  # its class demands it
    return event.resource is None or all(isinstance(one, str) and _is_text(one) for one in event.resource)


def _is_text(value: str) -> bool:
    """Whether it has bytes: half of a surrogate pair has none."""
    return value.isascii() or not any("\ud800" <= one <= "\udfff" for one in value)


def _datastore(found: _Record, activity: int, moment: str, message: str, site: str | None, **more: Any) -> _Event:
    return _Event(
        class_uid=ocsf.DATASTORE_ACTIVITY, activity_id=activity, time=_milliseconds(found[moment]), message=message,
        actor_app="holdfast", service="holdfast", bucket=site or "vault", bucket_type=0, **more,
    )  # fmt: skip


def _lifecycle(found: _Record, activity: int, moment: str, message: str, app: str, **more: Any) -> _Event:
    return _Event(
        class_uid=ocsf.APPLICATION_LIFECYCLE, activity_id=activity, time=_milliseconds(found[moment]),
        message=message, app=app, **more,
    )  # fmt: skip


def _api(found: _Record, activity: int, moment: str, message: str, operation: str, **more: Any) -> _Event:
    return _Event(
        class_uid=ocsf.API_ACTIVITY, activity_id=activity, time=_milliseconds(found[moment]), message=message,
        actor_app="holdfast", service="holdfast", operation=operation, api_service="holdfast", **more,
    )  # fmt: skip


def _commit(found: _Record) -> _Event:
    what = f"snapshot {found['snapshot_id']} of {found['dataset']} was committed in epoch {found['epoch']}"
    return _datastore(found, _WRITE, "committed_at", what, found["site"], uid=found["snapshot_id"], status_id=_SUCCESS)


def _receipt(found: _Record) -> _Event:
    what = (
        f"{found['item']} of {found['subject']} was copied from {found['source_site']} and verified: "
        f"{found.get('verification', 'all')}"
    )
    uid = f"{found['subject']}/{found['item']}/{found['site']}"
    return _datastore(found, _WRITE, "verified_at", what, found["site"], uid=uid, status_id=_SUCCESS)


def _checkpoint_receipt(found: _Record) -> _Event:
    what = f"checkpoint {found['manifest']} at step {found['step']} of {found['run']} was copied and verified"
    uid = f"{found['run']}/{found['manifest']}/{found['site']}"
    return _datastore(
        found, _WRITE, "verified_at", what, found["site"], uid=uid, correlation=found["run"], status_id=_SUCCESS
    )


def _checkpoint(found: _Record) -> _Event:
    what = f"checkpoint at step {found['step']} of {found['run']} was saved in epoch {found['epoch']}"
    return _datastore(
        found, _WRITE, "saved_at", what, found["site"], uid=found["write_id"], correlation=found["run"],
        status_id=_SUCCESS,
    )  # fmt: skip


def _tombstone(found: _Record) -> _Event:
    what = f"{len(found['objects'])} objects of {found['dataset']} are to be removed after {found['remove_after']}"
    return _datastore(found, _OTHER, "marked_at", what, found["site"], uid=found["id"], user=found.get("approved"))


def _spared(found: _Record) -> _Event:
    what = f"{len(found['keys'])} objects of {found['dataset']} are not removed after all: {found['reason']}"
    return _datastore(found, _OTHER, "at", what, None, uid=found["id"], correlation=found["tombstone"])


def _finished(found: _Record) -> _Event:
    what = f"the objects of tombstone {found['tombstone']} were removed or spared"
    return _datastore(found, _DELETE, "at", what, None, correlation=found["tombstone"], status_id=_SUCCESS)


def _expired(found: _Record) -> _Event:
    what = f"snapshot {found['snapshot_id']} of {found['dataset']} was ended by a rule"
    return _datastore(found, _DELETE, "at", what, found["site"], uid=found["snapshot_id"], status_id=_SUCCESS)


def _vault(found: _Record) -> _Event:
    activity = {"init": _CREATE, "backup": _WRITE, "forget": _DELETE, "collect": _DELETE}.get(found["kind"], _UPDATE)
    what = f"entry {found['sequence']} of the vault's log: {found['kind']}"
    return _datastore(
        found, activity, "created_at", what, f"vault {found['repository']}", uid=found["write_id"],
        sequence=found["sequence"], signer=found["signer"], status_id=_SUCCESS,
    )  # fmt: skip


def _fork(found: _Record) -> _Event:
    what = f"{found['subject']} goes on in epoch {found['epoch']} from {found['forked_from'] or 'nothing'}"
    return _api(
        found, 1, "created_at", f"{what}: {found['reason']}", "fork", uid=found["write_id"],
        correlation=found["plan_id"], host=_host(found["holder"]), invoked_by=found["holder"],
        resource=(found["subject"], "subject"), at_site=found["site"], status_id=_SUCCESS,
    )  # fmt: skip


def _decision(found: _Record) -> _Event:
    allowed, action = found["allowed"], found["action"]
    resource, target = found["resource"], found["target"]
    return _api(
        found, {"copy": 1, "store": 1}.get(action, 2), "at",
        f"{action} of {resource['name']} at {target['site']} was {'allowed' if allowed else 'denied'}: {found['why']}",
        action, uid=found["id"], sequence=found["seq"], severity_id=1 if allowed else 3,
        status_id=_SUCCESS if allowed else _FAILURE, status_code="allowed" if allowed else "denied",
        status_detail=found["why"], invoked_by=found["principal"]["service"],
        resource=(resource["name"], resource["kind"]), at_site=target["site"],
    )  # fmt: skip


def _plan(found: _Record) -> _Event:
    # The class has no actor.
    asked = f", asked for by {found['asked_by']}" if found.get("asked_by") else ""
    what = f"{found['verb']} of {found['group']} from {found['source']} to {found['target']}{asked}: {found['reason']}"
    return _lifecycle(
        found, 3, "created_at", what, found["group"], uid=found["plan_id"], app_uid=found["plan_id"],
        correlation=found["operation"],
    )  # fmt: skip


def _step(found: _Record) -> _Event:
    done = found["status"] == "done"
    what = f"step {found['step']} of {found['plan_id']} in epoch {found['epoch']}: {found['status']}"
    if approved_by := found.get("evidence", {}).get("approved_by"):
        what = f"{what}, approved by {approved_by}"
    error = found.get("error") or {}
    return _lifecycle(
        found, _OTHER, "ended_at", what, found["plan_id"], uid=found["write_id"], correlation=found["plan_id"],
        status_id=_SUCCESS if done else _FAILURE, severity_id=1 if done else 3, status_detail=error.get("what"),
    )  # fmt: skip


def _approval(found: _Record) -> _Event:
    asked = found["asked_by"] or "nobody"
    what = f"the live restore of {found['source']} from {found['vault']}, asked for by {asked}, was approved"
    return _api(
        found, _OTHER, "approved_at", f"{what}: {found['reason']}", "approve", correlation=found["request"],
        user=found["approved_by"], resource=(found["backup"], "backup"), at_site=found["site"], status_id=_SUCCESS,
    )  # fmt: skip


def _aborted(found: _Record) -> _Event:
    what = f"plan {found['plan_id']} was given up by {found['by']}: {found['reason']}"
    return _lifecycle(found, 4, "at", what, found["plan_id"], correlation=found["plan_id"], status_id=_FAILURE)


def _journal(found: _Record) -> _Event:
    """A drill of any kind: its verdict, else how it ended. Only a pass is a success."""
    verdict = found.get("verdict")
    if isinstance(verdict, dict):  # of a failover drill: what was measured against what was wanted
        verdict = "pass" if verdict.get("passed") is True else "fail" if found["status"] == "completed" else None
    verdict = str(verdict or found["status"])
    good = verdict == "pass"
    moment = next(found[name] for name in ("ended_at", "started_at") if found.get(name))
    return _lifecycle(
        {"at": moment}, 4, "at", f"drill {found['drill_id']}: {verdict}", "drill", uid=found["drill_id"],
        app_uid=found["drill_id"], correlation=found["drill_id"], status_id=_SUCCESS if good else _FAILURE,
        status_code=verdict, severity_id=1 if good else 3,
    )  # fmt: skip


def _quality(found: _Record) -> _Event:
    """What a suite said of a dataset's bytes."""
    ok = found["ok"] is True
    what = f"{found['suite']} was checked over {found['rows']} rows of {found['dataset']}: {'met' if ok else 'not met'}"
    return _lifecycle(
        found, _OTHER, "checked_at", what, "great_expectations", correlation=found["manifest_digest"],
        uid=f"{found['manifest_digest']}/{found['suite_sha256']}", status_id=_SUCCESS if ok else _FAILURE,
        status_code="met" if ok else "not met", severity_id=1 if ok else 3,
    )  # fmt: skip


def _attempt(found: _Record) -> _Event:
    what = f"attempt {found['attempt']} of {found['run']} in epoch {found['epoch']}: {found['reason']}"
    return _lifecycle(found, 3, "written_at", what, found["run"], correlation=found["run"])


def _submitted(found: _Record) -> _Event:
    what = f"attempt {found['attempt']} of {found['run']} in epoch {found['epoch']} was submitted"
    return _lifecycle(found, _OTHER, "submitted_at", what, found["run"], correlation=found["run"])


def _ended(found: _Record) -> _Event:
    good = found["state"] == "succeeded"
    what = f"attempt {found['attempt']} of {found['run']} in epoch {found['epoch']}: {found['state']}"
    return _lifecycle(
        found, 4, "seen_at", what, found["run"], correlation=found["run"], status_code=found["state"],
        status_id=_SUCCESS if good else _FAILURE, status_detail=found.get("detail"),
    )  # fmt: skip


def _cost(found: _Record) -> _Event:
    """A report is a success when it is known what the period cost."""
    standby, known, period = found["standby"], found["is_known"] is True, found["period"]
    sums = ", ".join(f"{one['effective']} {one['currency']}" for one in standby["totals"]) or "no sum"
    what = f"cost of {period}: standby {sums}, {standby['state']}; {len(found['drills'])} drills"
    return _lifecycle(
        found, _OTHER, "made_at", what, "cost", uid=f"{period}/{found['made_at']}", app_uid="cost", correlation=period,
        status_id=_SUCCESS if known else _FAILURE, status_code=standby["state"], severity_id=1 if known else 3,
        status_detail="; ".join(standby["unknown"]) or None,
    )  # fmt: skip


_MAKERS: Mapping[str, Callable[[_Record], _Event]] = {
    "holdfast.snapshot": _commit,
    "holdfast.receipt": _receipt,
    "holdfast.checkpoint": _checkpoint,
    "holdfast.checkpoint-receipt": _checkpoint_receipt,
    "holdfast.tombstone": _tombstone,
    "holdfast.tombstone-spared": _spared,
    "holdfast.tombstone-finished": _finished,
    "holdfast.expired": _expired,
    "holdfast.vault.log": _vault,
    "holdfast.fork": _fork,
    "holdfast.decision": _decision,
    "holdfast.plan": _plan,
    "holdfast.step": _step,
    "holdfast.approval": _approval,
    "aborted": _aborted,
    "holdfast.drill-journal": _journal,
    "holdfast.restore-drill": _journal,
    "holdfast.airflow-drill": _journal,
    "holdfast.quality": _quality,
    "holdfast.cost-report": _cost,
    "holdfast.attempt": _attempt,
    "holdfast.attempt-submitted": _submitted,
    "holdfast.attempt-end": _ended,
}


def _host(holder: str) -> str | None:
    """Of ``host/process/nonce``."""
    return holder.partition("/")[0] or None


def _milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)
