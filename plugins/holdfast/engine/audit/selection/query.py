"""What an auditor asks for: fields of OCSF, compared by Arrow. Nothing is ever put together to an expression's text."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from holdfast.engine.audit.ocsf.schema import SCHEMA
from holdfast.engine.snapshot.documents import Document, UtcTime
from holdfast.errors import ConfigError

_USERS = ("actor.user.name", "actor.user.uid", "actor.user.email_addr", "user.name", "user.uid", "user.email_addr")
CLASSES = {
    "base-event": 0,
    "authentication": 3002,
    "entity-management": 3004,
    "application-lifecycle": 6002,
    "api-activity": 6003,
    "datastore-activity": 6005,
}
STATUSES = {"unknown": 0, "success": 1, "failure": 2, "other": 99}


class Condition(Document):
    """A field that has a value; of a list one of its elements has it."""

    path: str
    value: str


class Query(Document):
    """Values of one field are alternatives; all fields that are named must hold."""

    start: UtcTime | None = Field(None, description="By the events' own time, inclusive.")
    end: UtcTime | None = Field(None, description="Exclusive.")
    sources: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    classes: tuple[int, ...] = ()
    statuses: tuple[int, ...] = ()
    where: tuple[Condition, ...] = ()


def make_query(
    *,
    start: Any = None,
    end: Any = None,
    sources: tuple[str, ...] = (),
    users: tuple[str, ...] = (),
    operations: tuple[str, ...] = (),
    classes: tuple[str, ...] = (),
    statuses: tuple[str, ...] = (),
    where: tuple[str, ...] = (),
) -> Query:
    """A query from what people write. Raises ConfigError: a name, a path or a value that there is not."""
    if start is not None and end is not None and end <= start:
        raise ConfigError("the window is empty", where="--to", expected=f"after {start.isoformat()}", found=str(end))
    conditions = []
    for text in where:
        path, sign, value = text.partition("=")
        if not sign:
            raise ConfigError("this is no condition", where="--where", expected="dotted.path=value", found=text[:200])
        conditions.append(Condition(path=path.strip(), value=value))
    query = Query(
        start=start,
        end=end,
        sources=sources,
        users=users,
        operations=operations,
        classes=tuple(_number(text, CLASSES, "--class") for text in classes),
        statuses=tuple(_number(text, STATUSES, "--status") for text in statuses),
        where=tuple(conditions),
    )
    matches(SCHEMA.empty_table(), query)
    return query


def _number(text: str, names: dict[str, int], where: str) -> int:
    found = names.get(text.casefold())
    if found is None and text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    if found is None:
        raise ConfigError(
            "there is no such value", where=where, expected=f"a number, or {', '.join(names)}", found=text[:200]
        )
    return found


def matches(table: pa.Table, query: Query) -> pa.Array:
    """Per event whether it is asked for; null: it lacks a field the query compares, so that cannot be said.

    Sources are not looked at: a segment has one.

    Args:
        table: of the OCSF schema.

    Raises:
        ConfigError: a path that the schema does not have, or a value its field cannot have.
    """
    masks = [
        *_time_masks(table, query),
        *([_any([_is_in(table, path, query.users) for path in _USERS])] if query.users else []),
        *([_is_in(table, "api.operation", query.operations)] if query.operations else []),
        *([_is_in(table, "class_uid", query.classes)] if query.classes else []),
        *([_is_in(table, "status_id", query.statuses)] if query.statuses else []),
        *(_holds(table, condition) for condition in query.where),
    ]
    found = pa.repeat(pa.scalar(True), table.num_rows)
    for mask in masks:
        found = pc.and_kleene(found, mask)
    return found


def undecided(table: pa.Table, mask: pa.Array) -> int:
    """How many events the query cannot be answered for: they have no time, or could not be understood (class 0).

    That an event of a class that was understood lacks a field is an answer.
    """
    unclear = pc.or_(pc.is_null(_flat(table, "time")), pc.fill_null(pc.equal(_flat(table, "class_uid"), 0), True))
    return int(pc.sum(pc.and_(pc.is_null(mask), unclear)).as_py() or 0)


def _time_masks(table: pa.Table, query: Query) -> list[pa.Array]:
    time = _flat(table, "time")
    found = []
    if query.start is not None:
        found.append(pc.greater_equal(time, pa.scalar(_milliseconds(query.start), pa.int64())))
    if query.end is not None:
        found.append(pc.less(time, pa.scalar(_milliseconds(query.end), pa.int64())))
    return found


def _milliseconds(moment: Any) -> int:
    return -(-int(moment.timestamp() * 1_000_000) // 1000)


def _any(masks: list[pa.Array]) -> pa.Array:
    found = masks[0]
    for mask in masks[1:]:
        found = pc.or_kleene(found, mask)
    return found


def _is_in(table: pa.Table, path: str, values: tuple[Any, ...]) -> pa.Array:
    column = _flat(table, path)
    found = pc.is_in(column, value_set=pa.array(values, column.type))
    return pc.if_else(pc.is_valid(column), found, pa.scalar(None, pa.bool_()))


def _holds(table: pa.Table, condition: Condition) -> pa.Array:
    name, _, rest = condition.path.partition(".")
    if name not in SCHEMA.names:
        raise _no_path(condition.path)
    return _compare(table.column(name).combine_chunks(), rest, condition)


def _compare(column: pa.Array, rest: str, condition: Condition) -> pa.Array:
    kind = column.type
    if pa.types.is_list(kind):
        hits = _compare(pc.list_flatten(column), rest, condition)
        rows = pc.filter(pc.list_parent_indices(column), pc.fill_null(hits, False))
        found = pc.is_in(pa.array(range(len(column)), pa.int64()), value_set=rows.cast(pa.int64()))
        return pc.if_else(pc.is_valid(column), found, pa.scalar(None, pa.bool_()))
    if pa.types.is_struct(kind):
        name, _, rest = rest.partition(".")
        index = kind.get_field_index(name)
        if index < 0:
            raise _no_path(condition.path)
        return _compare(pc.struct_field(column, [index]), rest, condition)
    if rest:
        raise _no_path(condition.path)
    return pc.equal(column, _scalar(condition, kind))


def _scalar(condition: Condition, kind: pa.DataType) -> pa.Scalar:
    value: Any = condition.value
    try:
        if pa.types.is_boolean(kind):
            value = {"true": True, "false": False}[value.casefold()]
        elif pa.types.is_integer(kind):
            value = int(value)
        return pa.scalar(value, kind)
    except (KeyError, ValueError, OverflowError, pa.ArrowException):
        raise ConfigError(
            "the field cannot have this value",
            where=f"--where {condition.path}"[:200],
            expected=str(kind),
            found=condition.value[:200],
        ) from None


def _no_path(path: str) -> ConfigError:
    return ConfigError(
        "events have no such field",
        where="--where",
        expected="a dotted path of the OCSF columns down to a value, e.g. api.service.name or resources.uid",
        found=path[:200],
    )


def _flat(table: pa.Table, path: str) -> pa.Array:
    name, *inside = path.split(".")
    column = table.column(name).combine_chunks()
    for part in inside:
        column = pc.struct_field(column, [column.type.get_field_index(part)])
    return column
