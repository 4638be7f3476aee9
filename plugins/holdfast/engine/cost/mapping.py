"""Whose a line of a bill is: its site, group, role, dataset and drill, and by what that is known.

Tags first, then the topology's rules, then the name of a site's bucket. What none of them says stays unmapped, and is
reported with its sum: it may be standby cost that nobody tagged. Nothing is divided between groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.engine.config import Topology
from holdfast.engine.config.cost import Cost, CostRule
from holdfast.engine.cost.tags import tag_values

SITE, GROUP, ROLE, TIER = "x_HoldfastSite", "x_HoldfastGroup", "x_HoldfastRole", "x_HoldfastTier"
DATASET, DRILL, BY = "x_HoldfastDataset", "x_HoldfastDrill", "x_HoldfastMappedBy"
MAPPED = (SITE, GROUP, ROLE, TIER, DATASET, DRILL, BY)
STANDBY_ROLES = ("standby", "witness")
#: Of a bucket that groups share: its role where they agree.
SHARED = "shared"
_NULL = pa.scalar(None, pa.string())


@dataclass(frozen=True)
class Mapped:
    """The lines with the columns `MAPPED`, and what of their tags is not of this topology."""

    lines: pa.Table
    notes: tuple[str, ...] = ()


def map_lines(lines: pa.Table, topology: Topology, cost: Cost) -> Mapped:
    """Adds the columns `MAPPED`."""
    notes: list[str] = []
    tags = {
        "group": _known(tag_values(lines["Tags"], cost.tags.group), topology.groups, "group", notes),
        "role": _known(_lower(tag_values(lines["Tags"], cost.tags.role)), ("active", *STANDBY_ROLES), "role", notes),
        "site": _known(tag_values(lines["Tags"], cost.tags.site), topology.sites, "site", notes),
    }
    rules = _by_rules(lines, cost.rules)
    buckets = _by_buckets(lines, topology, cost)
    group = pc.coalesce(tags["group"], rules["group"], buckets["group"])
    site = pc.coalesce(tags["site"], rules["site"], buckets["site"], _by_region(lines, topology, cost))
    role = pc.coalesce(tags["role"], rules["role"], _roles_of(topology, group, site), buckets["role"])
    by = pc.coalesce(
        _where(pc.or_(pc.is_valid(tags["group"]), pc.is_valid(tags["role"])), "tag"),
        _where(pc.is_valid(rules["group"]), "rule"),
        _where(pc.is_valid(buckets["site"]), "bucket"),
    )
    found = {
        SITE: site,
        GROUP: group,
        ROLE: role,
        TIER: _mapped(group, {name: str(one.tier) for name, one in topology.groups.items()}),
        DATASET: tag_values(lines["Tags"], cost.tags.dataset),
        DRILL: tag_values(lines["Tags"], cost.tags.drill),
        BY: by,
    }
    for name in MAPPED:
        lines = lines.append_column(pa.field(name, pa.string()), found[name])
    return Mapped(lines, tuple(notes))


def _lower(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_lower(values)


def _where(condition: pa.ChunkedArray, value: str) -> pa.ChunkedArray:
    return pc.if_else(condition, pa.scalar(value), _NULL)


def _known(values: pa.ChunkedArray, known: object, kind: str, notes: list[str]) -> pa.ChunkedArray:
    names = pa.array(sorted(known), pa.string())  # type: ignore[call-overload]
    is_known = pc.is_in(values, names)
    strange = pc.unique(values.filter(pc.and_(pc.is_valid(values), pc.invert(is_known)))).to_pylist()
    if strange:
        told = ", ".join(repr(one[:60]) for one in strange[:5])
        notes.append(f"the tag of the {kind} names what the topology does not have: {told}")
    return pc.if_else(is_known, values, _NULL)


def _mapped(values: pa.ChunkedArray, names: Mapping[str, str]) -> pa.ChunkedArray:
    at = pc.index_in(values, pa.array(list(names), pa.string()))
    return pc.take(pa.array(list(names.values()), pa.string()), at)


def _by_rules(lines: pa.Table, rules: tuple[CostRule, ...]) -> dict[str, pa.ChunkedArray]:
    nothing = pa.chunked_array([pa.nulls(lines.num_rows, pa.string())])
    found = dict.fromkeys(("group", "role", "site"), nothing)
    free = pa.chunked_array([pa.repeat(pa.scalar(True), lines.num_rows)])
    for rule in rules:
        hit = free
        for column, wanted in (
            ("SubAccountId", rule.sub_account),
            ("ServiceName", rule.service),
            ("RegionId", rule.region),
        ):
            if wanted is not None:
                hit = pc.and_(hit, pc.fill_null(pc.equal(lines[column], wanted), False))
        if rule.resource is not None:
            named = [pc.fill_null(pc.equal(lines[one], rule.resource), False) for one in ("ResourceId", "ResourceName")]
            hit = pc.and_(hit, pc.or_(*named))
        for name, value in (("group", rule.group), ("role", rule.role), ("site", rule.site)):
            if value is not None:
                found[name] = pc.if_else(hit, pa.scalar(value), found[name])
        free = pc.and_(free, pc.invert(hit))
    return found


def _by_buckets(lines: pa.Table, topology: Topology, cost: Cost) -> dict[str, pa.ChunkedArray]:
    nothing = pa.chunked_array([pa.nulls(lines.num_rows, pa.string())])
    found = dict.fromkeys(("group", "role", "site"), nothing)
    clouds = {name: topology.sites[export.site].cloud for name, export in cost.exports.items()}
    for name, site in topology.sites.items():
        exports = pa.array([export for export, cloud in clouds.items() if cloud == site.cloud], pa.string())
        if not len(exports):
            continue
        # A bucket is a resource of its own: by its name, or at the end of an ARN or a full resource name.
        pattern = rf"(^|[:/]){_escaped(site.bucket.strip('/'))}$"
        named = [pc.match_substring_regex(lines[one], pattern) for one in ("ResourceId", "ResourceName")]
        hit = pc.and_(pc.is_in(lines["x_Export"], exports), pc.or_(*(pc.fill_null(one, False) for one in named)))
        groups = [group for group, settings in topology.groups.items() if name in settings.sites.all()]
        roles = {role_of(topology, group, name) for group in groups}
        found["site"] = pc.if_else(hit, pa.scalar(name), found["site"])
        if groups:
            found["group"] = pc.if_else(hit, pa.scalar(groups[0] if len(groups) == 1 else SHARED), found["group"])
        if len(roles) == 1:
            found["role"] = pc.if_else(hit, pa.scalar(roles.pop()), found["role"])
    return found


def _escaped(text: str) -> str:
    """For RE2, which knows no escape of a plain letter."""
    return "".join(char if char.isalnum() or char in "-_" else f"\\{char}" for char in text)


def _by_region(lines: pa.Table, topology: Topology, cost: Cost) -> pa.ChunkedArray:
    """The only site of the export's cloud in the line's region."""
    found = pa.chunked_array([pa.nulls(lines.num_rows, pa.string())])
    for name, export in cost.exports.items():
        cloud = topology.sites[export.site].cloud
        regions: dict[str, list[str]] = {}
        for site, settings in topology.sites.items():
            if settings.cloud == cloud:
                regions.setdefault(settings.region.lower(), []).append(site)
        only = {region: sites[0] for region, sites in regions.items() if len(sites) == 1}
        of_export = pc.equal(lines["x_Export"], name)
        found = pc.if_else(of_export, _mapped(pc.utf8_lower(lines["RegionId"]), only), found)
    return found


def role_of(topology: Topology, group: str, site: str) -> str | None:
    """The role the topology gives a site in a group; it was the first one, and a failover may have changed it."""
    roles = topology.groups[group].sites
    if site == roles.active:
        return "active"
    if site in roles.standby:
        return "standby"
    return "witness" if site in roles.witness else None


def _roles_of(topology: Topology, group: pa.ChunkedArray, site: pa.ChunkedArray) -> pa.ChunkedArray:
    pairs = {
        f"{name}\n{one}": str(role_of(topology, name, one))
        for name, settings in topology.groups.items()
        for one in settings.sites.all()
    }
    return _mapped(pc.binary_join_element_wise(group, site, "\n"), pairs)
