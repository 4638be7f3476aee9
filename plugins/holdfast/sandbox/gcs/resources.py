"""The JSON API's resources: what is shown of a record, and what a client may set.

A field that Google Cloud Storage has and this server does not carry out is refused with 501 when it is
set to anything; a field nobody knows is refused with 400. Fields only the server sets are ignored in
requests, because clients send back what they were given.
"""

from __future__ import annotations

import zlib
from typing import Any
from urllib.parse import quote

from holdfast.sandbox.gcs.errors import forbidden, invalid, not_implemented
from holdfast.sandbox.gcs.records import BucketRecord, ObjectRecord, parse_rfc3339_us, rfc3339

_OBJECT_TEXT = ("contentType", "cacheControl", "contentDisposition", "contentEncoding", "contentLanguage")
_OBJECT_SETTABLE = (*_OBJECT_TEXT, "metadata", "customTime", "temporaryHold", "eventBasedHold", "storageClass", "retention")
OBJECT_SET_BY_SERVER = frozenset(
    "kind id selfLink mediaLink name bucket generation metageneration size etag crc32c md5Hash componentCount timeCreated"
    " updated timeDeleted timeFinalized timeStorageClassUpdated retentionExpirationTime owner softDeleteTime"
    " hardDeleteTime restoreToken".split()
)
OBJECT_NOT_IMPLEMENTED = frozenset("acl kmsKeyName customerEncryption contexts".split())
_BUCKET_SETTABLE = (
    "labels", "versioning", "storageClass", "retentionPolicy", "defaultEventBasedHold", "iamConfiguration", "objectRetention"
)  # fmt: skip
BUCKET_SET_BY_SERVER = frozenset(
    "kind id selfLink name project projectNumber generation metageneration etag timeCreated updated owner location"
    " locationType satisfiesPZI satisfiesPZS softDeleteTime hardDeleteTime".split()
)
BUCKET_NOT_IMPLEMENTED = frozenset(
    "acl defaultObjectAcl autoclass billing cors customPlacementConfig encryption hierarchicalNamespace ipFilter lifecycle"
    " logging rpo softDeletePolicy website".split()
)
_MULTI_REGIONS = ("US", "EU", "ASIA")
_STORAGE_CLASSES = ("STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE", "MULTI_REGIONAL", "REGIONAL", "DURABLE_REDUCED_AVAILABILITY")


def object_resource(record: ObjectRecord, bucket: BucketRecord, base_url: str) -> dict[str, Any]:
    """The ``storage#object`` of a record.

    Args:
        record: the generation to show.
        bucket: its bucket, whose retention policy gives the expiration time.
        base_url: scheme and authority the client reached the server by.
    """
    path = f"b/{quote(record.bucket, safe='')}/o/{quote(record.name, safe='')}"
    resource: dict[str, Any] = {
        "kind": "storage#object",
        "id": f"{record.bucket}/{record.name}/{record.generation}",
        "selfLink": f"{base_url}/storage/v1/{path}",
        "mediaLink": f"{base_url}/download/storage/v1/{path}?generation={record.generation}&alt=media",
        "name": record.name,
        "bucket": record.bucket,
        "generation": str(record.generation),
        "metageneration": str(record.metageneration),
        "storageClass": record.storage_class,
        "size": str(record.size_bytes),
        "crc32c": record.checksums.crc32c,
        "etag": record.etag,
        "timeCreated": rfc3339(record.created_us),
        "updated": rfc3339(record.updated_us),
        "timeFinalized": rfc3339(record.created_us),
        "timeStorageClassUpdated": rfc3339(record.created_us),
        **record.fields,
    }
    if record.checksums.md5 is not None:
        resource["md5Hash"] = record.checksums.md5
    if record.component_count is not None:
        resource["componentCount"] = record.component_count
    if record.deleted_us is not None:
        resource["timeDeleted"] = rfc3339(record.deleted_us)
    until = record.protected_until_us(bucket)
    if until is not None and not record.fields.get("eventBasedHold"):
        resource["retentionExpirationTime"] = rfc3339(until)
    return resource


def object_fields(body: dict[str, Any], *, bucket: BucketRecord | None = None) -> dict[str, Any]:
    """What a new object takes from the resource sent along."""
    return merge_object_fields({}, body, replace=True, now_us=None, bucket=bucket)


def merge_object_fields(
    old: dict[str, Any],
    body: dict[str, Any],
    *,
    replace: bool,
    now_us: int | None,
    bucket: BucketRecord | None = None,
    override_unlocked: bool = False,
) -> dict[str, Any]:
    """The fields of an object after a patch or an update.

    Args:
        old: the fields before.
        body: the resource sent; in a patch, null removes.
        replace: fields that are not sent are removed (``update``) instead of kept (``patch``).
        now_us: the time, to judge whether an object retention still holds; None for a new object.
        bucket: of the object; object retention needs it to be enabled there.
        override_unlocked: the client asked to shorten an unlocked object retention.
    """
    _refuse_unknown(body, "object", set(_OBJECT_SETTABLE) | OBJECT_SET_BY_SERVER, OBJECT_NOT_IMPLEMENTED)
    new = {} if replace else dict(old)
    if replace and "storageClass" in old:
        new["storageClass"] = old["storageClass"]
    for key in _OBJECT_SETTABLE:
        if key not in body:
            continue
        value = body[key]
        if value is None:
            new.pop(key, None)
        elif key in _OBJECT_TEXT:
            new[key] = _text(key, value)
        elif key == "metadata":
            new[key] = _metadata(value, {} if replace else old.get("metadata", {}))
        elif key == "customTime":
            new[key] = _custom_time(value, old.get("customTime"))
        elif key == "storageClass":
            if value not in _STORAGE_CLASSES:
                raise invalid(f"storageClass: expected one of {', '.join(_STORAGE_CLASSES)}, found {value!r}.")
            if now_us is not None and value != old.get("storageClass"):
                raise not_implemented("Changing the storage class of an object without rewriting it")
            new[key] = value
        elif key == "retention":
            new[key] = _retention(value, bucket)
        elif not isinstance(value, bool):
            raise invalid(f"{key}: expected true or false, found {value!r}.")
        else:
            new[key] = value
    if not new.get("metadata", True):
        del new["metadata"]
    if now_us is not None:
        _refuse_weaker_retention(old.get("retention"), new.get("retention"), now_us, override_unlocked)
    return new


def bucket_resource(record: BucketRecord, base_url: str) -> dict[str, Any]:
    """The ``storage#bucket`` of a record."""
    fields = dict(record.fields)
    location = fields.pop("location", "US")
    resource: dict[str, Any] = {
        "kind": "storage#bucket",
        "id": record.name,
        "selfLink": f"{base_url}/storage/v1/b/{quote(record.name, safe='')}",
        "name": record.name,
        "projectNumber": str(100_000_000_000 + zlib.crc32(record.project.encode())),
        "generation": str(record.generation),
        "metageneration": str(record.metageneration),
        "etag": f"CA{record.metageneration}=",
        "location": location,
        "locationType": "multi-region" if location in _MULTI_REGIONS else "region",
        "storageClass": fields.pop("storageClass", "STANDARD"),
        "timeCreated": rfc3339(record.created_us),
        "updated": rfc3339(record.updated_us),
        "iamConfiguration": {
            "uniformBucketLevelAccess": {"enabled": True},
            "bucketPolicyOnly": {"enabled": True},
            "publicAccessPrevention": "inherited",
        },
        "softDeletePolicy": {"retentionDurationSeconds": "0"},
        **fields,
    }
    return resource


def new_bucket_fields(body: dict[str, Any], now_us: int, *, object_retention: bool) -> dict[str, Any]:
    """What a new bucket takes from the resource sent along."""
    location = body.get("location") or "US"
    fields = _bucket_fields({}, body, replace=True, now_us=now_us)
    fields["location"] = _text("location", location).upper()
    if object_retention:
        fields["objectRetention"] = {"mode": "Enabled"}
    elif body.get("objectRetention"):
        raise invalid("objectRetention: expected enableObjectRetention=true in the query instead.")
    return fields


def merge_bucket_fields(record: BucketRecord, body: dict[str, Any], *, replace: bool, now_us: int) -> dict[str, Any]:
    """The fields of a bucket after a patch (`replace` false) or an update; a locked policy only grows."""
    if body.get("location") not in (None, record.fields["location"]):
        raise invalid("location: a bucket's location cannot be changed.")
    fields = _bucket_fields(record.fields, body, replace=replace, now_us=now_us)
    for fixed in ("location", "objectRetention"):
        if fixed in record.fields:
            fields[fixed] = record.fields[fixed]
        else:
            fields.pop(fixed, None)
    if record.retention_locked:
        period = int(fields.get("retentionPolicy", {}).get("retentionPeriod", 0))
        if period < record.retention_seconds:
            raise forbidden(
                f"Cannot reduce retention duration of a locked Retention Policy for bucket '{record.name}'."
            )
        fields["retentionPolicy"]["isLocked"] = True
    return fields


def locked_bucket_fields(record: BucketRecord) -> dict[str, Any]:
    """The fields of a bucket after its retention policy was locked."""
    if not record.retention_seconds:
        raise invalid(f"Bucket '{record.name}' has no retention policy to lock.")
    return {**record.fields, "retentionPolicy": {**record.fields["retentionPolicy"], "isLocked": True}}


def _bucket_fields(old: dict[str, Any], body: dict[str, Any], *, replace: bool, now_us: int) -> dict[str, Any]:
    _refuse_unknown(body, "bucket", set(_BUCKET_SETTABLE) | BUCKET_SET_BY_SERVER, BUCKET_NOT_IMPLEMENTED)
    new = {} if replace else dict(old)
    for key in _BUCKET_SETTABLE:
        if key not in body:
            continue
        value = body[key]
        if value is None or (key == "retentionPolicy" and not value):
            new.pop(key, None)
        elif key == "labels":
            new[key] = _metadata(value, {} if replace else old.get("labels", {}))
        elif key == "versioning":
            new[key] = {"enabled": bool(value.get("enabled", False))}
        elif key == "storageClass":
            if value not in _STORAGE_CLASSES:
                raise invalid(f"storageClass: expected one of {', '.join(_STORAGE_CLASSES)}, found {value!r}.")
            new[key] = value
        elif key == "defaultEventBasedHold":
            new[key] = bool(value)
        elif key == "retentionPolicy":
            new[key] = _retention_policy(value, old.get("retentionPolicy"), now_us)
        elif key == "iamConfiguration":
            for name in ("uniformBucketLevelAccess", "bucketPolicyOnly"):
                # Access control lists do not exist here, which is what the uniform setting says.
                if value.get(name, {}).get("enabled") is False and old.get("iamConfiguration"):
                    raise not_implemented("A bucket with access control lists per object")
    if not new.get("labels", True):
        del new["labels"]
    new.pop("iamConfiguration", None)
    return new


def _retention_policy(value: dict[str, Any], old: dict[str, Any] | None, now_us: int) -> dict[str, Any]:
    try:
        seconds = int(value["retentionPeriod"])
    except (KeyError, TypeError, ValueError):
        seconds = 0
    if not 0 < seconds <= 3_155_760_000:
        raise invalid("retentionPolicy.retentionPeriod: expected 1 to 3155760000 seconds.")
    unchanged = old is not None and int(old["retentionPeriod"]) == seconds
    effective = old["effectiveTime"] if old is not None and unchanged else rfc3339(now_us)
    return {"retentionPeriod": str(seconds), "effectiveTime": effective, "isLocked": bool((old or {}).get("isLocked"))}


def _retention(value: dict[str, Any], bucket: BucketRecord | None) -> dict[str, Any] | None:
    if bucket is None or "objectRetention" not in bucket.fields:
        raise invalid("retention: object retention is not enabled on this bucket.")
    mode, until = value.get("mode"), value.get("retainUntilTime")
    if mode not in ("Unlocked", "Locked") or not isinstance(until, str):
        raise invalid("retention: expected a mode (Unlocked or Locked) and a retainUntilTime.")
    try:
        parse_rfc3339_us(until)
    except ValueError as error:
        raise invalid(f"retention.retainUntilTime: {error}.") from None
    return {"mode": mode, "retainUntilTime": until}


def _refuse_weaker_retention(
    old: dict[str, Any] | None, new: dict[str, Any] | None, now_us: int, override_unlocked: bool
) -> None:
    if old is None or old == new or parse_rfc3339_us(old["retainUntilTime"]) <= now_us:
        return
    stronger = (
        new is not None
        and parse_rfc3339_us(new["retainUntilTime"]) >= parse_rfc3339_us(old["retainUntilTime"])
        and (old["mode"], new["mode"]) != ("Locked", "Unlocked")
    )
    if not stronger and (old["mode"] == "Locked" or not override_unlocked):
        raise forbidden("The object's retention configuration is locked, or overrideUnlockedRetention was not given.")


def _refuse_unknown(body: dict[str, Any], kind: str, known: set[str], refused: frozenset[str]) -> None:
    for key, value in body.items():
        if key in refused:
            # Clients send back empty defaults; only a real setting asks for something.
            if value and value not in ({"enabled": False}, {"retentionDurationSeconds": "0"}):
                raise not_implemented(f"The {kind} field {key!r}")
        elif key not in known:
            raise invalid(f"Unknown field {key!r} in the {kind} resource.")


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise invalid(f"{key}: expected a string, found {value!r}.")
    return value


def _metadata(value: object, old: dict[str, str]) -> dict[str, str]:
    if not isinstance(value, dict):
        raise invalid(f"metadata: expected an object, found {value!r}.")
    new = dict(old)
    for key, item in value.items():
        if item is None:
            new.pop(key, None)
        else:
            new[key] = _text(f"metadata.{key}", item)
    return new


def _custom_time(value: object, old: str | None) -> str:
    text = _text("customTime", value)
    try:
        moment = parse_rfc3339_us(text)
    except ValueError as error:
        raise invalid(f"customTime: {error}.") from None
    if old is not None and moment < parse_rfc3339_us(old):
        raise invalid("customTime: can only be moved to a later time.")
    return text
