"""Buckets and objects as they are stored."""

from __future__ import annotations

import base64
import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from holdfast.sandbox.gcs.checksums import Checksums

DEFAULT_STORAGE_CLASS = "STANDARD"
_HELD = "is under active {} hold and cannot be deleted, overwritten or archived until hold is removed."


def rfc3339(time_us: int) -> str:
    """A time in microseconds since 1970 as the JSON API writes it."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def parse_rfc3339_us(text: str) -> int:
    """Microseconds since 1970 of an RFC 3339 time; raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"expected a time with a zone, found {text!r}")
    return int(moment.timestamp() * 1_000_000)


@dataclass(frozen=True)
class BucketRecord:
    """A bucket; `fields` are the parts of its resource that a client may set."""

    name: str
    project: str
    generation: int
    metageneration: int
    created_us: int
    updated_us: int
    fields: dict[str, Any]

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> BucketRecord:
        """From the ``bucket`` table."""
        return cls(
            row["name"],
            row["project"],
            row["generation"],
            row["metageneration"],
            row["created_us"],
            row["updated_us"],
            json.loads(row["fields"]),
        )

    @property
    def versioned(self) -> bool:
        """Whether a replaced or deleted live object stays as a noncurrent generation."""
        return bool(self.fields.get("versioning", {}).get("enabled", False))

    @property
    def retention_seconds(self) -> int:
        """How long an object is protected from its creation on; 0 without a retention policy."""
        return int(self.fields.get("retentionPolicy", {}).get("retentionPeriod", 0))

    @property
    def retention_locked(self) -> bool:
        """Whether the retention policy can only become stricter."""
        return bool(self.fields.get("retentionPolicy", {}).get("isLocked", False))


@dataclass(frozen=True)
class ObjectRecord:
    """One generation of an object; `fields` are the parts of its resource that a client may set."""

    id: int
    bucket: str
    name: str
    generation: int
    metageneration: int
    live: bool
    size_bytes: int
    checksums: Checksums
    component_count: int | None
    created_us: int
    updated_us: int
    deleted_us: int | None
    hold_released_us: int | None
    fields: dict[str, Any]

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> ObjectRecord:
        """From the ``object`` table."""
        return cls(
            row["id"],
            row["bucket"],
            row["name"],
            row["generation"],
            row["metageneration"],
            bool(row["live"]),
            row["size_bytes"],
            Checksums(row["crc32c"], row["md5"]),
            row["component_count"],
            row["created_us"],
            row["updated_us"],
            row["deleted_us"],
            row["hold_released_us"],
            json.loads(row["fields"]),
        )

    @property
    def etag(self) -> str:
        """The JSON API's entity tag: it names generation and metageneration."""
        return base64.b64encode(b"\x08" + _varint(self.generation) + b"\x10" + _varint(self.metageneration)).decode()

    @property
    def xml_etag(self) -> str:
        """The XML API's entity tag, quoted: the MD5 in hex, or for a composite object an opaque name."""
        if self.checksums.md5 is None:
            opaque = base64.b64encode(b"\x08" + _varint(self.generation)).decode()
            return f'"-{opaque}"'
        return f'"{base64.b64decode(self.checksums.md5).hex()}"'

    @property
    def content_type(self) -> str:
        """What the content is served as."""
        return str(self.fields.get("contentType", "application/octet-stream"))

    @property
    def storage_class(self) -> str:
        """Recorded only; nothing here is slower or cheaper."""
        return str(self.fields.get("storageClass", DEFAULT_STORAGE_CLASS))

    def protected_until_us(self, bucket: BucketRecord) -> int | None:
        """When the bucket's retention policy lets go of this generation; None when it has no hold on it."""
        if not bucket.retention_seconds:
            return None
        since = self.hold_released_us if self.hold_released_us is not None else self.created_us
        return since + bucket.retention_seconds * 1_000_000

    def protection(self, bucket: BucketRecord, now_us: int) -> str | None:
        """Why this generation may not be removed now, or None."""
        label = f"Object '{self.bucket}/{self.name}' "
        if self.fields.get("temporaryHold"):
            return label + _HELD.format("Temporary")
        if self.fields.get("eventBasedHold"):
            return label + _HELD.format("Event-Based")
        until = self.protected_until_us(bucket)
        retention = self.fields.get("retention")
        if retention:
            until = max(until or 0, parse_rfc3339_us(retention["retainUntilTime"]))
        if until is not None and now_us < until:
            return (
                label
                + "is subject to bucket's retention policy or object retention and cannot be deleted or overwritten "
                + f"until {rfc3339(until)}"
            )
        return None


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
