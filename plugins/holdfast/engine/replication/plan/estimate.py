"""What a plan would cost and how long it would take, as far as that is known. Unknown is ``None``, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.engine.config import Site

_GIB = 1024**3
#: Requests that bringing one object takes at least at either end: a read or a write, and its reading back.
_REQUESTS_PER_OBJECT = {"source": 1, "target": 2}
#: With fewer objects than this gone nobody is warned for the listing's sake.
FEW_OBJECTS = 10
_TAIL_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Estimate:
    """For one target. ``at_least_seconds`` is what the sites' limits alone demand."""

    egress_cost: float | None
    expected_seconds: float | None
    at_least_seconds: float | None


def estimate(
    source: Site | None,
    target: Site | None,
    *,
    copy_objects: int,
    copy_bytes: int,
    bytes_per_second: float | None,
    objects_per_second: float | None,
) -> Estimate:
    """Cost and time of bringing so much to a target.

    Args:
        bytes_per_second, objects_per_second: measured between these sites; what was not measured is ``None``.
    """
    if not copy_objects:
        return Estimate(0.0, 0.0, 0.0)
    floor = _at_least(source, target, copy_objects, copy_bytes)
    return Estimate(
        _egress_cost(source, target, copy_bytes),
        _expected(copy_objects, copy_bytes, bytes_per_second, objects_per_second, floor),
        floor,
    )


def _egress_cost(source: Site | None, target: Site | None, copy_bytes: int) -> float | None:
    if source is None or target is None:
        return None
    if (source.cloud, source.region) == (target.cloud, target.region):
        return 0.0  # nothing leaves
    if "egress_cost_per_gib" not in source.model_fields_set:
        return None  # nobody said
    return source.egress_cost_per_gib * copy_bytes / _GIB


def _at_least(source: Site | None, target: Site | None, copy_objects: int, copy_bytes: int) -> float | None:
    demands = []
    for end, site in (("source", source), ("target", target)):
        if site is not None and site.limits.bytes_per_second is not None:
            # Both directions count against a site's limit, and a replica is read back where it lands.
            demands.append(copy_bytes * _REQUESTS_PER_OBJECT[end] / site.limits.bytes_per_second)
        if site is not None and site.limits.requests_per_second is not None:
            demands.append(copy_objects * _REQUESTS_PER_OBJECT[end] / site.limits.requests_per_second)
    return max(demands, default=None)


def _expected(
    copy_objects: int,
    copy_bytes: int,
    bytes_per_second: float | None,
    objects_per_second: float | None,
    floor: float | None,
) -> float | None:
    seconds = [copy_bytes / bytes_per_second] if bytes_per_second else []
    seconds += [copy_objects / objects_per_second] if objects_per_second else []
    return max([*seconds, floor or 0.0]) if seconds else None


def looks_truncated(*, listed: int, known: int, removed: int, tail: int) -> str | None:
    """Why a listing looks cut off, ``None`` when it does not.

    Args:
        listed: objects of the dataset the listing shows.
        known: objects of the last snapshot.
        removed: of these, how many the listing does not show.
        tail: of these, how many come after the last object it shows.
    """
    if known and not listed:
        return f"the listing shows none of {known} known objects"
    if removed < FEW_OBJECTS:
        return None
    if removed * 2 > known:
        return f"the listing lacks {removed} of {known} known objects"
    if tail >= FEW_OBJECTS and tail > known * _TAIL_SHARE:
        return f"the listing ends before the last {tail} of {known} known objects"
    return None


def measured(value: float | Mapping[str, float] | None, site: str) -> float | None:
    """What was measured for a site: one number for all, or one per site."""
    found = value.get(site) if isinstance(value, Mapping) else value
    return found if found is not None and found > 0 else None
