"""Refusals in the forms Google Cloud Storage uses: JSON for the JSON API, XML for the XML API.

Reasons and XML codes follow https://cloud.google.com/storage/docs/json_api/v1/status-codes and
https://cloud.google.com/storage/docs/xml-api/reference-status.
"""

from __future__ import annotations

import json
from typing import Any
from xml.sax.saxutils import escape


class GcsError(Exception):
    """An answer other than success.

    Args:
        status: HTTP status code.
        reason: the JSON API's machine-readable reason, e.g. ``conditionNotMet``.
        message: what was refused and why.
        xml_code: the XML API's code for the same thing, e.g. ``PreconditionFailed``.
        location: request parameter or header the refusal is about, if one is.
        location_type: ``parameter`` or ``header``.
        headers: extra response headers.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        xml_code: str,
        location: str | None = None,
        location_type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.xml_code = xml_code
        self.location = location
        self.location_type = location_type
        self.headers = headers or {}

    def json_body(self) -> bytes:
        """The error resource of the JSON API."""
        item: dict[str, Any] = {"message": self.message, "domain": "global", "reason": self.reason}
        if self.location is not None:
            item["locationType"] = self.location_type or "parameter"
            item["location"] = self.location
        error = {"code": self.status, "message": self.message, "errors": [item]}
        return json.dumps({"error": error}).encode()

    def xml_body(self) -> bytes:
        """The error document of the XML API."""
        return (
            "<?xml version='1.0' encoding='UTF-8'?>"
            f"<Error><Code>{self.xml_code}</Code><Message>{escape(self.message)}</Message></Error>"
        ).encode()


def invalid(message: str, *, location: str | None = None, xml_code: str = "InvalidArgument") -> GcsError:
    """400: the request is malformed."""
    return GcsError(400, "invalid", message, xml_code=xml_code, location=location)


def required(name: str) -> GcsError:
    """400: a parameter is missing."""
    return GcsError(400, "required", f"Required parameter: {name}", xml_code="InvalidArgument", location=name)


def unauthorized() -> GcsError:
    """401: no or a wrong credential."""
    return GcsError(
        401,
        "authError",
        "Invalid Credentials",
        xml_code="AuthenticationRequired",
        location="Authorization",
        location_type="header",
        headers={"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/", error="invalid_token"'},
    )


def retained(message: str) -> GcsError:
    """403: a hold or a retention policy protects the generation."""
    return GcsError(403, "retentionPolicyNotMet", message, xml_code="RetentionPolicyNotMet")


def forbidden(message: str) -> GcsError:
    """403: not allowed in this state."""
    return GcsError(403, "forbidden", message, xml_code="AccessDenied")


def no_bucket(bucket: str) -> GcsError:
    """404: there is no such bucket."""
    return GcsError(404, "notFound", f"The specified bucket does not exist: {bucket}", xml_code="NoSuchBucket")


def no_object(bucket: str, name: str) -> GcsError:
    """404: there is no such object, or no such generation of it."""
    return GcsError(404, "notFound", f"No such object: {bucket}/{name}", xml_code="NoSuchKey")


def no_upload(upload_id: str) -> GcsError:
    """404: there is no such upload session."""
    return GcsError(404, "notFound", f"No such upload: {upload_id}", xml_code="NoSuchUpload")


def conflict(message: str, *, xml_code: str = "BucketAlreadyOwnedByYou") -> GcsError:
    """409: it exists already, or is not empty."""
    return GcsError(409, "conflict", message, xml_code=xml_code)


def unavailable(message: str) -> GcsError:
    """503: not now; clients ask again."""
    return GcsError(503, "backendError", message, xml_code="ServiceUnavailable")


def precondition_failed(location: str, *, header: bool = False) -> GcsError:
    """412: a precondition did not hold."""
    return GcsError(
        412,
        "conditionNotMet",
        "At least one of the pre-conditions you specified did not hold.",
        xml_code="PreconditionFailed",
        location=location,
        location_type="header" if header else "parameter",
    )


def not_modified() -> GcsError:
    """304: the client's copy is current."""
    return GcsError(304, "notModified", "Not Modified", xml_code="NotModified")


def unsatisfiable_range(size_bytes: int) -> GcsError:
    """416: the range starts behind the end."""
    return GcsError(
        416,
        "requestedRangeNotSatisfiable",
        "The requested range cannot be satisfied.",
        xml_code="InvalidRange",
        headers={"Content-Range": f"bytes */{size_bytes}"},
    )


def not_implemented(what: str) -> GcsError:
    """501: Google Cloud Storage has this, this server does not. It is refused rather than ignored."""
    return GcsError(
        501,
        "notImplemented",
        f"{what} is not implemented by the Holdfast sandbox's storage server; see docs/reference/sandbox-gcs.md.",
        xml_code="NotImplemented",
    )
