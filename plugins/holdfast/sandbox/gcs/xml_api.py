"""The XML API, https://cloud.google.com/storage/docs/xml-api: what Rust's `object_store` (`obstore`) speaks.

Objects only; buckets are made through the JSON API. Writes take ``x-goog-if-*`` conditions; entity tag and time
conditions guard reads only, and on a write are refused rather than ignored.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

from starlette.responses import Response

from holdfast.sandbox.gcs import media, multipart
from holdfast.sandbox.gcs.checksums import expected_checksums, verify
from holdfast.sandbox.gcs.context import Context
from holdfast.sandbox.gcs.errors import GcsError, invalid, not_implemented
from holdfast.sandbox.gcs.listing import Page, Query, decode_token, list_objects
from holdfast.sandbox.gcs.names import check_object_name, decoded
from holdfast.sandbox.gcs.object_resource import new_object_fields
from holdfast.sandbox.gcs.preconditions import Preconditions
from holdfast.sandbox.gcs.records import ObjectRecord, rfc3339
from holdfast.sandbox.gcs.resource_fields import integer
from holdfast.sandbox.gcs.storage import Body, Source
from holdfast.sandbox.gcs.xml import LIST_NAMESPACE, document

_TEXT_HEADERS = {
    "content-type": "contentType",
    "cache-control": "cacheControl",
    "content-disposition": "contentDisposition",
    "content-encoding": "contentEncoding",
    "content-language": "contentLanguage",
    "x-goog-custom-time": "customTime",
    "x-goog-storage-class": "storageClass",
}
_CONDITIONS = frozenset(
    f"x-goog-if-{kind}"
    for kind in ("generation-match", "generation-not-match", "metageneration-match", "metageneration-not-match")
)
_COPY_CONDITIONS = frozenset(name.replace("x-goog-if", "x-goog-copy-source-if") for name in _CONDITIONS)
_COPY_HEADERS = _COPY_CONDITIONS | {
    "x-goog-copy-source",
    "x-goog-copy-source-generation",
    "x-goog-metadata-directive",
}
# About the caller, its library or its bill; nothing here depends on them.
_WITHOUT_EFFECT = frozenset(
    ("x-goog-api-client", "x-goog-user-project", "x-goog-project-id", "x-goog-date", "x-goog-gcs-idempotency-token")
)
_HTTP_CONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")


async def answer_object(context: Context) -> Response:
    """A request for ``/{bucket}/{object}``."""
    handler = _VERBS.get(context.request.method)
    if handler is None:
        raise not_implemented(f"The XML API's {context.request.method} of an object")
    return await handler(context)


async def _answer_get(context: Context) -> Response:
    _only(context, {"generation"})
    _headers(context, _CONDITIONS, reading=True)
    preconditions = Preconditions.from_headers(context.headers)

    def answer(record: ObjectRecord) -> Response:
        preconditions.check(record.generation, record.metageneration, reading=True)
        media.check_entity_tags(context.headers, record.xml_etag)
        media.check_times(context.headers, record.updated_us)
        return media.serve(context.storage, record, context.request, record.xml_etag)

    return media.answer_latest(context.find_object, answer)


async def _answer_put(context: Context) -> Response:
    if "partNumber" in context.query or "uploadId" in context.query:
        _only(context, {"partNumber", "uploadId"})
        _headers(context, frozenset(("x-goog-hash",)))
        return await multipart.put_part(context)
    _only(context, set())
    if "x-goog-copy-source" in context.headers:
        _headers(context, _CONDITIONS | _COPY_HEADERS | _settable(context))
        return await _copy(context)
    _headers(context, _CONDITIONS | {"x-goog-hash"} | _settable(context))
    return await _put(context)


async def _answer_delete(context: Context) -> Response:
    _headers(context, _CONDITIONS)
    if "uploadId" in context.query:
        _only(context, {"uploadId"})
        return await multipart.abort(context)
    _only(context, {"generation"})
    generation = context.number("generation")
    preconditions = Preconditions.from_headers(context.headers)
    await context.storage.delete(context.path["bucket"], context.path["object"], generation, preconditions)
    return Response(status_code=204)


async def _answer_post(context: Context) -> Response:
    if set(context.query) == {"uploads"}:
        _headers(context, _settable(context))
        return await multipart.initiate(context, fields_from_headers(context))
    if set(context.query) == {"uploadId"}:
        _headers(context, frozenset())
        return await multipart.complete(context)
    raise not_implemented("A POST other than a multipart upload in the XML API")


_VERBS = {
    "GET": _answer_get,
    "HEAD": _answer_get,
    "PUT": _answer_put,
    "DELETE": _answer_delete,
    "POST": _answer_post,
}


async def answer_bucket(context: Context) -> Response:
    """A request for ``/{bucket}``."""
    verb = context.request.method
    if verb == "HEAD" and not context.query:
        record = context.storage.bucket(context.path["bucket"])
        return Response(headers={"x-goog-metageneration": str(record.metageneration)})
    if verb != "GET":
        raise not_implemented(f"The XML API's {verb} of a bucket")
    if context.query.get("list-type", "1") not in ("1", "2"):
        raise invalid("list-type: expected 1 or 2.")
    second = context.query.get("list-type") == "2"
    known = {"list-type", "prefix", "delimiter", "max-keys", "encoding-type"}
    known |= {"continuation-token", "start-after"} if second else {"marker"}
    _only(context, known)
    return await _list(context, second=second)


def fields_from_headers(context: Context) -> dict[str, Any]:
    """The metadata a new object takes from the request's headers."""
    resource: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for name, value in context.headers.items():
        value = _decoded(value)
        if name in _TEXT_HEADERS:
            resource[_TEXT_HEADERS[name]] = value
        elif name.startswith("x-goog-meta-"):
            metadata[name.removeprefix("x-goog-meta-")] = value
    if metadata:
        resource["metadata"] = metadata
    return new_object_fields(resource)


async def _put(context: Context) -> Response:
    storage, bucket = context.storage, context.path["bucket"]
    name = check_object_name(context.path["object"])
    preconditions = Preconditions.from_headers(context.headers)
    fields = fields_from_headers(context)
    expected = expected_checksums(context.headers)
    storage.check_put(bucket, name, preconditions)
    content = await storage.blobs.receive(context.request.stream())
    try:
        verify(expected, content.checksums)
        record = await storage.put(bucket, name, Body.of(content), fields, preconditions)
    except (GcsError, sqlite3.Error):
        storage.blobs.discard(content)
        raise
    return Response(headers=written_headers(record))


async def _copy(context: Context) -> Response:
    raw = context.headers["x-goog-copy-source"].removeprefix("/")
    bucket, _, name = raw.partition("/")
    if not name:
        raise invalid("x-goog-copy-source: expected bucket/object.")
    generation = context.headers.get("x-goog-copy-source-generation")
    directive = context.headers.get("x-goog-metadata-directive", "COPY").upper()
    if directive not in ("COPY", "REPLACE"):
        raise invalid("x-goog-metadata-directive: expected COPY or REPLACE.")
    record = await context.storage.copy(
        Source(
            decoded(bucket),
            decoded(name),
            integer("x-goog-copy-source-generation", generation),
            Preconditions.from_headers(context.headers, source=True),
        ),
        context.path["bucket"],
        check_object_name(context.path["object"]),
        fields_from_headers(context) if directive == "REPLACE" else None,
        Preconditions.from_headers(context.headers),
    )
    body = document(
        "CopyObjectResult",
        LIST_NAMESPACE,
        f"<LastModified>{rfc3339(record.updated_us)}</LastModified><ETag>{escape(record.xml_etag)}</ETag>",
    )
    return Response(body, headers=written_headers(record), media_type="application/xml; charset=UTF-8")


async def _list(context: Context, *, second: bool) -> Response:
    bucket = context.storage.bucket(context.path["bucket"]).name
    limit = min(_max_keys(context), 1000)
    token = context.query.get("continuation-token")
    start_after = context.query.get("start-after" if second else "marker")
    after, after_generation = (None, 0)
    if token:
        after, after_generation = decode_token(token)
    elif start_after is not None:
        # A version 1 marker may be a folded prefix that was listed last; then all of it is passed over.
        delimiter = context.query.get("delimiter")
        folded = not second and delimiter and start_after.endswith(delimiter)
        after, after_generation = start_after, 0 if folded else 2**63 - 1
    query = Query(
        prefix=context.query.get("prefix", ""),
        delimiter=context.query.get("delimiter", ""),
        after=after,
        after_generation=after_generation,
        limit=limit,
    )
    written = _writer(context)
    database = context.storage.database
    page = Page([], [], None)
    if limit:
        page = await asyncio.to_thread(lambda: list_objects(database.reader(), bucket, query))
    parts = [
        f"<Name>{escape(bucket)}</Name><Prefix>{written(query.prefix)}</Prefix>",
        "<EncodingType>url</EncodingType>" if "encoding-type" in context.query else "",
        f"<Delimiter>{written(query.delimiter)}</Delimiter>" if query.delimiter else "",
        f"<MaxKeys>{limit}</MaxKeys><IsTruncated>{'true' if page.next_token else 'false'}</IsTruncated>",
    ]
    if second:
        parts.append(f"<KeyCount>{len(page.objects) + len(page.prefixes)}</KeyCount>")
        if page.next_token:
            parts.append(f"<NextContinuationToken>{page.next_token}</NextContinuationToken>")
    else:
        parts.append(f"<Marker>{written(start_after or '')}</Marker>")
        if page.next_token:
            parts.append(f"<NextMarker>{written(decode_token(page.next_token)[0])}</NextMarker>")
    parts.extend(
        f"<Contents><Key>{written(record.name)}</Key><Generation>{record.generation}</Generation>"
        f"<MetaGeneration>{record.metageneration}</MetaGeneration>"
        f"<LastModified>{rfc3339(record.updated_us)}</LastModified><ETag>{escape(record.xml_etag)}</ETag>"
        f"<Size>{record.size_bytes}</Size><StorageClass>{record.storage_class}</StorageClass></Contents>"
        for record in page.objects
    )
    parts.extend(f"<CommonPrefixes><Prefix>{written(prefix)}</Prefix></CommonPrefixes>" for prefix in page.prefixes)
    body = document("ListBucketResult", LIST_NAMESPACE, "".join(parts))
    return Response(body, media_type="application/xml; charset=UTF-8")


def written_headers(record: ObjectRecord) -> dict[str, str]:
    """The headers that answer a write."""
    return {
        "ETag": record.xml_etag,
        "x-goog-generation": str(record.generation),
        "x-goog-metageneration": str(record.metageneration),
        "x-goog-hash": record.checksums.goog_hash(),
        "x-goog-stored-content-encoding": record.fields.get("contentEncoding", "identity"),
        "x-goog-stored-content-length": str(record.size_bytes),
    }


def _writer(context: Context) -> Callable[[str], str]:
    """How names are written: percent-encoded where that is asked for, because XML cannot hold every character."""
    if (asked := context.query.get("encoding-type")) not in (None, "url"):
        raise invalid(f"encoding-type: expected url, found {asked}.")
    return quote if asked else escape


def _max_keys(context: Context) -> int:
    text = context.query.get("max-keys", "1000")
    if not text.isdecimal():
        raise invalid("max-keys: expected a non-negative integer.")
    return int(text)


def _only(context: Context, known: set[str]) -> None:
    unknown = sorted(set(context.query) - known)
    if unknown:
        raise not_implemented(f"The XML API's {context.request.method} with {', '.join(unknown)}")


def _settable(context: Context) -> frozenset[str]:
    metadata = {name for name in context.headers if name.startswith("x-goog-meta-")}
    return frozenset(metadata | {"x-goog-custom-time", "x-goog-storage-class"})


def _headers(context: Context, known: frozenset[str], *, reading: bool = False) -> None:
    for name in context.headers:
        if name.startswith("x-goog-") and name not in known and name not in _WITHOUT_EFFECT:
            raise not_implemented(f"The XML API's header {name} in this request")
        if name.startswith("x-amz-"):
            raise not_implemented(f"The header {name}")
        if name in _HTTP_CONDITIONS and not reading:
            raise not_implemented(f"{name} on a write (use x-goog-if-generation-match)")


def _decoded(value: str) -> str:
    """A header value that came as UTF-8 and was read as latin-1."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value
