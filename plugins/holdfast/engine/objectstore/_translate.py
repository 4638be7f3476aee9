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
    InvalidKey,
    NotSupported,
    ObjectArchived,
    ObjectExists,
    ObjectNotFound,
    ObjectStoreError,
    PermissionRefused,
    PreconditionFailed,
    StoreUnavailable,
    denied_permission,
)

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*([A-Za-z0-9]+)\s*</Code>")
_BULK = re.compile(r"Bulk delete request failed for key .*?: (?P<reason>.*) \(code: (?P<code>\w+)\)", re.DOTALL)
_KIND = re.compile(r"HttpError \{\s*kind: (\w+)")
_RANGE = re.compile(r"StartTooLarge|Range started at|InvalidRange|status code: 416")

#: The request for a token, not the one to the store.
_CREDENTIAL_SOURCE = re.compile(r"performing token request|/latest/api/token|/latest/meta-data/|security-credentials")
#: Of a local folder: a part of the path is a file, the path is a folder, a name is too long.
_NO_FILE_NAME = re.compile(r"(?:Not a directory|Is a directory|File name too long) \(os error \d+\)")
_NOT_SENT = re.compile(r"LocalFileSystem|InMemory|builder error|Range started at")
_QUOTED = re.compile(r'[Pp]ath "((?:[^"\\]|\\.)*)"', re.DOTALL)
_REDIRECT = re.compile(r"redirect", re.IGNORECASE)
_KINDS = {
    "Connect": "no connection could be made",
    "Timeout": "no answer came in time",
    "Request": "the connection broke",
    "Interrupted": "the connection broke before the answer was complete",
}

_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"}
#: Conflicts of the moment: somebody else's write was in flight; nothing was written.
_TRY_AGAIN = {"ConditionalRequestConflict", "OperationAborted"}
#: Refusals that come with another status than 401 or 403 (S3 says 400 to an expired session).
_REFUSED = {
    "AuthorizationHeaderMalformed",
    "BlobImmutableDueToPolicy",
    "ExpiredToken",
    "InvalidToken",
    "LeaseIdMismatchWithBlobOperation",
    "LeaseIdMissing",
    "TokenRefreshRequired",
}
#: Offline storage classes; S3 says 403 to them, which is no matter of rights.
_ARCHIVED = {"InvalidObjectState", "BlobArchived", "BlobBeingRehydrated"}
#: "Slower, please". A bare 503 is an illness; 429 is always this.
_THROTTLED = {"SlowDown", "SlowDownRead", "SlowDownWrite", "ServerBusy", "Throttling", "ThrottlingException"} | {
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "TooManyRequests",
    "rateLimitExceeded",
}
#: obstore cannot hand over metadata that is not ASCII, and gives no bytes of such an object either.
_METADATA = re.compile(r"Metadata value for .* contained non UTF-8")
#: The server gave up on this connection or upload, whatever the status says.
_GONE = {"NoSuchUpload", "RequestTimeout"}


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
    seen = _Seen.of(error)
    if seen.code in _NO_BUCKET:
        return bucket_not_found(call, seen.answer)
    if _CREDENTIAL_SOURCE.search(seen.text):
        return _no_credentials(seen, call)
    if seen.code in _ARCHIVED:
        return _archived(seen, call)
    if _METADATA.search(seen.text):
        return NotSupported(
            "the object has metadata that is not ASCII, and cannot be read for it",
            where=call.where,
            fix="Rewrite that metadata in ASCII (RFC 2047)",
        )
    if seen.exception == "InvalidPathError" and call.verb == "list":
        return _unusable_key(seen, call)
    if call.writes and (name := _NO_FILE_NAME.search(seen.text)):
        return InvalidKey(
            "a folder cannot hold this key beside what is there",
            where=call.where[:400],
            expected="names of at most 253 bytes, and no key that is a folder of another",
            found=name.group(),
            fix="Rename the object; a sync also leaves out what `sync.filters.exclude` names",
        )
    return (
        _refused(error, seen, call)
        or _condition(seen, call)
        or _missing(error, seen, call)
        or _unavailable_or_wrong(seen, call)
    )


def _unusable_key(seen: _Seen, call: Call) -> ObjectStoreError:
    """One key that obstore cannot hold ends its whole listing."""
    quoted = _QUOTED.search(seen.text)
    return InvalidKey(
        "an object here has a key that cannot be used, and nothing beside it can be listed",
        where=call.where,
        expected="plain names joined by `/`: no empty segment, `.`, `..` or control character",
        found=repr(quoted.group(1))[:300] if quoted else None,
        fix="Rename or remove that object",
    )


def translate_answer(status: int, code: str | None, call: Call, body: bytes = b"") -> ObjectStoreError:
    """The typed error for an HTTP answer that is none of success.

    Args:
        status: of the answer.
        code: the service's own error code, where it tells one.
        call: what was asked.
        body: of the answer, which may name the permission that is missing.
    """
    denied = denied_permission(body.decode(errors="replace"))
    seen = _Seen(text="", exception="GenericError", status=status, code=code, kind=None, denied=denied)
    if seen.code in _NO_BUCKET:
        return bucket_not_found(call, seen.answer)
    if seen.code in _ARCHIVED:
        return _archived(seen, call)
    nothing = Exception()
    return (
        _refused(nothing, seen, call)
        or _condition(seen, call)
        or _missing(nothing, seen, call)
        or _unavailable_or_wrong(seen, call)
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the text of an error says."""

    text: str
    exception: str
    status: int | None
    code: str | None
    kind: str | None
    denied: str | None = None

    @classmethod
    def of(cls, error: Exception) -> _Seen:
        text = str(error)
        status = int(found.group(1)) if (found := _STATUS.search(text)) else None
        code = found.group(1) if (found := _CODE.search(text)) else None
        kind = found.group(1) if (found := _KIND.search(text)) else None
        if bulk := _BULK.search(text):
            status = int(bulk["code"]) if bulk["code"].isdigit() else status
            if "container does not exist" in bulk["reason"]:
                code = "ContainerNotFound"
        return cls(text, type(error).__name__, status, code, kind, denied_permission(text))

    @property
    def answer(self) -> str | None:
        if self.status is None:
            return self.code or self.kind
        return f"HTTP {self.status} {self.code or ''}".strip()


def bucket_not_found(call: Call, answer: str | None = None) -> BucketNotFound:
    """The error for a bucket, container or folder that is not there."""
    return BucketNotFound(
        "the bucket or container is not there",
        where=call.where,
        found=answer,
        fix="Create it, or correct `bucket` of this site in the topology",
    )


def _archived(seen: _Seen, call: Call) -> ObjectArchived:
    return ObjectArchived(
        "the object is in an offline storage class",
        where=call.where,
        found=seen.answer,
        fix="Restore it (S3) or rehydrate it (Azure) first",
    )


def _no_credentials(seen: _Seen, call: Call) -> ObjectStoreError:
    if seen.kind == "Timeout" or (seen.status or 0) >= 500:
        return StoreUnavailable(
            "the source of the environment's credentials does not answer",
            where=call.where,
            found=seen.answer,
            fix="Name credentials in the site's connection, if there should be any",
        )
    return PermissionRefused(
        "there are no credentials",
        where=call.where,
        found=seen.answer,
        expected="a login in the site's connection, or credentials of the environment",
    )


def _refused(error: Exception, seen: _Seen, call: Call) -> ObjectStoreError | None:
    if seen.exception == "NotSupportedError" or isinstance(error, NotImplementedError):
        return NotSupported(
            f"this backend cannot {call.verb} this way",
            where=call.where,
            fix="See docs/reference/object-store-capabilities.md",
        )
    if (
        seen.code in _REFUSED
        or seen.status in (401, 403)
        or isinstance(error, PermissionError)
        or seen.exception in ("PermissionDeniedError", "UnauthenticatedError")
    ):
        return PermissionRefused(
            "the credentials are wrong, expired or not allowed to do this",
            where=call.where,
            found=f"{seen.answer}: no right {seen.denied}" if seen.denied else seen.answer,
            fix="Check the site's connection and its rights on this bucket",
        )
    return None


def _condition(seen: _Seen, call: Call) -> ObjectStoreError | None:
    if seen.code in _TRY_AGAIN:
        return StoreUnavailable("another write to this key was in flight", where=call.where, found=seen.answer)
    if seen.exception == "AlreadyExistsError":
        return ObjectExists("an object of this key is there already", where=call.where, found=seen.answer)
    if seen.exception in ("PreconditionError", "NotModifiedError") or seen.status == 412:
        return PreconditionFailed("the object is not in the version named", where=call.where, found=seen.answer)
    return None


def _missing(error: Exception, seen: _Seen, call: Call) -> ObjectStoreError | None:
    if not isinstance(error, FileNotFoundError) and seen.status != 404:
        return None
    if seen.code in _GONE:
        return None
    if call.verb in ("put", "list", "begin", "uploads"):  # none of them can miss an object
        return bucket_not_found(call, seen.answer)
    return ObjectNotFound("no object has this key", where=call.where, found=seen.answer)


def _unavailable_or_wrong(seen: _Seen, call: Call) -> ObjectStoreError:
    if seen.status is not None and seen.status < 500 and seen.status not in (408, 429) and seen.code not in _GONE:
        return ObjectStoreError(
            "the store refused the request",
            where=call.where,
            found=seen.answer,
            fix="Check the site's endpoint, region and bucket",
        )
    if _REDIRECT.search(seen.text):
        return ObjectStoreError(
            "the store points elsewhere",
            where=call.where,
            found="a redirect",
            fix="Check the site's region and endpoint",
        )
    if _NOT_SENT.search(seen.text) or (seen.exception != "GenericError" and seen.code not in _GONE):
        return ObjectStoreError("the request could not be made", where=call.where, found=_first_line(seen.text))
    if seen.status is not None:
        what = "the store is failing or throttling"
    else:
        what = _KINDS.get(seen.kind or "", "the answer is not one of an object store")
    # A connection that was never made and a 429 wrote nothing; of everything else one cannot know.
    return StoreUnavailable(
        what,
        where=call.where,
        found=seen.answer or _first_line(seen.text),
        outcome_unknown=call.writes and seen.kind != "Connect" and seen.status != 429,
        throttled=seen.status == 429 or seen.code in _THROTTLED,
    )


def _first_line(text: str) -> str:
    line = text.splitlines()[0] if text else "no reason given"
    return re.sub(r"\?\S+", "?…", line)[:300]
