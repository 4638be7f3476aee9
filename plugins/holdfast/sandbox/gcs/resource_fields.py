"""Checking the fields of a resource a client sends.

A field that Google Cloud Storage has and this server does not carry out is refused with 501 when it is
set to anything; a field nobody knows is refused with 400. Fields only the server sets are ignored in
requests, because clients send back what they were given.
"""

from __future__ import annotations

from typing import Any

from holdfast.sandbox.gcs.errors import invalid, not_implemented

STORAGE_CLASSES = (
    "STANDARD",
    "NEARLINE",
    "COLDLINE",
    "ARCHIVE",
    "MULTI_REGIONAL",
    "REGIONAL",
    "DURABLE_REDUCED_AVAILABILITY",
)
# What a client sends back of a setting that is off.
_OFF = ({"enabled": False}, {"retentionDurationSeconds": "0"})


def refuse_unknown(body: dict[str, Any], kind: str, known: frozenset[str], refused: frozenset[str]) -> None:
    """Refuse fields of a resource of that kind which are neither known nor off."""
    for key, value in body.items():
        if key in refused:
            if value and value not in _OFF:
                raise not_implemented(f"The {kind} field {key!r}")
        elif key not in known:
            raise invalid(f"Unknown field {key!r} in the {kind} resource.")


def text(key: str, value: object) -> str:
    """A string, or 400."""
    if not isinstance(value, str):
        raise invalid(f"{key}: expected a string, found {value!r}.")
    return value


def flag(key: str, value: object) -> bool:
    """A boolean, or 400."""
    if not isinstance(value, bool):
        raise invalid(f"{key}: expected true or false, found {value!r}.")
    return value


def integer(key: str, value: object) -> int | None:
    """A number that may come as text, as 64-bit numbers do; None for none; 400 for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).isdecimal():
        raise invalid(f"{key}: expected a non-negative integer, found {value!r}.")
    return int(value)


def mapping(key: str, value: object) -> dict[str, Any]:
    """A JSON object, or 400."""
    if not isinstance(value, dict):
        raise invalid(f"{key}: expected an object, found {value!r}.")
    return value


def merged_texts(key: str, value: object, old: dict[str, str]) -> dict[str, str]:
    """Free keys with texts, laid over those before; null removes one."""
    new = dict(old)
    for name, item in mapping(key, value).items():
        if item is None:
            new.pop(name, None)
        else:
            new[name] = text(f"{key}.{name}", item)
    return new


def storage_class(value: object) -> str:
    """The name of a storage class, or 400."""
    if value not in STORAGE_CLASSES:
        raise invalid(f"storageClass: expected one of {', '.join(STORAGE_CLASSES)}, found {value!r}.")
    return str(value)
