"""Airflow's audit rows as OCSF, column by column.

What a row's event name means is looked up once per distinct name: Entity Management for connections, variables, pools
and users, Application Lifecycle for DAGs, their runs and tasks and Airflow's own processes, API Activity for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.audit.ocsf import schema as ocsf
from holdfast.engine.audit.sources.json_blocks import parse_all
from holdfast.engine.audit.sources.mapping import milliseconds, one_each, resources

#: The members of a row that are used, as pyarrow reads them.
_ROW = pa.schema(
    [
        ("event_log_id", pa.int64()),
        ("when", pa.string()),
        ("dag_id", pa.string()),
        ("task_id", pa.string()),
        ("run_id", pa.string()),
        ("event", pa.string()),
        ("owner", pa.string()),
        ("extra", pa.string()),
    ]
)
_CRUD = {"post": 1, "create": 1, "add": 1, "import": 1, "set": 3, "patch": 3, "update": 3, "bulk": 99, "delete": 4}
_LIFE = ocsf.APPLICATION_LIFECYCLE
_METHODS = {"POST": 1, "GET": 2, "PATCH": 3, "PUT": 3, "DELETE": 4}
#: The last names of what Entity Management is about, in names of API events and of commands.
_ENTITIES = {"connection": "connection", "variable": "variable", "pool": "pool", "user": "user", "team": "team"}
#: Application Lifecycle: what starts, stops, goes, comes and is switched.
_LIFECYCLE = {
    "trigger_dag_run": 3, "cli_dag_trigger": 3, "cli_dag_test": 3, "cli_task_test": 3, "running": 3,
    "materialize_asset": 3, "create_backfill": 3, "cli_create_backfill": 3, "unpause_backfill": 3,
    "success": 4, "failed": 4, "skipped": 4, "upstream_failed": 4, "removed": 4, "fail task": 4, "skip task": 4,
    "heartbeat timeout": 4, "stuck in queued tries exceeded": 4, "cancel_backfill": 4, "pause_backfill": 4,
    "clear_dag_run": 5, "clear_dag_runs": 5, "clear_dag_run_partitions": 5, "post_clear_task_instances": 5,
    "cli_dag_clear": 5, "cli_task_clear": 5, "up_for_retry": 5, "restarting": 5, "stuck in queued reschedule": 5,
    "cli_dag_unpause": 6, "cli_dag_pause": 7, "paused": 7,
    "delete_dag": 2, "cli_dag_delete": 2, "delete_dag_run": 2,
    "patch_dag": 8, "patch_dags": 8, "patch_dag_run": 8, "bulk_dag_runs": 8, "patch_task_instance": 8,
    "patch_task_group_instances": 8, "reparse_dag_file": 8, "cli_dag_reserialize": 8, "cli_migratedb": 8,
    "cli_downgrade": 8, "deferred": 99, "up_for_reschedule": 99, "awaiting_input": 99, "queued": 99, "scheduled": 99,
    "state mismatch": 99, "cli_scheduler": 3, "cli_triggerer": 3, "cli_dag_processor": 3, "cli_api_server": 3,
}  # fmt: skip
#: States of tasks and messages of the scheduler that tell of a failure.
_FAILED = frozenset(
    {"failed", "upstream_failed", "fail task", "heartbeat timeout", "state mismatch", "stuck in queued tries exceeded"}
)


@dataclass(frozen=True, slots=True)
class _Meaning:
    class_uid: int
    activity_id: int
    entity: str | None = None
    failed: bool = False
    #: Whether ``is_paused`` in the row says enable or disable.
    switches: bool = False


def meaning_of(event: str) -> _Meaning:
    """What an event name of Airflow means in OCSF; API Activity where nothing else fits."""
    if event in _LIFECYCLE:
        return _Meaning(
            ocsf.APPLICATION_LIFECYCLE, _LIFECYCLE[event], None, event in _FAILED, event in ("patch_dag", "patch_dags")
        )
    words = event.removeprefix("cli_").split("_")
    entity = next((_ENTITIES[word.removesuffix("s")] for word in words if word.removesuffix("s") in _ENTITIES), None)
    verb = next((_CRUD[word] for word in words if word in _CRUD), None)
    if entity is not None and verb is not None:
        return _Meaning(ocsf.ENTITY_MANAGEMENT, verb, entity)
    return _Meaning(ocsf.API_ACTIVITY, verb if verb is not None else 99)


def normalise(raw: pa.LargeBinaryArray) -> pa.Table:
    """One row of OCSF per record, in order; what is no row of the audit log becomes Base Event.

    A record without a time gets 0, the beginning of 1970, since OCSF wants one.
    """
    table = parse_all(raw, _ROW)
    rows = {name: table[name].combine_chunks() for name in table.column_names}
    known = pc.and_(pc.is_valid(rows["event"]), pc.is_valid(rows["event_log_id"]))
    columns = _Columns(rows, known)
    entity, lifecycle, api = map(
        columns.of_class, (ocsf.ENTITY_MANAGEMENT, ocsf.APPLICATION_LIFECYCLE, ocsf.API_ACTIVITY)
    )
    owner, path = rows["owner"], _path(rows)
    return ocsf.build(
        len(raw),
        {
            "class_uid": columns.class_uid,
            "activity_id": pc.if_else(known, columns.activity(), 0),
            "severity_id": pc.if_else(columns.failed, 3, 1),
            "status_id": pc.if_else(columns.failed, pa.scalar(2), pa.scalar(None, pa.int64())),
            "time": pc.fill_null(milliseconds(rows["when"]), 0),
            "message": pc.if_else(known, _message(rows, path), None),
            "metadata.uid": pc.binary_join_element_wise("eventLogs", rows["event_log_id"].cast(pa.string()), "/"),
            "metadata.event_code": rows["event"],
            "metadata.log_name": "eventLogs",
            "metadata.sequence": rows["event_log_id"],
            "metadata.correlation_uid": rows["run_id"],
            "metadata.profiles": one_each(pa.repeat("host", len(raw)), pc.and_(lifecycle, pc.is_valid(owner))),
            "metadata.product.name": "Airflow",
            "metadata.product.vendor_name": "Apache Software Foundation",
            "actor.user.name": pc.if_else(pc.or_(pc.or_(entity, api), lifecycle), owner, None),
            "actor.app_name": pc.if_else(pc.or_(entity, api), "airflow", None),
            "src_endpoint.hostname": pc.if_else(api, columns.host, None),
            "src_endpoint.svc_name": pc.if_else(api, "airflow", None),
            "api.operation": pc.if_else(api, rows["event"], None),
            "api.service.name": pc.if_else(api, "airflow", None),
            "http_request.http_method": pc.if_else(api, columns.method, None),
            "resources": _resources(rows, api),
            "entity.type": pc.if_else(entity, columns.entity, None),
            "entity.name": pc.if_else(entity, pc.coalesce(columns.entity_name(), columns.entity), None),
            "app.name": pc.if_else(lifecycle, pc.coalesce(rows["dag_id"], "airflow"), None),
            "app.uid": pc.if_else(lifecycle, path, None),
        },
    )


class _Columns:
    """What follows from the events' names and their ``extra``."""

    def __init__(self, rows: Mapping[str, pa.Array], known: pa.Array) -> None:
        self._rows, self._known = rows, known
        self._names = pc.dictionary_encode(pc.fill_null(rows["event"], ""))
        self._meanings = [meaning_of(name) for name in self._names.dictionary.to_pylist()]
        self._class = self._by_name([one.class_uid for one in self._meanings], pa.int32())
        # Of the others, which are most, `extra` says nothing that is used.
        told = self._by_name([one.class_uid != _LIFE or one.switches for one in self._meanings], pa.bool_())
        self._extra = pc.if_else(told, rows["extra"], None)
        self.class_uid = pc.if_else(known, self._class, ocsf.BASE_EVENT)
        self.failed = pc.and_(self._by_name([one.failed for one in self._meanings], pa.bool_()), known)
        self.entity = self._by_name([one.entity for one in self._meanings], pa.string())
        self.method = self._found(r'"method": "(?P<found>[A-Z]{3,7})"')
        self.host = self._found(r'"host_name": "(?P<found>[^"\\]{1,255})"')

    def _by_name(self, values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind).take(self._names.indices)

    def _found(self, pattern: str) -> pa.Array:
        return pc.struct_field(pc.extract_regex(self._extra, pattern), "found")

    def of_class(self, class_uid: int) -> pa.Array:
        """Which rows are of this class."""
        return pc.equal(self.class_uid, class_uid)

    def activity(self) -> pa.Array:
        """By the name; a DAG that is switched by what it was switched to; else a call of the API by its method."""
        named = self._by_name([one.activity_id for one in self._meanings], pa.int32())
        switches = self._by_name([one.switches for one in self._meanings], pa.bool_())
        paused = self._found(r'"is_paused": "?(?P<found>[Tt]rue|[Ff]alse)')
        switched = pc.if_else(pc.match_substring(paused, "rue"), 7, 6).cast(pa.int32())
        named = pc.if_else(pc.and_(switches, pc.is_valid(paused)), switched, named)
        open_ = pc.and_(pc.equal(self._class, ocsf.API_ACTIVITY), pc.equal(named, 99))
        methods = pa.array(list(_METHODS))
        by_method = pa.array(list(_METHODS.values()), pa.int32()).take(pc.index_in(self.method, methods))
        return pc.if_else(open_, pc.fill_null(by_method, 99), named)

    def entity_name(self) -> pa.Array:
        """The connection, variable, pool or user; its id is what Airflow does not mask. Null: several, or not told."""
        return self._found(
            r'"(?:connection_id|conn_id|variable_key|key|pool_name|name|username)": "(?P<found>[^"\\]{1,250})"'
        )


def _path(rows: Mapping[str, pa.Array]) -> pa.Array:
    """``dag/run/task``, as far as the row says."""
    # Arrow 26 drops a row whose texts are all null where nulls are skipped: the first one never is.
    joined = pc.binary_join_element_wise("", rows["dag_id"], rows["run_id"], rows["task_id"], "/", null_handling="skip")
    return pc.ascii_ltrim(joined, "/")


def _message(rows: Mapping[str, pa.Array], path: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(path, ""), rows["event"], pc.binary_join_element_wise(rows["event"], path, " "))


def _resources(rows: Mapping[str, pa.Array], where: pa.Array) -> pa.Array:
    """The DAG an API call is about, as a list of one; null elsewhere."""
    names = rows["dag_id"]
    return one_each(resources(name=names, type=pa.repeat("dag", len(names))), pc.and_(where, pc.is_valid(names)))
