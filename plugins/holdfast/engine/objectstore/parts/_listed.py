"""Listings as the services write them, read here for keys that obstore's paths cannot hold: see `exact`.

S3 and Google Cloud Storage (which answers ListObjectsV2 too) write one document, Azure another. Keys come exactly as
they are, with empty segments, control characters and a slash at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, unquote_plus
from xml.etree.ElementTree import Element

from holdfast.engine.objectstore._translate import Call
from holdfast.engine.objectstore._values import version_of
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.objectstore.interface import ObjectInfo
from holdfast.engine.objectstore.pages import PAGE_OBJECTS
from holdfast.engine.objectstore.parts._http import children, texts


@dataclass(frozen=True, slots=True)
class Listed:
    """One page: objects by their keys in the bucket, and what asks for the next one; ``None``: there is none."""

    objects: list[ObjectInfo]
    next: str | None


def s3_query(wanted: str, after: str | None, token: str | None) -> dict[str, str]:
    """The query of ListObjectsV2 for keys that begin with ``wanted``, after one key or a page's end."""
    query = {"list-type": "2", "prefix": wanted, "encoding-type": "url", "max-keys": str(PAGE_OBJECTS)}
    if token is not None:
        return {**query, "continuation-token": token}
    return query if after is None else {**query, "start-after": after}


def azure_query(wanted: str, token: str | None) -> dict[str, str]:
    """The query of List Blobs; it can not begin after a key."""
    query = {"restype": "container", "comp": "list", "prefix": wanted, "maxresults": str(PAGE_OBJECTS)}
    return query if token is None else {**query, "marker": token}


def s3_listed(root: Element | None, call: Call) -> Listed:
    """A page of S3's or Google's. Raises StoreUnavailable for any other document."""
    if root is None or root.tag.rpartition("}")[2] != "ListBucketResult":
        raise _no_listing(call)
    page = texts(root)
    plain: Callable[[str], str] = unquote_plus if page.get("EncodingType") == "url" else str
    found = []
    for element in children(root, "Contents"):
        said = texts(element)
        at = datetime.fromisoformat(said["LastModified"].replace("Z", "+00:00"))
        found.append(_info(plain(said["Key"]), said["Size"], at, said.get("ETag")))
    return Listed(found, page.get("NextContinuationToken") if page.get("IsTruncated") == "true" else None)


def azure_listed(root: Element | None, call: Call) -> Listed:
    """A page of Azure's. Raises StoreUnavailable for any other document."""
    if root is None or root.tag.rpartition("}")[2] != "EnumerationResults":
        raise _no_listing(call)
    found = []
    for blob in (blob for blobs in children(root, "Blobs") for blob in children(blobs, "Blob")):
        said = texts(children(blob, "Properties")[0])
        if said.get("ResourceType") == "directory":
            continue
        name = children(blob, "Name")[0]
        key = unquote(name.text or "") if name.get("Encoded") == "true" else (name.text or "")
        at = parsedate_to_datetime(said["Last-Modified"])
        found.append(_info(key, said.get("Content-Length") or "0", at, said.get("Etag")))
    return Listed(found, texts(root).get("NextMarker") or None)


def _info(key: str, size: str, at: datetime, e_tag: str | None) -> ObjectInfo:
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return ObjectInfo(key=key, size_bytes=int(size), modified_at=at, version=version_of({"e_tag": e_tag}))


def _no_listing(call: Call) -> StoreUnavailable:
    return StoreUnavailable("the answer is not a listing", where=call.where)
