"""The JSON API's bucket resource: what is shown of a record, and what a client may set."""

from __future__ import annotations

import zlib
from typing import Any
from urllib.parse import quote

from holdfast.sandbox.gcs.errors import forbidden, invalid, not_implemented
from holdfast.sandbox.gcs.records import BucketRecord, rfc3339
from holdfast.sandbox.gcs.resource_fields import flag, mapping, merged_texts, refuse_unknown, storage_class, text

SETTABLE = ("labels", "versioning", "storageClass", "retentionPolicy", "defaultEventBasedHold")
SET_BY_SERVER = frozenset(
    (
        *("kind", "id", "selfLink", "name", "project", "projectNumber", "generation", "metageneration", "etag"),
        *("timeCreated", "updated", "owner", "location", "locationType", "satisfiesPZI", "satisfiesPZS"),
        *("softDeleteTime", "hardDeleteTime", "objectRetention", "iamConfiguration"),
    )
)
NOT_IMPLEMENTED = frozenset(
    (
        *("acl", "defaultObjectAcl", "autoclass", "billing", "cors", "customPlacementConfig", "encryption"),
        *("hierarchicalNamespace", "ipFilter", "lifecycle", "logging", "rpo", "softDeletePolicy", "website"),
    )
)
_MULTI_REGIONS = ("US", "EU", "ASIA")
_LONGEST_RETENTION_SECONDS = 3_155_760_000  # a hundred years


def bucket_resource(record: BucketRecord, base_url: str) -> dict[str, Any]:
    """The ``storage#bucket`` of a record."""
    location = record.fields["location"]
    return {
        "kind": "storage#bucket",
        "id": record.name,
        "selfLink": f"{base_url}/storage/v1/b/{quote(record.name, safe='')}",
        "name": record.name,
        "projectNumber": str(100_000_000_000 + zlib.crc32(record.project.encode())),
        "generation": str(record.generation),
        "metageneration": str(record.metageneration),
        "etag": f"CA{record.metageneration}=",
        "locationType": "multi-region" if location in _MULTI_REGIONS else "region",
        "storageClass": "STANDARD",
        "timeCreated": rfc3339(record.created_us),
        "updated": rfc3339(record.updated_us),
        # Access control lists do not exist here, which is what this setting says.
        "iamConfiguration": {
            "uniformBucketLevelAccess": {"enabled": True},
            "bucketPolicyOnly": {"enabled": True},
            "publicAccessPrevention": "inherited",
        },
        "softDeletePolicy": {"retentionDurationSeconds": "0"},
        **record.fields,
    }


def new_bucket_fields(body: dict[str, Any], now_us: int, *, object_retention: bool) -> dict[str, Any]:
    """What a new bucket takes from the resource sent along; 400 or 501 for what it cannot take."""
    _refuse_access_control(body)
    fields = _merged({}, body, replace=True, now_us=now_us)
    fields["location"] = text("location", body.get("location") or "US").upper()
    if object_retention:
        fields["objectRetention"] = {"mode": "Enabled"}
    elif body.get("objectRetention"):
        raise invalid("objectRetention: expected enableObjectRetention=true in the query instead.")
    return fields


def merge_bucket_fields(record: BucketRecord, body: dict[str, Any], *, replace: bool, now_us: int) -> dict[str, Any]:
    """The fields of a bucket after a patch (`replace` false) or an update; a locked policy only grows."""
    if body.get("location") not in (None, record.fields["location"]):
        raise invalid("location: a bucket's location cannot be changed.")
    _refuse_access_control(body)
    fields = _merged(record.fields, body, replace=replace, now_us=now_us)
    for fixed in ("location", "objectRetention"):
        if fixed in record.fields:
            fields[fixed] = record.fields[fixed]
    if record.retention_locked:
        period = int(fields.get("retentionPolicy", {}).get("retentionPeriod", 0))
        if period < record.retention_seconds:
            raise forbidden(f"Cannot reduce the duration of the locked retention policy of bucket '{record.name}'.")
    return fields


def locked_bucket_fields(record: BucketRecord) -> dict[str, Any]:
    """The fields of a bucket after its retention policy was locked."""
    if not record.retention_seconds:
        raise invalid(f"Bucket '{record.name}' has no retention policy to lock.")
    return {**record.fields, "retentionPolicy": {**record.fields["retentionPolicy"], "isLocked": True}}


def _merged(old: dict[str, Any], body: dict[str, Any], *, replace: bool, now_us: int) -> dict[str, Any]:
    refuse_unknown(body, "bucket", SET_BY_SERVER | frozenset(SETTABLE), NOT_IMPLEMENTED)
    new = {} if replace else dict(old)
    for key in SETTABLE:
        if key not in body:
            continue
        if body[key] is None or (key == "retentionPolicy" and not body[key]):
            new.pop(key, None)
        else:
            new[key] = _checked(key, body[key], new.get(key), old, now_us)
    if new.get("labels") == {}:
        del new["labels"]
    return new


def _checked(key: str, value: object, current: Any, old: dict[str, Any], now_us: int) -> Any:
    if key == "labels":
        return merged_texts(key, value, current or {})
    if key == "versioning":
        return {"enabled": flag("versioning.enabled", mapping(key, value).get("enabled", False))}
    if key == "storageClass":
        return storage_class(value)
    if key == "retentionPolicy":
        return _retention_policy(mapping(key, value), old.get("retentionPolicy"), now_us)
    return flag(key, value)


def _retention_policy(value: dict[str, Any], old: dict[str, Any] | None, now_us: int) -> dict[str, Any]:
    try:
        seconds = int(value["retentionPeriod"])
    except (KeyError, TypeError, ValueError):
        seconds = 0
    if not 0 < seconds <= _LONGEST_RETENTION_SECONDS:
        raise invalid(f"retentionPolicy.retentionPeriod: expected 1 to {_LONGEST_RETENTION_SECONDS} seconds.")
    unchanged = old is not None and int(old["retentionPeriod"]) == seconds
    effective = old["effectiveTime"] if old is not None and unchanged else rfc3339(now_us)
    return {"retentionPeriod": str(seconds), "effectiveTime": effective, "isLocked": bool((old or {}).get("isLocked"))}


def _refuse_access_control(body: dict[str, Any]) -> None:
    """Uniform access is the only kind there is; asking for public access prevention asks for something absent."""
    configuration = mapping("iamConfiguration", body.get("iamConfiguration") or {})
    if configuration.get("publicAccessPrevention", "inherited") not in ("inherited", "unspecified"):
        raise not_implemented("Public access prevention")
