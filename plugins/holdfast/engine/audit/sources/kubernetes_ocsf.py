"""`audit.k8s.io/v1` events as OCSF."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.audit.ocsf import schema
from holdfast.engine.audit.sources import mapping
from holdfast.engine.audit.sources.json_blocks import Block, Shape
from holdfast.engine.audit.sources.mapping import Columns, by_value, first_of

_TEXT = pa.string()


def _texts(*names: str) -> pa.StructType:
    return pa.struct([(name, _TEXT) for name in names])


#: `requestObject` and `responseObject` have any shape, and are left out.
SHAPES = (
    Shape(
        pa.schema(
            [
                *((n, _TEXT) for n in ("apiVersion", "auditID", "stage", "requestURI", "verb", "userAgent")),
                *((n, _TEXT) for n in ("requestReceivedTimestamp", "stageTimestamp", "level")),
                ("user", _texts("username", "uid")),
                ("impersonatedUser", _texts("username", "uid")),
                ("sourceIPs", pa.list_(_TEXT)),
                ("objectRef", _texts("resource", "namespace", "name", "uid", "apiGroup", "apiVersion", "subresource")),
                ("responseStatus", pa.struct([("code", pa.int64()), ("reason", _TEXT), ("message", _TEXT)])),
                ("annotations", _texts("authorization.k8s.io/decision", "authorization.k8s.io/reason")),
            ]
        )
    ),
)

_VERBS = {
    "get": "read",
    "list": "read",
    "watch": "read",
    "create": "create",
    "update": "update",
    "patch": "update",
    "delete": "delete",
    "deletecollection": "delete",
}
_RBAC = "rbac.authorization.k8s.io"
_ENTITIES = ("serviceaccounts", "certificatesigningrequests")


def normalised(block: Block, cluster: str) -> pa.Table:
    """A row per record; what is no audit event is a Base Event."""
    c = Columns(block.table)
    verb, ref = c.text("verb"), "objectRef/"
    group, kind = c.text(f"{ref}apiGroup"), c.text(f"{ref}resource")
    classes = _classes(c.text("apiVersion"), verb, group, kind)
    code = c.get("responseStatus/code", pa.int64())
    failed = pc.or_(
        pc.greater_equal(pc.fill_null(code, 0), 400),
        pc.fill_null(pc.equal(c.text("annotations", "authorization.k8s.io/decision"), "forbid"), False),
    )
    done = pc.is_valid(code)
    status = pc.if_else(failed, mapping.FAILURE, pc.if_else(done, mapping.SUCCESS, 0))
    user = c.text("user/username")
    caller = _first_address(c.get("sourceIPs", pa.list_(_TEXT)))
    uri = c.text("requestURI")
    name = first_of(c.text(f"{ref}name"), kind, uri, pa.scalar(mapping.UNKNOWN))
    name = pc.if_else(pc.equal(name, ""), first_of(kind, pa.scalar(mapping.UNKNOWN)), name)
    path = by_value(uri, lambda text: text.partition("?")[0])
    uid = first_of(c.text(f"{ref}uid"), path)
    has_resource = pc.and_(pc.is_valid(kind), pc.equal(classes, schema.API_ACTIVITY))
    columns: dict[str, Any] = {
        "activity_id": _activities(classes, verb),
        "severity_id": 1,
        "status_id": status,
        "status_code": pc.cast(code, _TEXT),
        "status_detail": first_of(c.text("responseStatus/message"), c.text("responseStatus/reason")),
        "time": mapping.milliseconds(first_of(c.text("stageTimestamp"), c.text("requestReceivedTimestamp"))),
        "metadata.uid": c.text("auditID"),
        "metadata.event_code": c.text("stage"),
        "metadata.log_name": "audit.k8s.io",
        "metadata.product.name": "Kubernetes",
        "metadata.product.vendor_name": "Kubernetes",
        "cloud.provider": "Kubernetes",
        "cloud.account.uid": cluster,
        "cloud.account.name": cluster,
        "actor.user.uid": c.text("user/uid"),
        "actor.user.name": first_of(user, pa.scalar(mapping.UNKNOWN)),
        "actor.user.type_id": pc.fill_null(by_value(user, _user_type, pa.int32()), 0),
        "actor.invoked_by": c.text("impersonatedUser/username"),
        "src_endpoint.ip": by_value(caller, mapping.address),
        "src_endpoint.svc_name": mapping.no_address(caller),
        "http_request.user_agent": c.text("userAgent"),
        "http_request.url.path": path,
        "api.operation": verb,
        "api.version": c.text(f"{ref}apiVersion"),
        "api.service.name": pc.if_else(pc.equal(group, ""), "core", first_of(group, pa.scalar("core"))),
        "api.request.uid": first_of(c.text("auditID"), pa.scalar(mapping.UNKNOWN)),
        "api.response.code": pc.cast(code, pa.int32(), safe=False),
        "api.response.error_message": pc.if_else(failed, c.text("responseStatus/message"), pa.scalar(None, _TEXT)),
        "entity.uid": uid,
        "entity.name": name,
        "entity.type": kind,
        "resources": mapping.one_each(
            mapping.resources(uid=uid, name=name, type=kind, version=c.text(f"{ref}apiVersion")), has_resource
        ),
    }
    return mapping.events(c.length, classes, columns)


def _classes(version: pa.Array, verb: pa.Array, group: pa.Array, kind: pa.Array) -> pa.Array:
    is_audit = pc.fill_null(by_value(version, lambda text: text.startswith("audit.k8s.io/"), pa.bool_()), False)
    writes = pc.fill_null(by_value(verb, lambda text: _VERBS.get(text) not in (None, "read"), pa.bool_()), False)
    entity = pc.or_(
        pc.fill_null(pc.equal(group, _RBAC), False), pc.fill_null(pc.is_in(kind, pa.array(_ENTITIES)), False)
    )
    known = pc.if_else(
        pc.and_(writes, entity),
        pa.scalar(schema.ENTITY_MANAGEMENT, pa.int32()),
        pa.scalar(schema.API_ACTIVITY, pa.int32()),
    )
    return pc.if_else(pc.and_(is_audit, pc.is_valid(verb)), known, pa.scalar(schema.BASE_EVENT, pa.int32()))


def _activities(classes: pa.Array, verb: pa.Array) -> pa.Array:
    found = by_value(verb, lambda text: mapping.ACTIVITIES.get(_VERBS.get(text, ""), mapping.OTHER), pa.int32())
    return pc.if_else(pc.equal(classes, schema.BASE_EVENT), 0, pc.fill_null(found, mapping.OTHER))


def _user_type(user: str) -> int:
    if user.startswith("system:serviceaccount:"):
        return mapping.SERVICE
    return mapping.SYSTEM if user.startswith("system:") else mapping.USER


def _first_address(addresses: pa.Array) -> pa.Array:
    """The caller's own: the first of the list, which proxies add to at its end."""
    has = pc.greater(pc.fill_null(pc.list_value_length(addresses), 0), 0)
    if not pc.any(has).as_py():
        return pa.nulls(len(addresses), _TEXT)
    firsts = pc.list_element(addresses.filter(has), 0)
    return pc.replace_with_mask(pa.nulls(len(addresses), _TEXT), has, firsts)
