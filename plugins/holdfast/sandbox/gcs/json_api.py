"""The JSON API, https://cloud.google.com/storage/docs/json_api: what `google-cloud-storage` and `gcsfs` speak."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import Response

from holdfast.sandbox.gcs import glob, media, resumable
from holdfast.sandbox.gcs.bucket_resource import locked_bucket_fields, merge_bucket_fields, new_bucket_fields
from holdfast.sandbox.gcs.checksums import expected_checksums, verify
from holdfast.sandbox.gcs.context import Context
from holdfast.sandbox.gcs.errors import GcsError, invalid, not_implemented, required
from holdfast.sandbox.gcs.listing import Query, decode_token, encode_token, list_objects
from holdfast.sandbox.gcs.methods import COMMON, Method
from holdfast.sandbox.gcs.names import check_bucket_name, check_object_name
from holdfast.sandbox.gcs.object_resource import merge_object_fields, new_object_fields
from holdfast.sandbox.gcs.preconditions import Preconditions
from holdfast.sandbox.gcs.records import ObjectRecord
from holdfast.sandbox.gcs.related import RelatedUpload, boundary_of
from holdfast.sandbox.gcs.resource_fields import integer, refuse_unknown
from holdfast.sandbox.gcs.storage import Body, Source

_COMPOSE_FIELDS = frozenset(("kind", "sourceObjects", "destination", "deleteSourceObjects"))
_UNSUPPORTED_HEADERS = ("x-goog-encryption-algorithm", "x-goog-copy-source-encryption-algorithm")


async def answer(method: Method, context: Context) -> Response:
    """Carry out one method."""
    check_parameters(method, context)
    return await _HANDLERS[method.id](context)


def check_parameters(method: Method, context: Context) -> None:
    """Refuse parameters that this server does not carry out (501) or that nobody knows (400)."""
    for name, value in context.query.items():
        if name in method.refused:
            if value.lower() != "false":
                raise not_implemented(f"The parameter {name!r} of {method.id}")
        elif name not in method.honoured and name not in COMMON:
            raise invalid(f"Unknown parameter {name!r} for {method.id}.", location=name)
    for name in _UNSUPPORTED_HEADERS:
        if name in context.headers:
            raise not_implemented("Customer-supplied encryption")


# Buckets


async def _list_buckets(context: Context) -> Response:
    limit = min(context.number("maxResults") or 1000, 1000)
    token = context.query.get("pageToken")
    after = decode_token(token)[0] if token else ""
    records = context.storage.list_buckets(_project(context), context.query.get("prefix", ""), after, limit + 1)
    page: dict[str, Any] = {"kind": "storage#buckets"}
    if records:
        page["items"] = [context.bucket(record) for record in records[:limit]]
    if len(records) > limit:
        page["nextPageToken"] = encode_token(records[limit - 1].name)
    return context.json(page)


async def _insert_bucket(context: Context) -> Response:
    body = await context.resource()
    name = check_bucket_name(body.get("name"))
    retention = context.flag("enableObjectRetention")
    fields = new_bucket_fields(body, context.storage.now_us(), object_retention=retention)
    return context.json(context.bucket(await context.storage.create_bucket(name, _project(context), fields)))


async def _get_bucket(context: Context) -> Response:
    record = context.storage.bucket(context.path["bucket"])
    Preconditions.from_query(context.query).check(None, record.metageneration, reading=True)
    return context.json(context.bucket(record))


async def _change_bucket(context: Context, *, replace: bool) -> Response:
    body = await context.resource()
    now = context.storage.now_us()
    record = await context.storage.update_bucket(
        context.path["bucket"],
        Preconditions.from_query(context.query),
        lambda old: merge_bucket_fields(old, body, replace=replace, now_us=now),
    )
    return context.json(context.bucket(record))


async def _patch_bucket(context: Context) -> Response:
    return await _change_bucket(context, replace=False)


async def _update_bucket(context: Context) -> Response:
    return await _change_bucket(context, replace=True)


async def _lock_retention_policy(context: Context) -> Response:
    if "ifMetagenerationMatch" not in context.query:
        raise required("ifMetagenerationMatch")
    preconditions = Preconditions.from_query(context.query)
    record = await context.storage.update_bucket(context.path["bucket"], preconditions, locked_bucket_fields)
    return context.json(context.bucket(record))


async def _delete_bucket(context: Context) -> Response:
    await context.storage.delete_bucket(context.path["bucket"], Preconditions.from_query(context.query))
    return Response(status_code=204)


# Objects


async def _list_objects(context: Context) -> Response:
    bucket = context.storage.bucket(context.path["bucket"])
    token = context.query.get("pageToken")
    after, after_generation = decode_token(token) if token else (None, 0)
    pattern = context.query.get("matchGlob")
    query = Query(
        prefix=context.query.get("prefix", ""),
        delimiter=context.query.get("delimiter", ""),
        start=context.query.get("startOffset", ""),
        end=context.query.get("endOffset") or None,
        after=after,
        after_generation=after_generation,
        versions=context.flag("versions"),
        keep_trailing_delimiter=context.flag("includeTrailingDelimiter"),
        limit=min(context.number("maxResults") or 1000, 1000),
        **({"accept": glob.matcher(pattern)} if pattern else {}),
    )
    database = context.storage.database
    page = await asyncio.to_thread(lambda: list_objects(database.reader(), bucket.name, query))
    resource: dict[str, Any] = {"kind": "storage#objects"}
    if page.next_token:
        resource["nextPageToken"] = page.next_token
    if page.prefixes:
        resource["prefixes"] = page.prefixes
    if page.objects:
        resource["items"] = [context.object(record, bucket) for record in page.objects]
    return context.json(resource)


async def _get_object(context: Context) -> Response:
    preconditions = Preconditions.from_query(context.query)

    def answer(record: ObjectRecord) -> Response:
        preconditions.check(record.generation, record.metageneration, reading=True)
        media.check_entity_tags(context.headers, record.etag)
        if context.query.get("alt") == "media":
            return media.serve(context.storage, record, context.request, record.etag)
        return context.json(context.object(record), headers={"ETag": record.etag})

    return media.answer_latest(context.find_object, answer)


async def _change_object(context: Context, *, replace: bool) -> Response:
    body = await context.resource()
    override = context.flag("overrideUnlockedRetention")
    now = context.storage.now_us()
    bucket = context.storage.bucket(context.path["bucket"])
    record = await context.storage.update(
        bucket.name,
        context.path["object"],
        context.number("generation"),
        Preconditions.from_query(context.query),
        lambda old: merge_object_fields(
            old.fields, body, replace=replace, now_us=now, bucket=bucket, override_unlocked=override
        ),
    )
    return context.json(context.object(record))


async def _patch_object(context: Context) -> Response:
    return await _change_object(context, replace=False)


async def _update_object(context: Context) -> Response:
    return await _change_object(context, replace=True)


async def _delete_object(context: Context) -> Response:
    await context.storage.delete(
        context.path["bucket"],
        context.path["object"],
        context.number("generation"),
        Preconditions.from_query(context.query),
    )
    return Response(status_code=204)


async def _compose(context: Context) -> Response:
    body = await context.resource()
    refuse_unknown(body, "compose request", _COMPOSE_FIELDS, frozenset())
    items = body.get("sourceObjects")
    if not isinstance(items, list) or not 1 <= len(items) <= 32:
        raise invalid("The number of source components provided must be between 1 and 32.")
    bucket = context.path["destinationBucket"]
    sources = []
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise invalid("sourceObjects: expected a name in each.")
        condition = integer("ifGenerationMatch", (item.get("objectPreconditions") or {}).get("ifGenerationMatch"))
        generation = integer("generation", item.get("generation"))
        sources.append(Source(bucket, item["name"], generation, Preconditions(generation_match=condition)))
    fields = new_object_fields(body.get("destination") or {}, context.storage.bucket(bucket))
    name = check_object_name(context.path["destinationObject"])
    record = await context.storage.compose(
        bucket,
        name,
        sources,
        fields,
        Preconditions.from_query(context.query),
        remove_sources=body.get("deleteSourceObjects") is True,
    )
    return context.json(context.object(record))


async def _copied(context: Context) -> dict[str, Any]:
    body = await context.resource()
    bucket = context.storage.bucket(context.path["destinationBucket"])
    sent = new_object_fields(body, bucket)
    record = await context.storage.copy(
        Source(
            context.path["sourceBucket"],
            context.path["sourceObject"],
            context.number("sourceGeneration"),
            Preconditions.from_query(context.query, source=True),
        ),
        bucket.name,
        check_object_name(context.path["destinationObject"]),
        # Metadata that is sent replaces the source's as a whole.
        sent or None,
        Preconditions.from_query(context.query),
    )
    return context.object(record, bucket)


async def _copy(context: Context) -> Response:
    return context.json(await _copied(context))


async def _rewrite(context: Context) -> Response:
    if context.query.get("rewriteToken"):
        raise invalid("rewriteToken: this server finishes every rewrite in one call and gives no token.")
    resource = await _copied(context)
    result = {
        "kind": "storage#rewriteResponse",
        "totalBytesRewritten": resource["size"],
        "objectSize": resource["size"],
        "done": True,
        "resource": resource,
    }
    return context.json(result)


async def _move(context: Context) -> Response:
    bucket, source = context.path["bucket"], context.path["sourceObject"]
    name = check_object_name(context.path["destinationObject"])
    if name == source:
        raise invalid("The source and the destination of a move must differ.")
    record = await context.storage.copy(
        Source(bucket, source, None, Preconditions.from_query(context.query, source=True)),
        bucket,
        name,
        None,
        Preconditions.from_query(context.query),
        remove_source=True,
    )
    return context.json(context.object(record))


# Uploads


async def upload(method: Method, context: Context) -> Response:
    """``objects.insert`` with content: simple, multipart or the start of a resumable upload."""
    kind = context.query.get("uploadType")
    if kind == "resumable":
        return await resumable.start(context, lambda: check_parameters(method, context))
    check_parameters(method, context)
    if kind == "media":
        return await _insert_media(context)
    if kind == "multipart":
        return await _insert_multipart(context)
    raise invalid("uploadType: expected media, multipart or resumable.", location="uploadType")


async def _insert_without_content(_: Context) -> Response:
    raise invalid("Objects are inserted below /upload/storage/v1/.", location="uploadType")


async def _insert_media(context: Context) -> Response:
    fields = {"contentType": context.headers["content-type"]} if "content-type" in context.headers else {}
    expected = expected_checksums(context.headers)
    return await _insert(context, context.query.get("name"), fields, context.request.stream(), expected)


async def _insert_multipart(context: Context) -> Response:
    content_type = context.headers.get("content-type", "")
    if not content_type.lower().startswith("multipart/"):
        raise invalid("Content-Type: expected multipart/related.")
    parts = RelatedUpload(context.request.stream(), boundary_of(content_type))
    resource = await parts.metadata()
    if parts.content_type and "contentType" not in resource:
        resource["contentType"] = parts.content_type
    expected = expected_checksums(context.headers, resource)
    name = context.query.get("name") or resource.get("name")
    return await _insert(context, name, resource, parts.content(), expected)


async def _insert(
    context: Context, name: Any, resource: dict[str, Any], stream: Any, expected: dict[str, str]
) -> Response:
    storage = context.storage
    bucket = storage.bucket(context.path["bucket"])
    preconditions = Preconditions.from_query(context.query)
    if context.query.get("contentEncoding"):
        resource = {**resource, "contentEncoding": context.query["contentEncoding"]}
    fields = new_object_fields(resource, bucket)
    name = check_object_name(name)
    storage.check_put(bucket.name, name, preconditions)
    content = await storage.blobs.receive(stream)
    try:
        verify(expected, content.checksums)
        record = await storage.put(bucket.name, name, Body.of(content), fields, preconditions)
    except (GcsError, sqlite3.Error):
        storage.blobs.discard(content)
        raise
    return context.json(context.object(record, bucket))


def _project(context: Context) -> str:
    project = context.query.get("project") or context.default_project
    if not project:
        raise required("project")
    return project


_HANDLERS: dict[str, Callable[[Context], Awaitable[Response]]] = {
    "buckets.list": _list_buckets,
    "buckets.insert": _insert_bucket,
    "buckets.get": _get_bucket,
    "buckets.patch": _patch_bucket,
    "buckets.update": _update_bucket,
    "buckets.delete": _delete_bucket,
    "buckets.lockRetentionPolicy": _lock_retention_policy,
    "objects.list": _list_objects,
    "objects.insert": _insert_without_content,
    "objects.get": _get_object,
    "objects.patch": _patch_object,
    "objects.update": _update_object,
    "objects.delete": _delete_object,
    "objects.compose": _compose,
    "objects.copy": _copy,
    "objects.rewrite": _rewrite,
    "objects.move": _move,
}
