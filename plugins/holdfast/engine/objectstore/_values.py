"""Small translations between the interface's values and obstore's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from holdfast.engine.objectstore.interface import ObjectVersion

if TYPE_CHECKING:
    from obstore import GetOptions


def take(source: Iterator[bytes], size_bytes: int) -> list[bytes]:
    """Chunks from the source until they reach so many bytes or it ends."""
    taken: list[bytes] = []
    total = 0
    while total < size_bytes and (chunk := next(source, None)) is not None:
        taken.append(bytes(chunk))
        total += len(chunk)
    return taken


def lower_bound(wanted: str, after: str | None) -> str | None:
    """A key below every wanted one, as near as can be said: where the listing may start."""
    if after is not None and after >= wanted:
        return after
    if not wanted or wanted.endswith("/"):
        return None
    return wanted[:-1] + chr(ord(wanted[-1]) - 1) if wanted[-1].isascii() else None


def read_condition(version: ObjectVersion | None) -> GetOptions:
    """What makes a read refuse every other version."""
    if version is None:
        return {}
    return {"if_match": version.e_tag} if version.e_tag is not None else {"version": version.version}


def same(one: ObjectVersion, other: ObjectVersion) -> bool:
    """Whether both name the same state; the ETag decides where both have one."""
    if one.e_tag is not None and other.e_tag is not None:
        return one.e_tag == other.e_tag
    return one.version == other.version


def version_of(answer: Any) -> ObjectVersion:
    """The version in an answer; Azure's listing gives ETags without their quotes, S3 calls no version ``null``."""
    e_tag, version = answer.get("e_tag"), answer.get("version")
    if e_tag is not None and not e_tag.endswith('"'):
        e_tag = f'"{e_tag}"'
    return ObjectVersion(e_tag=e_tag, version=None if version in (None, "", "null") else str(version))
