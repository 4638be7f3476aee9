"""Multipart uploads of the XML API, https://cloud.google.com/storage/docs/multipart-uploads.

Parts arrive in any order and at once. Completing joins them by reference: nothing is copied, and the CRC32C
of the whole follows from those of the parts. As in Google Cloud Storage the result has no MD5.
"""

from __future__ import annotations

import base64
import json
import secrets
import sqlite3
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from starlette.responses import Response

from holdfast.sandbox.gcs.blobs import Segment
from holdfast.sandbox.gcs.checksums import (
    Checksums,
    combine_crc32c,
    decode_crc32c,
    encode_crc32c,
    expected_checksums,
    verify,
)
from holdfast.sandbox.gcs.context import Context
from holdfast.sandbox.gcs.database import Transaction
from holdfast.sandbox.gcs.errors import GcsError, invalid, no_upload
from holdfast.sandbox.gcs.names import check_object_name
from holdfast.sandbox.gcs.records import ObjectRecord
from holdfast.sandbox.gcs.storage import NO_PRECONDITIONS, Body
from holdfast.sandbox.gcs.xml import UPLOAD_NAMESPACE, document

SMALLEST_PART_BYTES = 5 * 1024 * 1024
MOST_PARTS = 10_000
_XML = "application/xml; charset=UTF-8"


async def initiate(context: Context, fields: dict[str, Any]) -> Response:
    """``POST ?uploads``: a new upload id."""
    bucket = context.storage.bucket(context.path["bucket"]).name
    name = check_object_name(context.path["object"])
    upload_id = secrets.token_urlsafe(48)
    now = context.storage.now_us()
    row = (upload_id, bucket, name, now, json.dumps(fields))
    await context.storage.database.change(lambda tx: tx.execute("INSERT INTO multipart VALUES (?, ?, ?, ?, ?)", row))
    inside = f"<Bucket>{escape(bucket)}</Bucket><Key>{escape(name)}</Key><UploadId>{upload_id}</UploadId>"
    return Response(document("InitiateMultipartUploadResult", UPLOAD_NAMESPACE, inside), media_type=_XML)


async def put_part(context: Context) -> Response:
    """``PUT ?partNumber&uploadId``: a part; one sent again replaces the one before."""
    storage = context.storage
    upload_id = context.query.get("uploadId", "")
    number = context.number("partNumber")
    if number is None or not 1 <= number <= MOST_PARTS:
        raise invalid(f"partNumber: expected 1 to {MOST_PARTS}.")
    _upload(storage.database.reader(), context, upload_id)
    expected = expected_checksums(context.headers)
    content = await storage.blobs.receive(context.request.stream())

    def change(tx: Transaction) -> None:
        _upload(tx, context, upload_id)
        old = tx.execute("SELECT blob FROM part WHERE upload = ? AND number = ?", (upload_id, number)).fetchone()
        tx.execute("INSERT INTO blob VALUES (?, ?, ?)", (content.blob_id, content.size_bytes, content.data))
        tx.execute(
            "INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                upload_id,
                number,
                content.blob_id,
                content.size_bytes,
                content.checksums.crc32c,
                content.checksums.md5,
                storage.now_us(),
            ),
        )
        if old is not None:
            tx.drop_blobs([old["blob"]])

    try:
        verify(expected, content.checksums)
        await storage.database.change(change)
    except (GcsError, sqlite3.Error):
        storage.blobs.discard(content)
        raise
    headers = {"ETag": _part_etag(content.checksums.md5 or ""), "x-goog-hash": content.checksums.goog_hash()}
    return Response(headers=headers)


async def complete(context: Context) -> Response:
    """``POST ?uploadId``: the object, out of the parts named in the body."""
    storage = context.storage
    upload_id = context.query.get("uploadId", "")
    wanted = _parse_completion(await context.body())

    def change(tx: Transaction) -> ObjectRecord:
        upload = _upload(tx, context, upload_id)
        rows = {row["number"]: row for row in tx.execute("SELECT * FROM part WHERE upload = ?", (upload_id,))}
        chosen = []
        for number, etag in wanted:
            row = rows.get(number)
            if row is None or _part_etag(row["md5"]).strip('"') != etag.strip('"'):
                raise invalid(f"Part {number} was not uploaded, or its ETag differs.", xml_code="InvalidPart")
            chosen.append(row)
        if any(row["size_bytes"] < SMALLEST_PART_BYTES for row in chosen[:-1]):
            raise invalid(f"Every part but the last must have {SMALLEST_PART_BYTES} bytes.", xml_code="EntityTooSmall")
        crc32c = 0
        segments = []
        for row in chosen:
            crc32c = combine_crc32c(crc32c, decode_crc32c(row["crc32c"]), row["size_bytes"])
            segments.append(Segment(row["blob"], row["size_bytes"], None))
        body = Body(tuple(segments), Checksums(encode_crc32c(crc32c), None))
        record = storage.insert(
            tx, upload["bucket"], upload["name"], body, json.loads(upload["fields"]), NO_PRECONDITIONS
        )
        _forget(tx, upload_id)
        return record

    record = await storage.database.change(change)
    location = f"{context.base_url}/{record.bucket}/{record.name}"
    inside = (
        f"<Location>{escape(location)}</Location><Bucket>{escape(record.bucket)}</Bucket>"
        f"<Key>{escape(record.name)}</Key><ETag>{escape(record.xml_etag)}</ETag>"
    )
    headers = {"x-goog-generation": str(record.generation), "x-goog-hash": record.checksums.goog_hash()}
    return Response(
        document("CompleteMultipartUploadResult", UPLOAD_NAMESPACE, inside), headers=headers, media_type=_XML
    )


async def abort(context: Context) -> Response:
    """``DELETE ?uploadId``: drop the parts."""
    upload_id = context.query.get("uploadId", "")

    def change(tx: Transaction) -> None:
        _upload(tx, context, upload_id)
        _forget(tx, upload_id)

    await context.storage.database.change(change)
    return Response(status_code=204)


def _forget(tx: Transaction, upload_id: str) -> None:
    blobs = [row["blob"] for row in tx.execute("SELECT blob FROM part WHERE upload = ?", (upload_id,))]
    tx.execute("DELETE FROM part WHERE upload = ?", (upload_id,))
    tx.execute("DELETE FROM multipart WHERE id = ?", (upload_id,))
    tx.drop_blobs(blobs)


def _upload(connection: Any, context: Context, upload_id: str) -> sqlite3.Row:
    row = connection.execute(
        "SELECT * FROM multipart WHERE id = ? AND bucket = ? AND name = ?",
        (upload_id, context.path["bucket"], context.path["object"]),
    ).fetchone()
    if row is None:
        context.storage.bucket(context.path["bucket"])
        raise no_upload(upload_id)
    assert isinstance(row, sqlite3.Row)
    return row


def _parse_completion(body: bytes) -> list[tuple[int, str]]:
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise invalid("The request body is malformed.", xml_code="MalformedCompleteMultipartUploadRequest")
    parts = []
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - entities are refused above
        for part in (element for element in root if _local(element) == "Part"):
            values = {_local(element): (element.text or "").strip() for element in part}
            parts.append((int(values["PartNumber"]), values["ETag"]))
    except (ElementTree.ParseError, KeyError, ValueError):
        parts = []
    if not parts:
        raise invalid("The request body is malformed.", xml_code="MalformedCompleteMultipartUploadRequest")
    numbers = [number for number, _ in parts]
    if sorted(set(numbers)) != numbers:
        raise invalid("The parts are not in ascending order.", xml_code="InvalidPartOrder")
    return parts


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _part_etag(md5: str) -> str:
    return f'"{base64.b64decode(md5).hex()}"'
