"""Which keys and metadata names may be used: only those that every backend keeps byte for byte.

Measured on S3, Azure and a local folder: an empty segment, a slash at either end, ``.``/``..`` and control characters
are refused or silently changed by one of them, and Azure turns a backslash into a slash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from holdfast.engine.objectstore.errors import InvalidKey

MAXIMUM_KEY_BYTES = 1024
#: What no plain key has: a quick look before the slow one that says what it is.
_SUSPECT = re.compile(r"[\\\x00-\x1f\x7f]|(?:\A|/)\.{0,2}(?:/|\Z)")
_METADATA_NAME = re.compile(r"^[a-z_][a-z0-9_]*$")


def is_plain(prefix: str) -> bool:
    """Whether every backend keeps a prefix as it is; the empty one too. Its length is not looked at."""
    return not prefix or not _SUSPECT.search(prefix)


def check_key(key: str, where: str) -> str:
    """The key itself. Raises InvalidKey."""
    if len(key) <= MAXIMUM_KEY_BYTES and key.isascii() and not _SUSPECT.search(key):
        return key
    found: str | None = None
    if not key:
        found = "an empty key"
    elif "\\" in key or any(ord(character) < 0x20 or ord(character) == 0x7F for character in key):
        found = "a backslash or a control character"
    elif any(segment in ("", ".", "..") for segment in key.split("/")):
        found = "a slash at an end, an empty segment, `.` or `..`"
    else:
        try:
            if len(key.encode()) > MAXIMUM_KEY_BYTES:
                found = f"{len(key.encode())} bytes"
        except UnicodeEncodeError:
            found = "a lone surrogate"
    if found is None:
        return key
    raise InvalidKey(
        f"the key {key[:200]!r} cannot be used",
        where=where,
        found=found,
        expected=f"plain names joined by `/`, at most {MAXIMUM_KEY_BYTES} bytes",
        fix="Rename the object; a sync also leaves out what `sync.filters.exclude` names",
    )


def check_metadata(metadata: Mapping[str, str], where: str) -> None:
    """Raises InvalidKey for a name or value that some backend changes or refuses."""
    for name, value in metadata.items():
        if not _METADATA_NAME.match(name) or not value.isascii() or not value.isprintable() or value != value.strip():
            raise InvalidKey(
                f"the metadata {name!r} cannot be used",
                where=where,
                found=repr(value)[:100],
                expected="a name of lower-case letters, digits and `_`, and a printable ASCII value",
            )
