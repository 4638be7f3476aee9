"""What can go wrong with an object store, told apart by what the caller should do."""

from __future__ import annotations

import re

from holdfast.errors import HoldfastError


class ObjectStoreError(HoldfastError):
    """Base of the errors of this package."""


class InvalidKey(ObjectStoreError):
    """The key (or a metadata name) is not one that every backend keeps as it is."""


class InvalidAttributes(ObjectStoreError):
    """An attribute this backend would refuse, change or drop."""


class ObjectNotFound(ObjectStoreError):
    """No object has this key."""


class BucketNotFound(ObjectStoreError):
    """The bucket or container is not there."""


class ObjectExists(ObjectStoreError):
    """A create-only put found an object."""


class PreconditionFailed(ObjectStoreError):
    """The object is not in the version the caller named."""


class PermissionRefused(ObjectStoreError):
    """The credentials are wrong, expired or not allowed to do this. Never retried."""


class ObjectArchived(ObjectStoreError):
    """The object lies in an offline storage class: it must be restored before it can be read."""


class NotSupported(ObjectStoreError):
    """This backend cannot do this; see its capabilities."""


class BytesCorrupted(ObjectStoreError):
    """The bytes that came are not the bytes that were written."""


class StoreUnavailable(ObjectStoreError):
    """No usable answer: refused, reset, timed out, throttled or 5xx. May be tried again.

    For a write ``outcome_unknown`` says that it may have happened: the caller re-reads before it decides.
    ``throttled`` says that the store asked for fewer requests (429, 503 SlowDown, ServerBusy), not that it is ill.
    """

    transient = True

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        found: str | None = None,
        fix: str | None = None,
        outcome_unknown: bool = False,
        throttled: bool = False,
    ) -> None:
        super().__init__(what, where=where, expected=expected, found=found, fix=fix)
        self.outcome_unknown = outcome_unknown
        self.throttled = throttled


class UploadGone(ObjectStoreError):
    """The unfinished upload is not there any more: finished, aborted or expired. Begin again."""


#: How AWS and Google name the permission that is missing.
_DENIED = re.compile(r"not authorized to perform: ([a-z0-9-]+:[A-Za-z]+)|Permission '([A-Za-z.]+)' denied")


def denied_permission(text: str) -> str | None:
    """The permission a refusal names, e.g. ``s3:PutObject``; nothing else of the text is passed on."""
    found = _DENIED.search(text)
    return None if found is None else found.group(1) or found.group(2)
