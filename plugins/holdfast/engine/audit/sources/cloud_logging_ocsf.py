"""Cloud Audit Logs (`google.cloud.audit.AuditLog` in a `LogEntry`) as OCSF."""

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


#: `request`, `response`, `metadata` and `serviceData` have any shape, and are left out.
SHAPES = (
    Shape(
        pa.schema(
            [
                ("logName", _TEXT),
                ("insertId", _TEXT),
                ("timestamp", _TEXT),
                ("receiveTimestamp", _TEXT),
                ("severity", _TEXT),
                ("operation", _texts("id")),
                (
                    "resource",
                    pa.struct(
                        [
                            ("type", _TEXT),
                            (
                                "labels",
                                _texts("location", "region", "zone", "bucket_name", "dataset_id", "database_id"),
                            ),
                        ]
                    ),
                ),
                (
                    "protoPayload",
                    pa.struct(
                        [
                            ("serviceName", _TEXT),
                            ("methodName", _TEXT),
                            ("resourceName", _TEXT),
                            ("status", pa.struct([("code", pa.int64()), ("message", _TEXT)])),
                            (
                                "authenticationInfo",
                                _texts("principalEmail", "principalSubject", "serviceAccountKeyName"),
                            ),
                            ("requestMetadata", _texts("callerIp", "callerSuppliedUserAgent")),
                        ]
                    ),
                ),
            ]
        )
    ),
)

#: Of `projects/_/buckets/<bucket>/objects/<name>`.
_OBJECT = r"/objects/(?P<name>(?s:.+))"
_SEVERITIES = {"WARNING": 2, "ERROR": 3, "CRITICAL": 4, "ALERT": 5, "EMERGENCY": 6}
#: Services whose data access is access to a store, and `type_id` where it is a bucket or a database of a known kind.
_STORES = {
    "storage.googleapis.com": "bucket",
    "bigquery.googleapis.com": "database",
    "bigquerydatapolicy.googleapis.com": "database",
    "spanner.googleapis.com": "database",
    "firestore.googleapis.com": "database",
    "datastore.googleapis.com": "database",
    "bigtable.googleapis.com": "database",
    "bigtableadmin.googleapis.com": "database",
    "cloudsql.googleapis.com": "database",
    "alloydb.googleapis.com": "database",
}
_RELATIONAL = ("spanner.", "cloudsql.", "alloydb.", "bigquery")
_STORE_VERBS = {"list": 8, "query": 4, "jobinsert": 4, "search": 4}


def normalised(block: Block) -> pa.Table:
    """A row per record; what is no audit entry is a Base Event."""
    c = Columns(block.table)
    payload = "protoPayload/"
    method, service = c.text(f"{payload}methodName"), c.text(f"{payload}serviceName")
    resource, log = c.text(f"{payload}resourceName"), c.text("logName")
    classes = _classes(method, service, log)
    code = c.get(f"{payload}status/code", pa.int64())
    failed = pc.greater(pc.fill_null(code, 0), 0)
    principal = c.text(f"{payload}authenticationInfo/principalEmail")
    subject = c.text(f"{payload}authenticationInfo/principalSubject")
    caller = c.text(f"{payload}requestMetadata/callerIp")
    labels = "resource/labels/"
    bucket, dataset = c.text(f"{labels}bucket_name"), c.text(f"{labels}dataset_id")
    store_name = first_of(bucket, dataset, c.text(f"{labels}database_id"), resource, service)
    kind = by_value(service, lambda name: _STORES.get(name))
    is_bucket, is_database = _is(kind, "bucket"), _is(kind, "database")
    objects = pc.struct_field(pc.extract_regex(resource, _OBJECT), "name")
    regular_file = pa.repeat(pa.scalar(1, pa.int32()), c.length)
    has_resource = pc.and_(pc.is_valid(resource), pc.equal(classes, schema.API_ACTIVITY))
    resource_type = c.text("resource/type")
    region = first_of(c.text(f"{labels}location"), c.text(f"{labels}region"), c.text(f"{labels}zone"))
    columns: dict[str, Any] = {
        "activity_id": _activities(classes, method),
        "severity_id": pc.fill_null(by_value(c.text("severity"), lambda s: _SEVERITIES.get(s, 1), pa.int32()), 1),
        "status_id": pc.if_else(failed, mapping.FAILURE, mapping.SUCCESS),
        "status_code": pc.cast(code, _TEXT),
        "status_detail": c.text(f"{payload}status/message"),
        "time": mapping.milliseconds(c.text("timestamp")),
        "metadata.uid": c.text("insertId"),
        "metadata.log_name": log,
        "metadata.logged_time": mapping.milliseconds(c.text("receiveTimestamp")),
        "metadata.correlation_uid": c.text("operation/id"),
        "metadata.product.name": "Cloud Audit Logs",
        "metadata.product.vendor_name": "Google Cloud",
        "cloud.provider": "GCP",
        "cloud.region": region,
        "cloud.account.uid": by_value(log, lambda name: name.split("/")[1] if name.count("/") > 1 else None),
        "actor.user.uid": first_of(subject, principal),
        "actor.user.name": first_of(principal, subject, pa.scalar(mapping.UNKNOWN)),
        "actor.user.email_addr": by_value(principal, mapping.email),
        "actor.user.type_id": pc.fill_null(by_value(principal, _user_type, pa.int32()), 0),
        "actor.user.credential_uid": c.text(f"{payload}authenticationInfo/serviceAccountKeyName"),
        "src_endpoint.ip": by_value(caller, mapping.address),
        "src_endpoint.svc_name": mapping.no_address(caller),
        "http_request.user_agent": c.text(f"{payload}requestMetadata/callerSuppliedUserAgent"),
        "api.operation": method,
        "api.service.name": service,
        "api.response.code": pc.cast(code, pa.int32(), safe=False),
        "api.response.error_message": pc.if_else(failed, c.text(f"{payload}status/message"), pa.scalar(None, _TEXT)),
        "entity.uid": resource,
        "entity.name": first_of(resource, service, pa.scalar(mapping.UNKNOWN)),
        "entity.type": resource_type,
        "databucket.uid": mapping.only(is_bucket, first_of(resource, store_name)),
        "databucket.name": mapping.only(is_bucket, store_name),
        "databucket.type_id": mapping.only(is_bucket, pa.repeat(pa.scalar(3, pa.int32()), c.length)),
        "databucket.file.name": mapping.only(is_bucket, objects),
        "databucket.file.type_id": mapping.only(pc.and_(is_bucket, pc.is_valid(objects)), regular_file),
        "database.uid": mapping.only(is_database, first_of(resource, store_name)),
        "database.name": mapping.only(is_database, store_name),
        "database.type_id": mapping.only(is_database, by_value(service, _database_type, pa.int32())),
        "resources": mapping.one_each(
            mapping.resources(uid=resource, name=resource, type=resource_type, region=region), has_resource
        ),
    }
    return mapping.events(c.length, classes, columns)


def _classes(method: pa.Array, service: pa.Array, log: pa.Array) -> pa.Array:
    is_store = pc.is_valid(by_value(service, lambda name: _STORES.get(name)))
    is_access = pc.fill_null(by_value(log, lambda name: name.endswith("data_access"), pa.bool_()), False)
    is_entity = pc.fill_null(by_value(method, _changes_entity, pa.bool_()), False)
    known = pc.if_else(
        is_entity,
        pa.scalar(schema.ENTITY_MANAGEMENT, pa.int32()),
        pc.if_else(
            pc.and_(is_store, is_access),
            pa.scalar(schema.DATASTORE_ACTIVITY, pa.int32()),
            pa.scalar(schema.API_ACTIVITY, pa.int32()),
        ),
    )
    return pc.if_else(pc.is_valid(method), known, pa.scalar(schema.BASE_EVENT, pa.int32()))


def _changes_entity(method: str) -> bool:
    """Who may do what is changed: a policy, a role, an account, a key of one."""
    last = method.rsplit(".", 1)[-1].lower()
    if last in ("setiampolicy", "setiampermissions", "setorgpolicy"):
        return True
    return method.startswith("google.iam.admin.") and mapping.verb(last_words(method)) not in (None, "read")


def last_words(method: str) -> str:
    """The last name of a method: ``CreateRole`` of ``google.iam.admin.v1.CreateRole``."""
    return method.rsplit(".", 1)[-1]


def _activities(classes: pa.Array, method: pa.Array) -> pa.Array:
    verbs = by_value(method, lambda name: mapping.verb(last_words(name)))
    plain = by_value(verbs, lambda verb: mapping.ACTIVITIES[verb], pa.int32())
    store = by_value(method, _store_activity, pa.int32())
    chosen = pc.if_else(pc.equal(classes, schema.DATASTORE_ACTIVITY), store, plain)
    return pc.if_else(pc.equal(classes, schema.BASE_EVENT), 0, pc.fill_null(chosen, mapping.OTHER))


def _store_activity(method: str) -> int:
    last = last_words(method)
    if found := _STORE_VERBS.get(last.lower()):
        return found
    if last.startswith(("List", "Query", "Execute")):
        return 8 if last.startswith("List") else 4
    return mapping.STORE_ACTIVITIES.get(mapping.verb(last) or "", mapping.OTHER)


def _user_type(principal: str) -> int:
    if principal == "system@google.com":
        return mapping.SYSTEM
    return mapping.SERVICE if principal.endswith("gserviceaccount.com") else mapping.USER


def _database_type(service: str) -> int:
    return 1 if service.startswith(_RELATIONAL) else 6


def _is(array: pa.Array, value: str) -> pa.Array:
    return pc.fill_null(pc.equal(array, value), False)
