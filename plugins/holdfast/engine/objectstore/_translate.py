"""From what obstore raises to the errors of this package.

obstore's exception types alone do not tell enough: listing a missing bucket and a refused connection are both
``GenericError``. Its text carries the HTTP status, the service's error code and the kind of connection error; this is
read here and nowhere else. Every row was seen by experiment on each backend (tests/contract). The raw text is not
passed on: it may hold a signed URL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdfast.engine.objectstore.errors import (
    BucketNotFound,
    NotSupported,
    ObjectExists,
    ObjectNotFound,
    ObjectStoreError,
    PermissionRefused,
    PreconditionFailed,
    StoreUnavailable,
)

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*([A-Za-z0-9]+)\s*</Code>")
_BULK = re.compile(r"Bulk delete request failed for key .*?: (?P<reason>.*) \(code: (?P<code>\w+)\)", re.DOTALL)
_KIND = re.compile(r"HttpError \{\s*kind: (\w+)")
_RANGE = re.compile(r"StartTooLarge|Range started at|InvalidRange|status code: 416")

_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"}
#: Conflicts of the moment: somebody else's write was in flight; nothing was written.
_TRY_AGAIN = {"ConditionalRequestConflict", "OperationAborted"}
_REFUSED = {"BlobImmutableDueToPolicy", "LeaseIdMissing", "LeaseIdMismatchWithBlobOperation"}


@dataclass(frozen=True, slots=True)
class Call:
    """What was asked, for the message."""

    store: str
    verb: str
    key: str | None
    writes: bool

    @property
    def where(self) -> str:
        return f"{self.store}: {self.verb} {self.key}" if self.key is not None else f"{self.store}: {self.verb}"


def is_unsatisfiable_range(error: BaseException) -> bool:
    """True when the object is there but has no byte in the range."""
    return _RANGE.search(str(error)) is not None


def translate(error: Exception, call: Call) -> ObjectStoreError:
    """The typed error for one of obstore's.

    Args:
        error: what obstore raised.
        call: what was asked of it.
    """
    text = str(error)
    status = int(found.group(1)) if (found := _STATUS.search(text)) else None
    code = found.group(1) if (found := _CODE.search(text)) else None
    if bulk := _BULK.search(text):
        status = int(bulk["code"]) if bulk["code"].isdigit() else status
        if "container does not exist" in bulk["reason"]:
            code = "ContainerNotFound"
    name = type(error).__name__
    answer = f"HTTP {status} {code or ''}".strip() if status is not None else code
    if code in _NO_BUCKET:
        return bucket_not_found(call, answer)
    if name == "NotSupportedError" or isinstance(error, NotImplementedError):
        return NotSupported(f"this backend cannot {call.verb} this way", where=call.where,
                            fix="See docs/reference/object-store-capabilities.md")
    if code in _REFUSED or status in (401, 403) or name in ("PermissionDeniedError", "UnauthenticatedError") \
            or isinstance(error, PermissionError):
        return PermissionRefused("the credentials are wrong, expired or not allowed to do this", where=call.where,
                                 found=answer, fix="Check the site's connection and the rights it has on this bucket")
    if code in _TRY_AGAIN:
        return StoreUnavailable("another write to this key was in flight", where=call.where, found=answer)
    if name == "AlreadyExistsError":
        return ObjectExists("an object of this key is there already", where=call.where, found=answer)
    if name in ("PreconditionError", "NotModifiedError") or status == 412:
        return PreconditionFailed("the object is not in the version named", where=call.where, found=answer)
    if isinstance(error, FileNotFoundError) or status == 404:
        if call.verb == "put" or call.verb == "list":
            return bucket_not_found(call, answer)
        return ObjectNotFound("no object has this key", where=call.where, found=answer)
    return _unavailable_or_wrong(text, status, answer, call)


def bucket_not_found(call: Call, answer: str | None = None) -> BucketNotFound:
    return BucketNotFound("the bucket or container is not there", where=call.where, found=answer,
                          fix="Create it, or correct `bucket` of this site in the topology")


def _unavailable_or_wrong(text: str, status: int | None, answer: str | None, call: Call) -> ObjectStoreError:
    kind = found.group(1) if (found := _KIND.search(text)) else None
    if status is not None and status < 500 and status not in (408, 429):
        return ObjectStoreError("the store refused the request", where=call.where, found=answer,
                                fix="Check the site's endpoint, region and bucket")
    if status is None and kind is None and "HTTP error" not in text and "error decoding" not in text:
        return ObjectStoreError(f"the request failed: {_first_line(text)}", where=call.where)
    reasons = {"Connect": "no connection could be made", "Timeout": "no answer came in time"}
    what = "the store is failing or throttling" if status is not None else reasons.get(kind or "", "the connection broke")
    # A connection that was never made and a 429 wrote nothing; of everything else one cannot know.
    return StoreUnavailable(what, where=call.where, found=answer or kind,
                            outcome_unknown=call.writes and kind != "Connect" and status != 429)


def _first_line(text: str) -> str:
    line = text.splitlines()[0] if text else "no reason given"
    return re.sub(r"\?\S+", "?…", line)[:300]
