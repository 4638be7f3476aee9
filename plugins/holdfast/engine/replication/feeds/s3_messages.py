"""What S3 says in a message: its own notification, the same through SNS, and EventBridge's form.

Formats: the S3 user guide, `Event message structure
<https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>`_ and `EventBridge event
message structure <https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html>`_.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus

from holdfast.engine.replication.feeds.interface import Change, Kind, Scope

#: Sequencers are compared padded with zeros on the right to one length; no longer one is known.
_SEQUENCER_DIGITS = 64

#: Beginnings of event names and EventBridge detail types. What is in neither list leads to a look at the key.
_DELETES = ("ObjectRemoved:", "LifecycleExpiration:", "ReducedRedundancyLostObject", "Object Deleted")
_NO_BYTES = (
    "ObjectTagging:",
    "ObjectAcl:",
    "ObjectRestore:",
    "LifecycleTransition",
    "IntelligentTiering",
    "Replication:",
    "Object Tags ",
    "Object ACL ",
    "Object Restore ",
    "Object Storage Class Changed",
    "Object Access Tier Changed",
)


class NotUnderstood(Exception):
    """The message is none of the known forms."""


@dataclass(frozen=True, slots=True)
class Said:
    """What one message says: changes of the scope, and how many events are of no concern."""

    changes: tuple[Change, ...]
    ignored: int


def parse(body: str, scope: Scope) -> Said:
    """The changes in a message's body. Raises NotUnderstood."""
    message = _json(body)
    if message.get("Type") == "Notification" and isinstance(message.get("Message"), str):
        message = _json(message["Message"])
    try:
        if message.get("Event") == "s3:TestEvent":
            return Said((), 1)
        if isinstance(message.get("Records"), list):
            events = [_notification(record, scope) for record in message["Records"]]
        elif message.get("source") == "aws.s3" and isinstance(message.get("detail"), dict):
            events = [_event_bridge(message, scope)]
        else:
            raise NotUnderstood(f"an object with {sorted(message)[:6]}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotUnderstood(f"{type(error).__name__}: {error}") from None
    changes = tuple(event for event in events if event is not None)
    return Said(changes, len(events) - len(changes))


def _json(text: str) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except ValueError:
        raise NotUnderstood("no JSON") from None
    if not isinstance(message, dict):
        raise NotUnderstood("no JSON object")
    return message


def _notification(record: Mapping[str, Any], scope: Scope) -> Change | None:
    name = str(record["eventName"]).removeprefix("s3:")
    if name.startswith(_NO_BYTES):
        return None
    told = record["s3"]["object"]
    # Notifications spell the key as a form does: `a+b%3D` is `a b=`.
    key = scope.key(record["s3"]["bucket"]["name"], unquote_plus(told["key"], errors="strict"))
    return None if key is None else _change(key, name, told, str(record["eventTime"]), "eTag", "versionId")


def _event_bridge(message: Mapping[str, Any], scope: Scope) -> Change | None:
    name = str(message["detail-type"])
    if name.startswith(_NO_BYTES):
        return None
    told = message["detail"]["object"]
    key = scope.key(message["detail"]["bucket"]["name"], told["key"])  # not encoded here
    return None if key is None else _change(key, name, told, str(message["time"]), "etag", "version-id")


def _change(key: str, name: str, told: Mapping[str, Any], at: str, e_tag: str, version: str) -> Change:
    kind: Kind = "delete" if name.startswith(_DELETES) else "put"
    tag = told.get(e_tag)
    moment = datetime.fromisoformat(at)
    if moment.tzinfo is None:
        raise ValueError(f"the time {at!r} has no zone")
    # What carries no sequencer (a lifecycle's events) sorts before what does; the HEAD decides anyway.
    sequencer = str(told.get("sequencer") or "")
    return Change(
        key=key,
        kind=kind,
        version=told.get(version) or None,
        e_tag=f'"{tag}"' if tag else None,
        size_bytes=None if told.get("size") is None or kind == "delete" else int(told["size"]),
        at=moment,
        sequence=sequencer.ljust(_SEQUENCER_DIGITS, "0"),
    )
