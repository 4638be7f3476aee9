"""CloudTrail's records as OCSF events, a block of records at a time in Arrow.

Only the fields that are used are read (`json_blocks`); all others, which may hold anything, are passed over. What
cannot be understood at all becomes a Base Event. Field names:
https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.audit.ocsf.schema import (
    API_ACTIVITY,
    AUTHENTICATION,
    BASE_EVENT,
    DATASTORE_ACTIVITY,
    ENTITY_MANAGEMENT,
    SCHEMA,
    build,
)
from holdfast.engine.audit.sources.cloudtrail_classes import kind_of
from holdfast.engine.audit.sources.json_blocks import parse_all
from holdfast.engine.audit.sources.mapping import only, resources

_TEXT = pa.string()
#: Else it is a service's name (``cloudformation.amazonaws.com``) or ``AWS Internal``.
_IP = r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)$"

_FIELDS = pa.schema(
    [
        *[
            (name, _TEXT)
            for name in (
                "eventVersion",
                "eventTime",
                "eventSource",
                "eventName",
                "awsRegion",
                "sourceIPAddress",
                "userAgent",
                "errorCode",
                "errorMessage",
                "requestID",
                "eventID",
                "eventType",
                "eventCategory",
                "recipientAccountId",
            )
        ],
        ("readOnly", pa.bool_()),
        (
            "userIdentity",
            pa.struct(
                [
                    *[
                        (name, _TEXT)
                        for name in (
                            "type",
                            "principalId",
                            "arn",
                            "accountId",
                            "accessKeyId",
                            "userName",
                            "invokedBy",
                        )
                    ],
                    (
                        "sessionContext",
                        pa.struct(
                            [
                                ("sessionIssuer", pa.struct([("arn", _TEXT), ("userName", _TEXT)])),
                                ("attributes", pa.struct([("mfaAuthenticated", _TEXT)])),
                            ]
                        ),
                    ),
                ]
            ),
        ),
        # Only names that are text in the services they are used of: `key` is an object with DynamoDB.
        (
            "requestParameters",
            pa.struct([(name, _TEXT) for name in ("bucketName", "userName", "roleName", "groupName", "policyArn")]),
        ),
        ("additionalEventData", pa.struct([("MFAUsed", _TEXT)])),
        ("resources", pa.list_(pa.struct([("ARN", _TEXT), ("type", _TEXT)]))),
    ]
)


def normalise(raw: pa.LargeBinaryArray) -> pa.Table:
    """One row of OCSF for each record, in order. See `AuditSource.normalise`."""
    return _events(parse_all(raw, _FIELDS)) if len(raw) else SCHEMA.empty_table()


class _Columns:
    """The columns of a parsed block by dotted path."""

    def __init__(self, table: pa.Table) -> None:
        self.length = table.num_rows
        self._arrays: dict[str, pa.Array] = {}
        for name in table.column_names:
            column = table.column(name)
            self._add(name, column.chunk(0) if column.num_chunks else pa.nulls(0, column.type))

    def _add(self, path: str, array: pa.Array) -> None:
        self._arrays[path] = array
        if pa.types.is_struct(array.type):
            # `flatten` puts the struct's own nulls into its children.
            for inner, child in zip(array.type, array.flatten(), strict=True):
                self._add(f"{path}.{inner.name}", child)

    def __getitem__(self, path: str) -> pa.Array:
        return self._arrays[path]


def _events(table: pa.Table) -> pa.Table:
    columns = _Columns(table)
    time = _time(columns["eventTime"])
    classes, activities, entities = _kinds(columns, time)
    is_of = {
        uid: pc.equal(classes, pa.scalar(uid, pa.int32()))
        for uid in (BASE_EVENT, AUTHENTICATION, ENTITY_MANAGEMENT, API_ACTIVITY, DATASTORE_ACTIVITY)
    }
    known = pc.invert(is_of[BASE_EVENT])
    with_target = pc.or_(is_of[AUTHENTICATION], pc.or_(is_of[API_ACTIVITY], is_of[DATASTORE_ACTIVITY]))
    failed = pc.or_(pc.is_valid(columns["errorCode"]), pc.is_valid(columns["errorMessage"]))
    mfa = _mfa(columns)
    user = _user(columns)
    address = columns["sourceIPAddress"]
    is_ip = _is_ip(address)
    operation = pc.coalesce(columns["eventName"], columns["eventType"])
    given: dict[str, Any] = {
        "class_uid": classes,
        "activity_id": activities,
        "status_id": _status(failed, operation),
        "status_code": columns["errorCode"],
        "status_detail": columns["errorMessage"],
        "time": pc.fill_null(time, 0),
        "metadata.uid": columns["eventID"],
        "metadata.event_code": columns["eventType"],
        "metadata.log_name": "CloudTrail",
        "metadata.profiles": ["cloud"],
        "metadata.product.name": "CloudTrail",
        "metadata.product.vendor_name": "AWS",
        "metadata.product.version": columns["eventVersion"],
        "cloud.provider": "AWS",
        "cloud.region": columns["awsRegion"],
        "cloud.account.uid": columns["recipientAccountId"],
        "cloud.account.type_id": _where(pc.is_valid(columns["recipientAccountId"]), 10),
        **{f"actor.user.{name}": only(known, array) for name, array in user.items()},
        "actor.session.issuer": only(known, columns["userIdentity.sessionContext.sessionIssuer.arn"]),
        "actor.session.is_mfa": only(known, _mfa_of_session(columns)),
        "actor.invoked_by": only(known, columns["userIdentity.invokedBy"]),
        "src_endpoint.ip": only(pc.and_(known, is_ip), address),
        "src_endpoint.svc_name": only(pc.and_(known, pc.invert(is_ip)), address),
        "dst_endpoint.svc_name": only(with_target, columns["eventSource"]),
        "http_request.user_agent": only(known, columns["userAgent"]),
        "api.operation": operation,
        "api.service.name": only(pc.is_valid(operation), columns["eventSource"]),
        "api.request.uid": only(pc.is_valid(operation), columns["requestID"]),
        "api.response.error": only(pc.is_valid(operation), columns["errorCode"]),
        "api.response.error_message": only(pc.is_valid(operation), columns["errorMessage"]),
        "resources": _resources(columns["resources"], is_of[API_ACTIVITY]),
        **{f"user.{name}": only(is_of[AUTHENTICATION], array) for name, array in user.items()},
        "user.name": only(is_of[AUTHENTICATION], pc.coalesce(user["name"], columns["userIdentity.invokedBy"])),
        "is_mfa": only(is_of[AUTHENTICATION], mfa),
        "entity.name": only(is_of[ENTITY_MANAGEMENT], _entity_name(columns)),
        "entity.type": entities,
        "databucket.name": only(is_of[DATASTORE_ACTIVITY], columns["requestParameters.bucketName"]),
        "databucket.type_id": _where(is_of[DATASTORE_ACTIVITY], 1),
        **_objects(columns["resources"], is_of[DATASTORE_ACTIVITY]),
    }
    return build(columns.length, given)


def _status(failed: pa.Array, operation: pa.Array) -> pa.Array:
    """Failure, success, or unknown where nothing is known of the event."""
    succeeded = _where(pc.is_valid(operation), 1)
    return pc.if_else(failed, pa.scalar(2, pa.int32()), pc.fill_null(succeeded, 0))


def _kinds(columns: _Columns, time: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Class, activity and kind of entity, looked up once for each combination of service, name and category."""
    keys = pa.table(
        {
            "source": columns["eventSource"],
            "name": columns["eventName"],
            "is_data": pc.fill_null(pc.equal(columns["eventCategory"], "Data"), False),
            "is_read": columns["readOnly"],
            "has_bucket": pc.is_valid(columns["requestParameters.bucketName"]),
            "has_source": pc.is_valid(columns["sourceIPAddress"]),
            "has_actor": _has_actor(columns),
            "has_time": pc.is_valid(time),
        }
    )
    text = pc.binary_join_element_wise(
        *[pc.fill_null(pc.cast(keys[name], _TEXT), "") for name in keys.column_names], "\x1f"
    )
    encoded = text.combine_chunks().dictionary_encode()
    firsts = pc.index_in(pa.array(range(len(encoded.dictionary)), encoded.indices.type), encoded.indices)
    found = [_kind(**row) for row in keys.take(firsts).to_pylist()]
    by_number = pa.table(
        {
            "class": pa.array([kind[0] for kind in found], pa.int32()),
            "activity": pa.array([kind[1] for kind in found], pa.int32()),
            "entity": pa.array([kind[2] for kind in found], _TEXT),
        }
    ).take(encoded.indices)
    return tuple(column.combine_chunks() for column in by_number.columns)


def _kind(
    *,
    source: str | None,
    name: str | None,
    is_data: bool,
    is_read: bool | None,
    has_bucket: bool,
    has_source: bool,
    has_actor: bool,
    has_time: bool,
) -> tuple[int, int, str | None]:
    """A class whose required parts the event has; else Base Event."""
    if not source or not name or not has_actor or not has_source or not has_time:
        return BASE_EVENT, 0, None
    kind = kind_of(source, name, is_data=is_data and has_bucket, is_read=is_read)
    return kind.class_uid, kind.activity_id, kind.entity


def _has_actor(columns: _Columns) -> pa.Array:
    found = None
    for name in ("principalId", "accountId", "userName", "arn", "invokedBy"):
        there = pc.is_valid(columns[f"userIdentity.{name}"])
        found = there if found is None else pc.or_(found, there)
    return found


def _user(columns: _Columns) -> dict[str, pa.Array]:
    """Who did it; all null where there is neither name nor id, e.g. where a service acts by itself."""
    identity = "userIdentity."
    uid = pc.coalesce(columns[identity + "principalId"], columns[identity + "arn"])
    name = pc.coalesce(columns[identity + "userName"], columns[identity + "sessionContext.sessionIssuer.userName"])
    account = columns[identity + "accountId"]
    named = pc.or_(pc.or_(pc.is_valid(uid), pc.is_valid(name)), pc.is_valid(account))
    kind = columns[identity + "type"]
    type_id = pc.case_when(
        pc.make_struct(
            pc.fill_null(pc.equal(kind, "IAMUser"), False),
            pc.fill_null(pc.equal(kind, "Root"), False),
            pc.fill_null(pc.equal(kind, "AWSService"), False),
            pc.is_valid(kind),
        ),
        pa.scalar(1, pa.int32()),
        pa.scalar(2, pa.int32()),
        pa.scalar(4, pa.int32()),
        pa.scalar(99, pa.int32()),
        pa.scalar(0, pa.int32()),
    )
    return {
        "uid": uid,
        "name": name,
        "type": only(named, kind),
        "type_id": only(named, type_id),
        "credential_uid": only(named, columns[identity + "accessKeyId"]),
        "account.uid": account,
        "account.type_id": _where(pc.is_valid(account), 10),
    }


def _mfa_of_session(columns: _Columns) -> pa.Array:
    return pc.equal(columns["userIdentity.sessionContext.attributes.mfaAuthenticated"], "true")


def _mfa(columns: _Columns) -> pa.Array:
    return pc.coalesce(pc.equal(columns["additionalEventData.MFAUsed"], "Yes"), _mfa_of_session(columns))


def _entity_name(columns: _Columns) -> pa.Array:
    parameters = [columns[f"requestParameters.{name}"] for name in ("userName", "roleName", "groupName", "policyArn")]
    # Without a name in the request, as for one's own key, it is the caller's.
    return pc.coalesce(*parameters, columns["userIdentity.userName"], columns["userIdentity.arn"], columns["eventName"])


def _time(text: pa.Array) -> pa.Array:
    return pc.cast(pc.strptime(text, format="%Y-%m-%dT%H:%M:%SZ", unit="ms", error_is_null=True), pa.int64())


def _is_ip(address: pa.Array) -> pa.Array:
    return pc.fill_null(pc.match_substring_regex(address, _IP), False)


def _resources(found: pa.ListArray, wanted: pa.Array) -> pa.Array:
    """ARN and type of each, of the events of one class; those without an ARN cannot be named."""
    kind = SCHEMA.field("resources").type
    indices, values = pc.list_parent_indices(found), pc.list_flatten(found)
    arn, named = values.field("ARN"), values.field("type")
    keep = pc.and_(pc.take(wanted, indices), pc.is_valid(arn))
    if not pc.any(keep).as_py():
        return pa.nulls(len(found), kind)
    # How many are kept of all before each, and at which of them each row's begin.
    kept = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(pc.cast(keep, pa.int32()))])
    ends = pc.cumulative_sum(pc.fill_null(pc.list_value_length(found), 0))
    offsets = kept.take(pa.concat_arrays([pa.array([0], ends.type), ends]))
    return pa.ListArray.from_arrays(offsets, resources(uid=arn.filter(keep), type=named.filter(keep)), type=kind)


def _objects(found: pa.ListArray, wanted: pa.Array) -> dict[str, pa.Array]:
    """The object of the bucket that a data event is about."""
    indices, values = pc.list_parent_indices(found), pc.list_flatten(found)
    arn = values.field("ARN")
    keep = pc.and_(
        pc.take(wanted, indices),
        pc.fill_null(pc.and_(pc.equal(values.field("type"), "AWS::S3::Object"), pc.is_valid(arn)), False),
    )
    positions = pc.index_in(pa.array(range(len(found)), pa.int64()), pc.cast(indices.filter(keep), pa.int64()))
    names = arn.filter(keep).take(positions)
    return {"databucket.file.name": names, "databucket.file.type_id": _where(pc.is_valid(names), 1)}


def _where(where: pa.Array, number: int) -> pa.Array:
    return pc.if_else(where, pa.scalar(number, pa.int32()), pa.scalar(None, pa.int32()))
