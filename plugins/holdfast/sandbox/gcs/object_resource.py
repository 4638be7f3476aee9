"""The JSON API's object resource: what is shown of a record, and what a client may set."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from holdfast.sandbox.gcs.errors import forbidden, invalid, not_implemented
from holdfast.sandbox.gcs.records import BucketRecord, ObjectRecord, parse_rfc3339_us, rfc3339
from holdfast.sandbox.gcs.resource_fields import flag, mapping, merged_texts, refuse_unknown, storage_class, text

_TEXTS = ("contentType", "cacheControl", "contentDisposition", "contentEncoding", "contentLanguage")
SETTABLE = (*_TEXTS, "metadata", "customTime", "temporaryHold", "eventBasedHold", "storageClass", "retention")
SET_BY_SERVER = frozenset(
    (
        *("kind", "id", "selfLink", "mediaLink", "name", "bucket", "generation", "metageneration", "size", "etag"),
        *("crc32c", "md5Hash", "componentCount", "timeCreated", "updated", "timeDeleted", "timeFinalized"),
        *("timeStorageClassUpdated", "retentionExpirationTime", "owner", "softDeleteTime", "hardDeleteTime"),
        "restoreToken",
    )
)
NOT_IMPLEMENTED = frozenset(("acl", "kmsKeyName", "customerEncryption", "contexts"))


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


def new_object_fields(body: dict[str, Any], bucket: BucketRecord | None = None) -> dict[str, Any]:
    """What a new object takes from the resource sent along; 400 or 501 for what it cannot take."""
    return _merged({}, body, replace=True, bucket=bucket)


def merge_object_fields(
    old: dict[str, Any],
    body: dict[str, Any],
    *,
    replace: bool,
    now_us: int,
    bucket: BucketRecord,
    override_unlocked: bool,
) -> dict[str, Any]:
    """The fields of an object after a patch or an update.

    Args:
        old: the fields before.
        body: the resource sent; in a patch, null removes.
        replace: fields that are not sent are removed (``update``) instead of kept (``patch``).
        now_us: the time, to judge whether an object retention still holds.
        bucket: of the object; object retention needs it to be enabled there.
        override_unlocked: the client asked to shorten an unlocked object retention.
    """
    if body.get("storageClass", old.get("storageClass")) != old.get("storageClass"):
        raise not_implemented("Changing the storage class of an object without rewriting it")
    new = _merged(old, body, replace=replace, bucket=bucket)
    new.setdefault("storageClass", old.get("storageClass", "STANDARD"))
    _refuse_weaker_retention(old.get("retention"), new.get("retention"), now_us, override_unlocked)
    return new


def _merged(old: dict[str, Any], body: dict[str, Any], *, replace: bool, bucket: BucketRecord | None) -> dict[str, Any]:
    refuse_unknown(body, "object", SET_BY_SERVER | frozenset(SETTABLE), NOT_IMPLEMENTED)
    new = {} if replace else dict(old)
    for key in SETTABLE:
        if key not in body:
            continue
        if body[key] is None:
            new.pop(key, None)
        else:
            new[key] = _checked(key, body[key], new.get(key), bucket)
    if new.get("metadata") == {}:
        del new["metadata"]
    return new


def _checked(key: str, value: object, old: Any, bucket: BucketRecord | None) -> Any:
    if key in _TEXTS:
        return text(key, value)
    if key == "metadata":
        return merged_texts(key, value, old or {})
    if key == "customTime":
        return _custom_time(value, old)
    if key == "storageClass":
        return storage_class(value)
    if key == "retention":
        return _retention(mapping(key, value), bucket)
    return flag(key, value)


def _custom_time(value: object, old: str | None) -> str:
    moment = text("customTime", value)
    try:
        moment_us = parse_rfc3339_us(moment)
    except ValueError as error:
        raise invalid(f"customTime: {error}.") from None
    if old is not None and moment_us < parse_rfc3339_us(old):
        raise invalid("customTime: can only be moved to a later time.")
    return moment


def _retention(value: dict[str, Any], bucket: BucketRecord | None) -> dict[str, Any]:
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
