"""Decisions of the residency policy as OCSF, column by column: of Holdfast's records there are most of these."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.audit.ocsf import schema as ocsf
from holdfast.engine.audit.sources.json_blocks import Shape, read_whole
from holdfast.engine.audit.sources.mapping import one_each, resources

FORMAT = "holdfast.decision/1"
_LINE = pa.schema(
    [
        ("format", pa.string()),
        ("id", pa.string()),
        ("at", pa.string()),
        ("seq", pa.int64()),
        ("action", pa.string()),
        ("principal", pa.struct([("service", pa.string())])),
        ("resource", pa.struct([("name", pa.string()), ("kind", pa.string())])),
        ("target", pa.struct([("site", pa.string())])),
        ("allowed", pa.bool_()),
        ("why", pa.string()),
    ]
)
#: Actions that make something at the target; the others read.
_CREATING = ("copy", "store")


def are_decisions(raw: pa.LargeBinaryArray) -> pa.BooleanArray:
    """Which records look like one; `normalise` looks closer."""
    return pc.match_substring(raw, f'"format":"{FORMAT}"')


def normalise(raw: pa.LargeBinaryArray) -> pa.Table | None:
    """One row of OCSF per decision, in order; ``None`` when one of them is not whole."""
    lines = _parsed(raw)
    if lines is None:
        return None
    allowed, name, site = lines["allowed"], lines["resource.name"], lines["target.site"]
    verdict = pc.if_else(allowed, "allowed", "denied")
    what = pc.binary_join_element_wise(lines["action"], "of", name, "at", site, "was", verdict, " ")
    return ocsf.build(
        len(raw),
        {
            "class_uid": ocsf.API_ACTIVITY,
            "activity_id": pc.if_else(pc.is_in(lines["action"], pa.array(_CREATING)), 1, 2),
            "severity_id": pc.if_else(allowed, 1, 3),
            "status_id": pc.if_else(allowed, 1, 2),
            "status_code": verdict,
            "status_detail": lines["why"],
            "time": lines["time"],
            "message": pc.binary_join_element_wise(what, lines["why"], ": "),
            "metadata.uid": lines["id"],
            "metadata.event_code": FORMAT,
            "metadata.log_name": FORMAT,
            "metadata.sequence": lines["seq"],
            "metadata.product.name": "Holdfast",
            "metadata.product.vendor_name": "Holdfast",
            "actor.app_name": "holdfast",
            "actor.invoked_by": lines["principal.service"],
            "src_endpoint.svc_name": "holdfast",
            "dst_endpoint.svc_name": site,
            "api.operation": lines["action"],
            "api.service.name": "holdfast",
            "resources": one_each(resources(name=name, type=lines["resource.kind"]), pa.repeat(True, len(raw))),
        },
    )


def _parsed(bodies: pa.LargeBinaryArray) -> dict[str, pa.Array] | None:
    block = read_whole(bodies, (Shape(_LINE),))
    if block is None:
        return None
    table = block.table.flatten().combine_chunks()
    try:
        moments = pc.cast(table["at"].combine_chunks(), pa.timestamp("us", "UTC"))
    except pa.ArrowInvalid:
        return None
    lines = {name: table[name].combine_chunks() for name in table.column_names}
    whole = all(column.null_count == 0 for column in lines.values())
    if not whole or pc.unique(lines["format"]).to_pylist() != [FORMAT]:
        return None
    return lines | {"time": pc.divide(pc.cast(moments, pa.int64()), 1000)}
