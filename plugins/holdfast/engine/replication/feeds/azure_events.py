"""What Azure says of a blob: in a change feed's record, in Event Grid's own schema, and as a CloudEvent.

Formats: `Azure Blob Storage as an Event Grid source
<https://learn.microsoft.com/en-us/azure/event-grid/event-schema-blob-storage>`_ and `Change feed support
<https://learn.microsoft.com/en-us/azure/storage/blobs/storage-blob-change-feed>`_.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from holdfast.engine.replication.feeds.interface import Change, Kind, Scope

#: No blob's bytes, properties or metadata change.
_NO_BYTES = {
    "AsyncOperationInitiated",
    "BlobAsyncOperationInitiated",
    "BlobInventoryPolicyCompleted",
    "BlobSnapshotCreated",
    "BlobTierChanged",
    "Control",
    "DirectoryCreated",
    "LifecyclePolicyCompleted",
    "RestorePointMarkerCreated",
    "UnspecifiedEventType",
}
_WHOLE_FOLDERS = {"DirectoryRenamed", "DirectoryDeleted"}


class NotUnderstood(Exception):
    """The record is no storage event, or says something only a full listing can tell."""


def parse(event: Mapping[str, Any], scope: Scope) -> tuple[Change, ...]:
    """The changes an event names; none when it is of no concern. Raises NotUnderstood."""
    try:
        name = str(event.get("eventType") or event["type"]).removeprefix("Microsoft.Storage.")
        if name in _NO_BYTES:
            return ()
        if name in _WHOLE_FOLDERS:
            raise NotUnderstood(f"{name}: a whole folder changed, only a full listing tells what was in it")
        at = datetime.fromisoformat(str(event.get("eventTime") or event["time"]))
        told = event.get("data") or {}
        if name == "BlobRenamed":
            places = [_of_url(told["sourceUrl"]), _of_url(told["destinationUrl"])]
        else:
            places = [_of_subject(str(event["subject"]))]
        kind: Kind = "delete" if name == "BlobDeleted" else "put"
        return _changes(places, scope, kind, at if at.tzinfo else at.replace(tzinfo=UTC), told)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise NotUnderstood(f"{type(error).__name__}: {error}") from None


def _changes(
    places: list[tuple[str, str]], scope: Scope, kind: Kind, at: datetime, told: Mapping[str, Any]
) -> tuple[Change, ...]:
    tag = str(told.get("eTag") or told.get("etag") or "").strip('"')
    size = told.get("contentLength")
    keys = [key for container, blob in places for one in _spellings(blob) if (key := scope.key(container, one))]
    return tuple(
        Change(
            key=key,
            kind=kind,
            version=told.get("blobVersion") or None,
            e_tag=f'"{tag}"' if tag else None,
            size_bytes=int(size) if size is not None and kind == "put" else None,
            at=at,
            sequence=str(told.get("sequencer") or ""),
        )
        for key in keys
    )


def _spellings(blob: str) -> list[str]:
    """The documentation does not say whether a subject is percent-encoded: where that matters, both are looked at."""
    return list(dict.fromkeys((blob, unquote(blob))))


def _of_subject(subject: str) -> tuple[str, str]:
    """``/blobServices/default/containers/<container>/blobs/<name>``."""
    lead, found, rest = subject.partition("/containers/")
    container, also, blob = rest.partition("/blobs/")
    if not (lead.startswith("/blobServices/") and found and also and blob):
        raise ValueError(f"the subject {subject[:100]!r}")
    return container, blob


def _of_url(url: str) -> tuple[str, str]:
    container, _, blob = urlsplit(url).path.lstrip("/").partition("/")
    if not blob:
        raise ValueError(f"the URL {url[:100]!r}")
    return container, blob
