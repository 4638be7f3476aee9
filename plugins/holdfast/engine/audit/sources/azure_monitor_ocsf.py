"""Azure's Activity Log, resource logs and Entra's sign-in and audit logs as OCSF."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.audit.ocsf import schema
from holdfast.engine.audit.sources import mapping
from holdfast.engine.audit.sources.json_blocks import Block, Shape
from holdfast.engine.audit.sources.mapping import Columns, by_value, first_of

_TEXT = pa.string()
_CLAIMS = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/"
_OBJECT_ID = "http://schemas.microsoft.com/identity/claims/objectidentifier"
_COMMON = [
    (name, _TEXT)
    for name in (
        "time",
        "resourceId",
        "operationName",
        "category",
        "resultType",
        "resultSignature",
        "resultDescription",
        "callerIpAddress",
        "correlationId",
        "level",
        "location",
        "tenantId",
        "uri",
        "statusCode",
    )
]


def _texts(*names: str) -> pa.StructType:
    return pa.struct([(name, _TEXT) for name in names])


def _is_sign_in(category: str | None) -> bool:
    return category is not None and category.endswith("SignInLogs")


#: `properties` has another shape in each category: of sign-ins it is read, of all others it is left out. `identity` is
#: a text in sign-ins, and an object elsewhere.
_SIGN_IN = Shape(
    pa.schema(
        [
            *_COMMON,
            ("identity", _TEXT),
            (
                "properties",
                pa.struct(
                    [
                        *((n, _TEXT) for n in ("id", "userId", "userPrincipalName", "userDisplayName", "appId")),
                        *((n, _TEXT) for n in ("appDisplayName", "resourceDisplayName", "resourceId", "ipAddress")),
                        *((n, _TEXT) for n in ("servicePrincipalId", "servicePrincipalName", "userAgent")),
                        *((n, _TEXT) for n in ("authenticationRequirement", "uniqueTokenIdentifier")),
                        ("status", pa.struct([("errorCode", pa.int64()), ("failureReason", _TEXT)])),
                    ]
                ),
            ),
        ]
    ),
    by="category",
    fits=_is_sign_in,
    marks=b"SignInLogs",
)
_ACTIVITY = Shape(
    pa.schema(
        [
            *_COMMON,
            (
                "identity",
                pa.struct(
                    [
                        ("claims", _texts("name", "appid", "ipaddr", "uti", _OBJECT_ID, f"{_CLAIMS}upn")),
                        ("claim", _texts("appid", "upn", "oid", _OBJECT_ID, f"{_CLAIMS}upn")),
                        ("requester", _texts("objectId", "upn", "appId", "userName")),
                        ("type", _TEXT),
                    ]
                ),
            ),
        ]
    ),
    by="category",
    fits=lambda category: not _is_sign_in(category),
)
SHAPES = (_SIGN_IN, _ACTIVITY)

_SEVERITIES = {"warning": 2, "error": 3, "critical": 4}
_STORAGE = ("StorageRead", "StorageWrite", "StorageDelete")
_DIRECTORY = ("UserManagement", "GroupManagement", "RoleManagement", "ApplicationManagement", "AuditLogs", "Policy")
_ENTITIES = ("MICROSOFT.AUTHORIZATION/", "MICROSOFT.MANAGEDIDENTITY/")
_FAILED = ("fail", "error", "denied", "forbidden", "unauthorized", "clienterror", "servererror")


def normalised(block: Block) -> pa.Table:
    """A row per record; what has no operation is a Base Event."""
    c = Columns(block.table)
    operation, category = c.text("operationName"), c.text("category")
    is_sign_in = block.table.schema == _SIGN_IN.schema
    classes = _classes(operation, category)
    columns = {**_common(c, classes, operation), **(_sign_in(c) if is_sign_in else _caller(c))}
    return mapping.events(c.length, classes, columns)


def _classes(operation: pa.Array, category: pa.Array) -> pa.Array:
    kinds = by_value(category, _class_of_category, pa.int32())
    entity = by_value(operation, lambda name: schema.ENTITY_MANAGEMENT if _changes_entity(name) else None, pa.int32())
    known = first_of(kinds, entity, pa.scalar(schema.API_ACTIVITY, pa.int32()))
    return pc.if_else(pc.is_valid(operation), known, pa.scalar(schema.BASE_EVENT, pa.int32()))


def _class_of_category(category: str) -> int | None:
    if _is_sign_in(category):
        return schema.AUTHENTICATION
    if category in _STORAGE:
        return schema.DATASTORE_ACTIVITY
    return schema.ENTITY_MANAGEMENT if category in _DIRECTORY and category != "Policy" else None


def _changes_entity(operation: str) -> bool:
    """Who may do what is changed: an assignment, a role, a policy, an identity."""
    return operation.upper().startswith(_ENTITIES) and not operation.upper().endswith("/READ")


def _common(c: Columns, classes: pa.Array, operation: pa.Array) -> dict[str, Any]:
    resource, kind = c.text("resourceId"), c.text("resultType")
    provider = by_value(resource, _provider)
    outcome = first_of(c.text("resultSignature"), kind)
    both = pc.binary_join_element_wise(pc.fill_null(kind, ""), pc.fill_null(outcome, ""), " ")
    failed = by_value(both, _failed, pa.bool_())
    has_resource = pc.and_(pc.is_valid(resource), pc.equal(classes, schema.API_ACTIVITY))
    account = by_value(resource, _account)
    return {
        "activity_id": _activities(classes, operation, outcome),
        "severity_id": pc.fill_null(by_value(c.text("level"), lambda s: _SEVERITIES.get(s.lower(), 1), pa.int32()), 1),
        "status_id": pc.if_else(failed, mapping.FAILURE, mapping.SUCCESS),
        "status_code": outcome,
        "status_detail": c.text("resultDescription"),
        "time": mapping.milliseconds(c.text("time")),
        "metadata.log_name": c.text("category"),
        "metadata.correlation_uid": c.text("correlationId"),
        "metadata.product.name": "Azure Monitor",
        "metadata.product.vendor_name": "Microsoft",
        "cloud.provider": "Azure",
        "cloud.region": c.text("location"),
        "cloud.account.uid": first_of(by_value(resource, _subscription), c.text("tenantId")),
        "api.operation": operation,
        "api.service.name": provider,
        "entity.uid": first_of(resource, c.text("tenantId")),
        "entity.name": first_of(by_value(resource, _last), c.text("category"), pa.scalar(mapping.UNKNOWN)),
        "entity.type": by_value(operation, _entity_type),
        "databucket.uid": first_of(c.text("uri"), resource),
        "databucket.name": first_of(account, resource, pa.scalar(mapping.UNKNOWN)),
        "databucket.type_id": 2,
        "resources": mapping.one_each(
            mapping.resources(uid=resource, name=by_value(resource, _last), type=provider, region=c.text("location")),
            has_resource,
        ),
    }


def _caller(c: Columns) -> dict[str, Any]:
    claims, claim, requester = "identity/claims", "identity/claim", "identity/requester"
    upn = first_of(
        c.text(claims, f"{_CLAIMS}upn"), c.text(claim, f"{_CLAIMS}upn"), c.text(claim, "upn"), c.text(requester, "upn")
    )
    oid = first_of(
        c.text(claims, _OBJECT_ID),
        c.text(claim, _OBJECT_ID),
        c.text(claim, "oid"),
        c.text(requester, "objectId"),
    )
    app = first_of(c.text(claims, "appid"), c.text(claim, "appid"), c.text(requester, "appId"))
    name = first_of(upn, c.text(claims, "name"), c.text(requester, "userName"), app, oid, pa.scalar(mapping.UNKNOWN))
    kind = pc.if_else(
        pc.is_valid(upn), mapping.USER, pc.if_else(pc.or_(pc.is_valid(app), pc.is_valid(oid)), mapping.SERVICE, 0)
    )
    return {
        "actor.user.uid": first_of(oid, app),
        "actor.user.name": name,
        "actor.user.email_addr": by_value(upn, mapping.email),
        "actor.user.type_id": kind,
        "actor.session.uid": c.text(claims, "uti"),
        **_source(first_of(c.text("callerIpAddress"), c.text(claims, "ipaddr"))),
    }


def _sign_in(c: Columns) -> dict[str, Any]:
    it = "properties/"
    upn = c.text(f"{it}userPrincipalName")
    uid = first_of(c.text(f"{it}userId"), c.text(f"{it}servicePrincipalId"))
    name = first_of(upn, c.text(f"{it}servicePrincipalName"), c.text("identity"), uid, pa.scalar(mapping.UNKNOWN))
    code = c.get(f"{it}status/errorCode", pa.int64())
    result = first_of(pc.cast(code, _TEXT), c.text("resultType"))
    failed = pc.fill_null(by_value(result, lambda text: text not in ("0", "Success", "success"), pa.bool_()), False)
    kind = pc.if_else(pc.is_valid(upn), mapping.USER, mapping.SERVICE)
    email = by_value(upn, mapping.email)
    app = c.text(f"{it}appDisplayName")
    target = first_of(c.text(f"{it}resourceDisplayName"), app, pa.scalar("Microsoft Entra ID"))
    return {
        "activity_id": 1,
        "status_id": pc.if_else(failed, mapping.FAILURE, mapping.SUCCESS),
        "status_code": result,
        "status_detail": first_of(c.text(f"{it}status/failureReason"), c.text("resultDescription")),
        "metadata.uid": c.text(f"{it}id"),
        "actor.user.uid": uid,
        "actor.user.name": name,
        "actor.user.type_id": kind,
        "actor.app_name": app,
        "actor.session.uid": c.text(f"{it}uniqueTokenIdentifier"),
        "user.uid": uid,
        "user.name": name,
        "user.email_addr": email,
        "user.type_id": kind,
        "is_mfa": by_value(
            c.text(f"{it}authenticationRequirement"), lambda text: text == "multiFactorAuthentication", pa.bool_()
        ),
        "dst_endpoint.svc_name": target,
        "http_request.user_agent": c.text(f"{it}userAgent"),
        **_source(first_of(c.text("callerIpAddress"), c.text(f"{it}ipAddress"))),
    }


def _source(caller: pa.Array) -> dict[str, Any]:
    return {"src_endpoint.ip": by_value(caller, mapping.address), "src_endpoint.svc_name": mapping.no_address(caller)}


def _activities(classes: pa.Array, operation: pa.Array, outcome: pa.Array) -> pa.Array:
    """By the operation; a write that answers ``Created`` created it, any other one may have."""
    verbs = by_value(operation, _verb)
    plain = by_value(verbs, lambda verb: mapping.ACTIVITIES[verb], pa.int32())
    created = pc.fill_null(by_value(outcome, lambda text: text.endswith("Created"), pa.bool_()), False)
    plain = pc.if_else(pc.and_(created, pc.fill_null(pc.equal(verbs, "update"), False)), 1, plain)
    store = by_value(verbs, lambda verb: mapping.STORE_ACTIVITIES[verb], pa.int32())
    chosen = pc.if_else(pc.equal(classes, schema.DATASTORE_ACTIVITY), store, plain)
    return pc.if_else(pc.equal(classes, schema.BASE_EVENT), 0, pc.fill_null(chosen, mapping.OTHER))


def _verb(operation: str) -> str | None:
    """Of ``…/LISTKEYS/ACTION``, ``…/WRITE``, ``SecretGet`` or ``Add member to role``."""
    *_, before, last = ("", *operation.split("/"))
    if last.upper() in ("READ", "WRITE", "DELETE"):
        return {"READ": "read", "WRITE": "update", "DELETE": "delete"}[last.upper()]
    if last.upper() == "ACTION":
        return "read" if before.upper().startswith(("LIST", "GET", "READ")) else mapping.verb(before)
    return mapping.verb(last)


def _failed(outcome: str) -> bool:
    text = outcome.lower()
    return any(word in text for word in _FAILED)


def _provider(resource: str) -> str | None:
    """``MICROSOFT.COMPUTE/VIRTUALMACHINES`` of a resource's id."""
    parts = resource.upper().split("/PROVIDERS/")
    return "/".join(parts[-1].split("/")[:2]) if len(parts) > 1 else None


def _subscription(resource: str) -> str | None:
    parts = resource.split("/")
    return parts[2] if len(parts) > 2 and parts[1].upper() == "SUBSCRIPTIONS" else None


def _account(resource: str) -> str | None:
    parts = resource.split("/")
    upper = [part.upper() for part in parts]
    place = upper.index("STORAGEACCOUNTS") + 1 if "STORAGEACCOUNTS" in upper else len(parts)
    return parts[place] if place < len(parts) else None


def _last(resource: str) -> str:
    return resource.rstrip("/").rpartition("/")[2] or mapping.UNKNOWN


def _entity_type(operation: str) -> str:
    parts = operation.split("/")
    return parts[1] if len(parts) > 2 else operation
