"""What buckets and objects may be called.

https://cloud.google.com/storage/docs/buckets#naming, https://cloud.google.com/storage/docs/objects#naming
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from holdfast.sandbox.gcs.errors import invalid, not_implemented, required

# First parts of paths of the JSON API: a bucket of that name could not be told from it by path alone.
_RESERVED = frozenset(("storage", "upload", "download", "batch", "resumable", "_holdfast"))


def decoded(segment: str) -> str:
    """A part of a path without its percent signs; 400 when it is not UTF-8."""
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise invalid(f"Not UTF-8: {segment!r}", xml_code="InvalidURI") from None


def check_bucket_name(name: object) -> str:
    """The name, or 400."""
    if not name:
        raise required("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", name):
        raise invalid(f"Invalid bucket name: '{name}'", xml_code="InvalidBucketName")
    if any(len(part) > 63 for part in name.split(".")) or name.startswith("goog") or ".." in name:
        raise invalid(f"Invalid bucket name: '{name}'", xml_code="InvalidBucketName")
    if name in _RESERVED:
        raise not_implemented(f"A bucket named {name!r}")
    return name


def check_object_name(name: object) -> str:
    """The name, or 400."""
    if not name:
        raise required("name")
    if not isinstance(name, str):
        raise invalid("name: expected a string.")
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        raise invalid("An object name must be valid UTF-8.") from None
    if size_bytes > 1024 or "\r" in name or "\n" in name or "\0" in name or name in (".", ".."):
        raise invalid(f"Invalid object name: {name[:80]!r} ({size_bytes} bytes; at most 1024, no line breaks).")
    return name
