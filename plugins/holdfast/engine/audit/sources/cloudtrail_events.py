"""CloudTrail's records as OCSF events, a block of records at a time in Arrow.

A block is parsed by `pyarrow.json` with a schema of just the fields that are used; all others, which may hold anything,
are passed over. A block with a record that breaks this (a field of another type, a key twice, no JSON) is gone through
record by record, and what cannot be understood at all becomes a Base Event. Field names:
https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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

_BLOCK_BYTES = 4 * 1024 * 1024
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
    if len(raw) == 0:
        return SCHEMA.empty_table()
    return _events(pa.concat_tables([_parsed(block) for block in _blocks(raw)]).combine_chunks())


def _blocks(raw: pa.LargeBinaryArray) -> Iterator[pa.LargeBinaryArray]:
    per_record = max(1, raw.nbytes // len(raw))
    step = max(1, _BLOCK_BYTES // per_record)
    for start in range(0, len(raw), step):
        yield raw.slice(start, step)


def _parsed(block: pa.LargeBinaryArray) -> pa.Table:
    return _at_once(block) or _one_by_one(block)


def _at_once(block: pa.LargeBinaryArray) -> pa.Table | None:
    """The fields of a block by Arrow's own parser; ``None`` where it does not take it, or not one row a record."""
    from pyarrow.json import ParseOptions, ReadOptions, read_json

    # Rows must not move between records. Between braces that end one record and begin the next there is a line end,
    # which no string goes across: so each record gives one row at least, and as many rows as records are one each.
    if block.null_count or not _is_all(pc.starts_with(block, b"{")) or not _is_all(pc.ends_with(block, b"}")):
        return None
    text = b"\n".join(block.to_pylist())
    if text.count(b"\n") != len(block) - 1 or b"\r" in text:
        # Pretty-printed: between values a blank does as well, and inside a string there is no raw line end.
        text = b"\n".join(record.replace(b"\n", b" ").replace(b"\r", b" ") for record in block.to_pylist())
    try:
        table = read_json(
            pa.BufferReader(text),
            read_options=ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=ParseOptions(explicit_schema=_FIELDS, unexpected_field_behavior="ignore"),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError):
        return None
    if table.num_rows != len(block):
        return None
    try:
        table.validate(full=True)  # text that is no UTF-8 came through so far
    except pa.ArrowInvalid:
        return None
    return table


def _is_all(found: pa.Array) -> bool:
    return bool(pc.all(found).as_py())


def _one_by_one(block: pa.LargeBinaryArray) -> pa.Table:
    rows = [_row(record) for record in block.to_pylist()]
    return pa.Table.from_pylist(rows, schema=_FIELDS)


def _row(record: bytes | None) -> dict[str, Any]:
    """The fields of one record as far as they are what they should be."""
    try:
        found = json.loads(record or b"")
    except (ValueError, RecursionError):
        return {}
    fitted = _fitting(found, pa.struct(list(_FIELDS)))
    return fitted if isinstance(fitted, dict) else {}


def _fitting(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_struct(kind):
        if not isinstance(value, dict):
            return None
        return {inner.name: _fitting(value.get(inner.name), inner.type) for inner in kind}
    if pa.types.is_list(kind):
        return [_fitting(item, kind.value_type) for item in value] if isinstance(value, list) else None
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    return _as_text(value)


def _as_text(value: Any) -> str | None:
    """Text, without what UTF-8 cannot hold (half of a surrogate pair, written ``\\ud800``)."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    return json.dumps(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


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
        "metadata.profiles": _profiles(columns.length),
        "metadata.product.name": "CloudTrail",
        "metadata.product.vendor_name": "AWS",
        "metadata.product.version": columns["eventVersion"],
        "cloud.provider": "AWS",
        "cloud.region": columns["awsRegion"],
        "cloud.account.uid": columns["recipientAccountId"],
        "cloud.account.type_id": _where(pc.is_valid(columns["recipientAccountId"]), 10),
        **{f"actor.user.{name}": _only(known, array) for name, array in user.items()},
        "actor.session.issuer": _only(known, columns["userIdentity.sessionContext.sessionIssuer.arn"]),
        "actor.session.is_mfa": _only(known, _mfa_of_session(columns)),
        "actor.invoked_by": _only(known, columns["userIdentity.invokedBy"]),
        "src_endpoint.ip": _only(pc.and_(known, is_ip), address),
        "src_endpoint.svc_name": _only(pc.and_(known, pc.invert(is_ip)), address),
        "dst_endpoint.svc_name": _only(with_target, columns["eventSource"]),
        "http_request.user_agent": _only(known, columns["userAgent"]),
        "api.operation": operation,
        "api.service.name": _only(pc.is_valid(operation), columns["eventSource"]),
        "api.request.uid": _only(pc.is_valid(operation), columns["requestID"]),
        "api.response.error": _only(pc.is_valid(operation), columns["errorCode"]),
        "api.response.error_message": _only(pc.is_valid(operation), columns["errorMessage"]),
        "resources": _resources(columns["resources"], is_of[API_ACTIVITY]),
        **{f"user.{name}": _only(is_of[AUTHENTICATION], array) for name, array in user.items()},
        "user.name": _only(is_of[AUTHENTICATION], pc.coalesce(user["name"], columns["userIdentity.invokedBy"])),
        "is_mfa": _only(is_of[AUTHENTICATION], mfa),
        "entity.name": _only(is_of[ENTITY_MANAGEMENT], _entity_name(columns)),
        "entity.type": entities,
        "databucket.name": _only(is_of[DATASTORE_ACTIVITY], columns["requestParameters.bucketName"]),
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
        "type": _only(named, kind),
        "type_id": _only(named, type_id),
        "credential_uid": _only(named, columns[identity + "accessKeyId"]),
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
    indices, arn, named = indices.filter(keep), arn.filter(keep), named.filter(keep)
    counts = pc.value_counts(indices)
    sizes = [0] * len(found)
    for item in counts.to_pylist():
        sizes[item["values"]] = item["counts"]
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + size)
    nothing = pa.nulls(len(arn), _TEXT)
    by_name = {"uid": arn, "type": named}
    items = pa.StructArray.from_arrays(
        [by_name.get(inner.name, nothing) for inner in kind.value_type], fields=list(kind.value_type)
    )
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items, type=kind)


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


def _profiles(length: int) -> pa.ListArray:
    offsets = pa.array(range(length + 1), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.repeat(pa.scalar("cloud"), length))


def _only(where: pa.Array, array: pa.Array) -> pa.Array:
    return pc.if_else(where, array, pa.scalar(None, array.type))


def _where(where: pa.Array, number: int) -> pa.Array:
    return pc.if_else(where, pa.scalar(number, pa.int32()), pa.scalar(None, pa.int32()))
