"""The Arrow schema of normalised events, and how a table of it is put together from columns.

One schema holds all classes used here, so that events of every source lie in one kind of file: API Activity (6003),
Authentication (3002), Entity Management (3004), Application Lifecycle (6002), Datastore Activity (6005) and Base Event
(0). A field that a class does not have is null. Names, types and enumerations are those of OCSF 1.8.0
(https://schema.ocsf.io/1.8.0); tests validate against the official schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

VERSION = "1.8.0"

BASE_EVENT = 0
AUTHENTICATION = 3002
ENTITY_MANAGEMENT = 3004
APPLICATION_LIFECYCLE = 6002
API_ACTIVITY = 6003
DATASTORE_ACTIVITY = 6005

_ACCOUNT = pa.struct([("uid", pa.string()), ("name", pa.string()), ("type_id", pa.int32())])
_PRODUCT = pa.struct(
    [("name", pa.string()), ("vendor_name", pa.string()), ("uid", pa.string()), ("version", pa.string())]
)
_USER = pa.struct(
    [
        ("uid", pa.string()),
        ("name", pa.string()),
        ("email_addr", pa.string()),
        ("type_id", pa.int32()),
        ("type", pa.string()),
        ("credential_uid", pa.string()),
        ("account", _ACCOUNT),
    ]
)
_ENDPOINT = pa.struct([("ip", pa.string()), ("hostname", pa.string()), ("svc_name", pa.string())])
_DATABASE = pa.struct([("uid", pa.string()), ("name", pa.string()), ("type_id", pa.int32())])
_RESOURCE = pa.struct(
    [
        ("uid", pa.string()),
        ("name", pa.string()),
        ("type", pa.string()),
        ("region", pa.string()),
        ("version", pa.string()),
    ]
)

#: Every column of a normalised event.
SCHEMA = pa.schema(
    [
        ("class_uid", pa.int32()),
        ("category_uid", pa.int32()),
        ("activity_id", pa.int32()),
        ("type_uid", pa.int64()),
        ("severity_id", pa.int32()),
        ("status_id", pa.int32()),
        ("status_code", pa.string()),
        ("status_detail", pa.string()),
        ("time", pa.int64()),  # milliseconds since 1970 UTC, `timestamp_t`
        ("message", pa.string()),
        (
            "metadata",
            pa.struct(
                [
                    ("version", pa.string()),
                    ("uid", pa.string()),
                    ("event_code", pa.string()),
                    ("log_name", pa.string()),
                    ("logged_time", pa.int64()),
                    ("correlation_uid", pa.string()),
                    ("sequence", pa.int64()),
                    ("profiles", pa.list_(pa.string())),
                    ("product", _PRODUCT),
                ]
            ),
        ),
        ("cloud", pa.struct([("provider", pa.string()), ("region", pa.string()), ("account", _ACCOUNT)])),
        (
            "actor",
            pa.struct(
                [
                    ("user", _USER),
                    ("session", pa.struct([("uid", pa.string()), ("issuer", pa.string()), ("is_mfa", pa.bool_())])),
                    ("invoked_by", pa.string()),
                    ("app_name", pa.string()),
                ]
            ),
        ),
        ("src_endpoint", _ENDPOINT),
        ("dst_endpoint", _ENDPOINT),
        (
            "http_request",
            pa.struct(
                [
                    ("user_agent", pa.string()),
                    ("http_method", pa.string()),
                    ("url", pa.struct([("url_string", pa.string()), ("path", pa.string())])),
                ]
            ),
        ),
        ("http_response", pa.struct([("code", pa.int32())])),
        (
            "api",
            pa.struct(
                [
                    ("operation", pa.string()),
                    ("version", pa.string()),
                    ("service", pa.struct([("name", pa.string())])),
                    ("request", pa.struct([("uid", pa.string())])),
                    (
                        "response",
                        pa.struct(
                            [
                                ("code", pa.int32()),
                                ("error", pa.string()),
                                ("error_message", pa.string()),
                            ]
                        ),
                    ),
                ]
            ),
        ),
        ("resources", pa.list_(_RESOURCE)),
        ("database", _DATABASE),  # of Datastore Activity, which must name it or a `databucket`
        ("user", _USER),  # of Authentication: who logs in
        ("is_mfa", pa.bool_()),
        ("entity", pa.struct([("uid", pa.string()), ("name", pa.string()), ("type", pa.string())])),
        ("app", _PRODUCT),
        (  # of Datastore Activity, which must name one; `file` is the object in it
            "databucket",
            pa.struct(
                [
                    ("uid", pa.string()),
                    ("name", pa.string()),
                    ("type_id", pa.int32()),
                    ("file", pa.struct([("name", pa.string()), ("type_id", pa.int32())])),
                ]
            ),
        ),
    ]
)


def build(length: int, columns: Mapping[str, Any]) -> pa.Table:
    """A table of `SCHEMA` from the columns that are known, named by dotted paths; all others are null.

    ``category_uid`` and ``type_uid`` follow from ``class_uid`` and ``activity_id``; ``metadata.version`` is set.

    Args:
        length: rows.
        columns: path (``actor.user.uid``) → an Arrow array of so many rows, or one value for all of them.

    Raises:
        ValueError: a path that the schema does not have, or a column of another length.
    """
    given = {"metadata.version": VERSION, "severity_id": 1, "activity_id": 0, "class_uid": BASE_EVENT, **columns}
    given.setdefault("category_uid", _categories(given["class_uid"], length))
    given.setdefault("type_uid", _types(given["class_uid"], given["activity_id"], length))
    used: set[str] = set()
    arrays = [_column(field.name, field.type, length, given, used) for field in SCHEMA]
    if unknown := set(given) - used:
        raise ValueError(f"the schema has no field {', '.join(sorted(unknown))}")
    return pa.table(arrays, schema=SCHEMA)


def _column(path: str, kind: pa.DataType, length: int, given: Mapping[str, Any], used: set[str]) -> pa.Array:
    if path in given:
        used.add(path)
        return _array(given[path], kind, length, path)
    inside = [name for name in given if name.startswith(f"{path}.")]
    if not inside or not pa.types.is_struct(kind):
        return pa.nulls(length, kind)
    children = [_column(f"{path}.{child.name}", child.type, length, given, used) for child in kind]
    return pa.StructArray.from_arrays(children, fields=list(kind))


def _array(value: Any, kind: pa.DataType, length: int, path: str) -> pa.Array:
    if isinstance(value, pa.ChunkedArray):
        value = value.combine_chunks()
    if not isinstance(value, pa.Array):
        return pa.repeat(pa.scalar(value, kind), length)
    if len(value) != length:
        raise ValueError(f"{path}: expected {length} rows; found {len(value)}")
    return value if value.type == kind else value.cast(kind)


def _categories(class_uid: Any, length: int) -> pa.Array:
    import pyarrow.compute as pc

    return pc.divide(_array(class_uid, pa.int32(), length, "class_uid"), pa.scalar(1000, pa.int32()))


def _types(class_uid: Any, activity_id: Any, length: int) -> pa.Array:
    import pyarrow.compute as pc

    classes = _array(class_uid, pa.int64(), length, "class_uid")
    return pc.add(
        pc.multiply(classes, pa.scalar(100, pa.int64())), _array(activity_id, pa.int64(), length, "activity_id")
    )


def as_event(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of a table (`Table.to_pylist`) as an OCSF event: what is null is left out."""
    event = _without_nulls(row)
    assert isinstance(event, dict)
    return event


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        found = {name: _without_nulls(inner) for name, inner in value.items()}
        return {name: inner for name, inner in found.items() if inner not in (None, {}, [])}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value
