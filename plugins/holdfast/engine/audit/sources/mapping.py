"""From columns of a cloud's records to OCSF: what the clouds share.

What is decided by a value, such as an operation's name, is decided once for each distinct value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.audit.ocsf import schema

#: What a required field says when the record does not tell.
UNKNOWN = "Unknown"
SUCCESS, FAILURE = 1, 2
USER, SYSTEM, SERVICE = 1, 3, 4  # `user.type_id`

_EMAIL = re.compile(r"^[a-zA-Z0-9!#$%&'*+/=?^_`{|}~.-]+@[a-zA-Z0-9-]+\.[a-zA-Z0-9.-]+$")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_VERBS = {
    "create": "create insert add generate upload register import put enroll provision new",
    "read": "get list query search read lookup check test export download watch describe fetch retrieve aggregated "
    "head sample count validate preview",
    "update": "update patch set modify replace change write edit rename rotate move attach detach reset assign grant "
    "revoke enable disable restore undelete apply merge",
    "delete": "delete remove destroy purge drop deletecollection",
}
_VERB_OF = {word: verb for verb, words in _VERBS.items() for word in words.split()}

#: Activities of API Activity and Entity Management.
ACTIVITIES = {"create": 1, "read": 2, "update": 3, "delete": 4}
#: Those of Datastore Activity.
STORE_ACTIVITIES = {"read": 1, "update": 2, "create": 6, "delete": 7}
OTHER = 99

#: The classes that have a part of `schema.SCHEMA` that not all of them have.
_ANY = (schema.AUTHENTICATION, schema.ENTITY_MANAGEMENT, schema.API_ACTIVITY, schema.DATASTORE_ACTIVITY)
_CLASSES_WITH: Mapping[str, tuple[int, ...]] = {
    "actor": _ANY,
    "src_endpoint": _ANY,
    "http_request": _ANY,
    "api": _ANY,
    "dst_endpoint": (schema.AUTHENTICATION, schema.API_ACTIVITY, schema.DATASTORE_ACTIVITY),
    "entity": (schema.ENTITY_MANAGEMENT,),
    "databucket": (schema.DATASTORE_ACTIVITY,),
    "database": (schema.DATASTORE_ACTIVITY,),
    "user": (schema.AUTHENTICATION,),
    "is_mfa": (schema.AUTHENTICATION,),
}


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


class Columns:
    """A table's columns; what is not there is null."""

    def __init__(self, table: pa.Table) -> None:
        self._columns = dict(zip(table.column_names, map(_one_chunk, table.columns), strict=True))
        self.length = table.num_rows

    def text(self, path: str, name: str | None = None) -> pa.Array:
        """A column of strings; see `get`."""
        return self.get(path, pa.string(), name)

    def get(self, path: str, kind: pa.DataType, name: str | None = None) -> pa.Array:
        """A column of this type.

        Args:
            path: a field, and fields in it, joined by ``/``.
            kind: its type.
            name: one more field, whose name may hold a ``/``.
        """
        first, *rest = path.split("/")
        if first not in self._columns:
            return pa.nulls(self.length, kind)
        found = self._columns[first]
        for inner in (*rest, *(() if name is None else (name,))):
            if not pa.types.is_struct(found.type) or found.type.get_field_index(inner) < 0:
                return pa.nulls(self.length, kind)
            found = pc.struct_field(found, inner)
        return found if found.type == kind else found.cast(kind)


def by_value(array: pa.Array, decide: Callable[[str], Any], kind: pa.DataType | None = None) -> pa.Array:
    """Each value's image, asked for once per distinct value; null stays null."""
    encoded = array.dictionary_encode()
    images = pa.array([decide(value) for value in encoded.dictionary.to_pylist()], kind or pa.string())
    return images.take(encoded.indices)


def first_of(*arrays: pa.Array) -> pa.Array:
    """Row by row the first that is not null."""
    return pc.coalesce(*arrays)


def milliseconds(texts: pa.Array) -> pa.Array:
    """RFC 3339 times as milliseconds since 1970; what is none is null."""
    try:
        moments = pc.cast(texts, pa.timestamp("ns", "UTC")).cast(pa.int64())
        return pc.divide(moments, pa.scalar(1_000_000, pa.int64()))
    except pa.ArrowInvalid:
        return pa.array([_millisecond(text) for text in texts.to_pylist()], pa.int64())


def _millisecond(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
        moment = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@lru_cache(maxsize=65536)
def address(text: str) -> str | None:
    """An IP address, without a port; None for what is none, such as ``private``."""
    bare = text.strip()
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        return str(ip_address(bare))
    except ValueError:
        return None


def no_address(callers: pa.Array) -> pa.Array:
    """What stands where an address should, such as ``private``; null where there is one."""
    found = by_value(callers, lambda text: None if address(text) else text or UNKNOWN)
    return pc.if_else(pc.is_null(callers), pa.scalar(UNKNOWN), found)


def only(mask: pa.Array, values: pa.Array) -> pa.Array:
    """The values where the mask is true, else null."""
    return pc.if_else(mask, values, pa.scalar(None, values.type))


def email(text: str) -> str | None:
    """The text where it is an e-mail address as OCSF has them."""
    return text if _EMAIL.match(text) else None


def verb(name: str) -> str | None:
    """``create``, ``read``, ``update`` or ``delete``, by the first word of an operation's name that says so."""
    for word in _WORDS.findall(name):
        if found := _VERB_OF.get(word.lower()):
            return found
    return None


def resources(**columns: pa.Array) -> pa.StructArray:
    """A resource for each row, with these of its fields: ``uid``, ``name``, ``type``, ``region``, ``version``."""
    fields = list(schema.SCHEMA.field("resources").type.value_type)
    length = len(next(iter(columns.values())))
    children = [columns.get(field.name, pa.nulls(length, field.type)) for field in fields]
    return pa.StructArray.from_arrays(children, fields=fields)


def one_each(values: pa.Array, has: pa.Array) -> pa.ListArray:
    """A list of one value in each row that has one, null elsewhere."""
    counts = pc.cumulative_sum(pc.cast(has, pa.int32()))
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), counts])
    return pa.ListArray.from_arrays(offsets, values.filter(has), mask=pc.invert(has))


def events(length: int, classes: pa.Array, columns: Mapping[str, Any]) -> pa.Table:
    """A table of OCSF events: each row has only the parts that its class has.

    Args:
        length: rows.
        classes: ``class_uid`` of each.
        columns: as `schema.build` takes them; an array is cut to the rows whose class has it. ``resources``, which only
            API Activity has, is given like that (`one_each`).
    """
    present = set(pc.unique(classes).to_pylist())
    cut: dict[str, Any] = {"class_uid": classes, "metadata.profiles": ["cloud"]}
    for path, column in columns.items():
        has = _CLASSES_WITH.get(path.partition(".")[0])
        if has is None or all(found in has for found in present):
            cut[path] = column
        elif any(found in has for found in present):
            cut[path] = _where(pc.is_in(classes, pa.array(has, classes.type)), column, length)
    return schema.build(length, cut)


def _where(mask: pa.Array, column: Any, length: int) -> pa.Array:
    if not isinstance(column, pa.Array):
        column = pa.repeat(pa.scalar(column), length)
    return pc.if_else(mask, column, pa.scalar(None, column.type))


def concat(tables: Iterable[pa.Table]) -> pa.Table:
    """The tables below each other; none: an empty one."""
    found = list(tables)
    return pa.concat_tables(found).combine_chunks() if found else schema.SCHEMA.empty_table()
