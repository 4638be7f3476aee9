"""An S3 in memory that costs little, so that a benchmark measures the clients: one process, one event loop, no disk.

It does what clients of the benchmark use: PUT (create-only, compare-and-swap), GET (ranges, pinned), HEAD, DELETE, both
listings, multipart uploads. ETags are the MD5 S3 would give; a CRC-64/NVME that is sent is checked, kept and told.
Signatures are not checked, and nothing else is claimed: what stores promise is tested against the emulators.

    python memory_s3.py PORT
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import signal
import sys
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from itertools import count
from urllib.parse import parse_qsl, quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import uvloop
from awscrt import checksums

_SCRATCH_BYTES = 128 * 1024
_HASH_ASIDE_BYTES = 1024 * 1024
_LARGEST_BODY_BYTES = 1 << 30
_PAGE = 1000
_KEPT = ("content-type", "cache-control", "content-disposition", "content-encoding", "content-language")
_REASONS = {200: "OK", 204: "No Content", 206: "Partial Content", 404: "Not Found", 412: "Precondition Failed"}


@dataclass(slots=True)
class Stored:
    """An object, in the pieces in which it came."""

    pieces: list[bytearray]
    size: int
    tag: str
    #: Everything its GET and HEAD say of it, as lines of a head.
    head: bytes
    #: Its row in a listing, before and after the key.
    row: str
    crc: str | None


@dataclass(slots=True)
class Upload:
    """A multipart upload; parts are (data, MD5, CRC)."""

    key: str
    headers: dict[str, str]
    parts: dict[int, tuple[bytearray, bytes, int | None]] = field(default_factory=dict)


class Refused(Exception):
    """An S3 error."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class Bucket:
    """All objects of the server; there is one bucket, whatever its name."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.keys: list[str] = []
        self.uploads: dict[str, Upload] = {}
        self._numbers = count(1)

    def put(self, key: str, headers: dict[str, str], pieces: list[bytearray], tag: str, crc: str | None) -> Stored:
        """Keep an object whose conditions hold."""
        self.check(key, headers)
        now, size = datetime.now(UTC), sum(map(len, pieces))
        said = [
            f"{name}: {value}" for name, value in headers.items() if name in _KEPT or name.startswith("x-amz-meta-")
        ]
        if not any(line.startswith("content-type") for line in said):
            said.append("content-type: binary/octet-stream")
        lines = [f'ETag: "{tag}"', f"Last-Modified: {formatdate(now.timestamp(), usegmt=True)}", *said]
        at = now.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        row = (
            f"</Key><LastModified>{at}</LastModified><ETag>&quot;{tag}&quot;</ETag><Size>{size}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )
        head = ("\r\n".join(lines) + "\r\nAccept-Ranges: bytes\r\n").encode("latin-1")
        stored = Stored(pieces, size, tag, head, row, crc)
        if key not in self.objects:
            if not self.keys or key > self.keys[-1]:
                self.keys.append(key)
            else:
                insort(self.keys, key)
        self.objects[key] = stored
        return stored

    def check(self, key: str, headers: dict[str, str]) -> None:
        """What the request demands of the object that is there."""
        there = self.objects.get(key)
        if headers.get("if-none-match") == "*" and there is not None:
            raise Refused(412, "PreconditionFailed")
        wanted = headers.get("if-match")
        if wanted is not None and (there is None or wanted.strip('"') != there.tag):
            raise Refused(412, "PreconditionFailed") if there is not None else Refused(404, "NoSuchKey")

    def delete(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]

    def begin(self, key: str, headers: dict[str, str]) -> str:
        upload_id = f"upload-{next(self._numbers)}"
        self.uploads[upload_id] = Upload(key, headers)
        return upload_id

    def upload(self, upload_id: str) -> Upload:
        try:
            return self.uploads[upload_id]
        except KeyError:
            raise Refused(404, "NoSuchUpload") from None

    def listing(self, bucket: str, query: dict[str, str]) -> str:
        """A page of either listing."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        token = unquote(query["continuation-token"]) if "continuation-token" in query else None
        after = token or query.get("start-after") or query.get("marker") or ""
        most = min(int(query.get("max-keys", _PAGE)), _PAGE)
        plain = quote if query.get("encoding-type") == "url" else escape
        at = bisect_right(self.keys, after) if after >= prefix and after else bisect_left(self.keys, prefix)
        rows: list[str] = []
        last, more, found = "", False, 0
        while at < len(self.keys) and self.keys[at].startswith(prefix):
            if found == most:
                more = True
                break
            key = self.keys[at]
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                folder = key[: cut + len(delimiter)]
                last, at = folder + "\U0010ffff", bisect_left(self.keys, folder + "\U0010ffff")
                rows.append(f"<CommonPrefixes><Prefix>{plain(folder)}</Prefix></CommonPrefixes>")
            else:
                last, at = key, at + 1
                rows.append(f"<Contents><Key>{plain(key)}{self.objects[key].row}")
            found += 1
        follow = ""
        if more:
            follow = (
                f"<NextContinuationToken>{quote(last, safe='')}</NextContinuationToken>"
                f"<NextMarker>{plain(last)}</NextMarker>"
            )
        encoding = "<EncodingType>url</EncodingType>" if plain is quote else ""
        return (
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{plain(prefix)}</Prefix><KeyCount>{found}</KeyCount>"
            f"<MaxKeys>{most}</MaxKeys>{encoding}<IsTruncated>{str(more).lower()}</IsTruncated>{follow}"
            f"{''.join(rows)}</ListBucketResult>"
        )


class Connection(asyncio.BufferedProtocol):
    """One client's connection; a body is received where it stays."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._raw = bytearray(_SCRATCH_BYTES)
        self._scratch = memoryview(self._raw)
        self._filled = 0
        self._body: bytearray | None = None
        self._view = memoryview(b"")
        self._received = 0
        self._request: tuple[str, str, dict[str, str]] = ("", "", {})
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._scratch[self._filled :] if self._body is None else self._view[self._received :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._body is None:
            self._filled += nbytes
            self._heads()
            return
        self._received += nbytes
        if self._received == len(self._body):
            body, self._body, self._view = self._body, None, memoryview(b"")
            self._answered(body)

    def _heads(self) -> None:
        while self._body is None and self._filled:
            end = self._raw.find(b"\r\n\r\n", 0, self._filled)
            if end < 0:
                return
            first, *lines = self._raw[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            method, target, _ = first.split(" ", 2)
            self._request = (method, target, headers)
            length = int(headers.get("content-length") or 0)
            if length > _LARGEST_BODY_BYTES:
                self._send(400, b"")
                return
            if headers.get("expect") and self._transport is not None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            begin, have = end + 4, self._filled
            stop = min(begin + length, have)
            body = bytearray(self._scratch[begin:stop]) if stop - begin == length else bytearray(length)
            if stop - begin < length:
                self._view = memoryview(body)
                self._view[: stop - begin] = self._scratch[begin:stop]
                self._body, self._received = body, stop - begin
            self._filled = have - stop
            if self._filled:
                self._raw[: self._filled] = self._raw[stop:have]
            if self._body is None:
                self._answered(body)

    def _answered(self, body: bytearray) -> None:
        method, target, headers = self._request
        path, _, query = target.partition("?")
        parts = path.lstrip("/").split("/", 1)
        bucket, key = parts[0], unquote(parts[1]) if len(parts) > 1 else ""
        asked = dict(parse_qsl(query, keep_blank_values=True))
        if headers.get("content-encoding", "").startswith("aws-chunked") or "x-amz-decoded-content-length" in headers:
            body = dechunked(body)
            headers.pop("content-encoding", None)
        if method == "PUT" and len(body) > _HASH_ASIDE_BYTES:
            task = asyncio.get_running_loop().create_task(self._put_large(key, asked, headers, body))
            task.add_done_callback(lambda done: done.exception())
            return
        try:
            self._answer(method, bucket, key, asked, headers, body, None)
        except Refused as error:
            self._refuse(error)

    async def _put_large(self, key: str, asked: dict[str, str], headers: dict[str, str], body: bytearray) -> None:
        """Hashing a part would keep the others waiting."""
        digest = await asyncio.get_running_loop().run_in_executor(None, lambda: hashlib.md5(body).digest())
        try:
            self._answer("PUT", "", key, asked, headers, body, digest)
        except Refused as error:
            self._refuse(error)

    def _answer(
        self,
        method: str,
        bucket: str,
        key: str,
        asked: dict[str, str],
        headers: dict[str, str],
        body: bytearray,
        digest: bytes | None,
    ) -> None:
        if method in ("GET", "HEAD") and key and "uploadId" not in asked:
            self._get(method, key, headers)
        elif method == "PUT" and "partNumber" in asked:
            crc = checked(body, headers)
            digest = digest or hashlib.md5(body).digest()
            self._bucket.upload(asked["uploadId"]).parts[int(asked["partNumber"])] = (body, digest, crc)
            said = f"x-amz-checksum-crc64nvme: {told(crc)}\r\n" if crc is not None else ""
            self._send(200, b"", f'ETag: "{digest.hex()}"\r\n{said}'.encode())
        elif method == "PUT" and key:
            crc = checked(body, headers)
            digest = digest or hashlib.md5(body).digest()
            stored = self._bucket.put(key, headers, [body], digest.hex(), None if crc is None else told(crc))
            said = f"x-amz-checksum-crc64nvme: {stored.crc}\r\n" if crc is not None else ""
            self._send(200, b"", f'ETag: "{stored.tag}"\r\n{said}'.encode())
        elif method == "PUT" or (method == "HEAD" and not key):
            self._send(200, b"")
        elif method == "POST" and "uploads" in asked:
            upload_id = self._bucket.begin(key, headers)
            self._xml(
                f"<InitiateMultipartUploadResult><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>"
            )
        elif method == "POST" and "uploadId" in asked:
            self._complete(key, asked["uploadId"], headers, body)
        elif method == "DELETE" and "uploadId" in asked:
            self._bucket.uploads.pop(asked["uploadId"], None)
            self._send(204, b"")
        elif method == "DELETE":
            self._bucket.delete(key)
            self._send(204, b"")
        elif method == "GET" and "uploadId" in asked:
            self._parts(asked["uploadId"])
        elif method == "GET" and "uploads" in asked:
            self._xml("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>")
        elif method == "GET" and not key and "location" not in asked:
            self._xml(self._bucket.listing(bucket, asked))
        else:
            raise Refused(501, "NotImplemented")

    def _get(self, method: str, key: str, headers: dict[str, str]) -> None:
        stored = self._bucket.objects.get(key)
        if stored is None:
            raise Refused(404, "NoSuchKey")
        if (wanted := headers.get("if-match")) is not None and wanted.strip('"') != stored.tag:
            raise Refused(412, "PreconditionFailed")
        said = stored.head
        if stored.crc is not None and headers.get("x-amz-checksum-mode") and "range" not in headers:
            said += f"x-amz-checksum-crc64nvme: {stored.crc}\r\nx-amz-checksum-type: FULL_OBJECT\r\n".encode()
        if method == "HEAD":
            self._send(200, b"", said, length=stored.size)
        elif (span := headers.get("range", "")).startswith("bytes="):
            start, _, end = span[6:].partition("-")
            size = stored.size
            low = int(start) if start else max(0, size - int(end))
            high = min(int(end), size - 1) if start and end else size - 1
            if low > high:
                raise Refused(416, "InvalidRange")
            said += f"Content-Range: bytes {low}-{high}/{size}\r\n".encode()
            self._send_pieces(206, cut(stored.pieces, low, high + 1), high + 1 - low, said)
        else:
            self._send_pieces(200, stored.pieces, stored.size, said)

    def _complete(self, key: str, upload_id: str, headers: dict[str, str], body: bytearray) -> None:
        upload = self._bucket.upload(upload_id)
        root = ElementTree.fromstring(bytes(body))
        numbers = [int(node.text or 0) for node in root.iter() if node.tag.rpartition("}")[2] == "PartNumber"]
        if any(number not in upload.parts for number in numbers):
            raise Refused(400, "InvalidPart")
        chosen = [upload.parts[number] for number in numbers]
        crc: int | None = 0
        for part, _, part_crc in chosen:
            known = crc is not None and part_crc is not None
            crc = checksums.combine_crc64nvme(crc, part_crc, len(part)) if known else None
        wanted = headers.get("x-amz-checksum-crc64nvme")
        if wanted is not None and crc is not None and told(crc) != wanted:
            raise Refused(400, "BadDigest")
        tag = f"{hashlib.md5(b''.join(digest for _, digest, _ in chosen)).hexdigest()}-{len(chosen)}"
        self._bucket.check(key, headers)
        said = None if crc is None else told(crc)
        self._bucket.put(key, upload.headers, [part for part, _, _ in chosen], tag, said)
        del self._bucket.uploads[upload_id]
        checksum = "" if said is None else f"<ChecksumCRC64NVME>{said}</ChecksumCRC64NVME>"
        self._xml(
            f"<CompleteMultipartUploadResult><Key>{escape(key)}</Key><ETag>&quot;{tag}&quot;</ETag>{checksum}"
            "</CompleteMultipartUploadResult>"
        )

    def _parts(self, upload_id: str) -> None:
        rows = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{digest.hex()}&quot;</ETag><Size>{len(data)}</Size></Part>"
            for number, (data, digest, _) in sorted(self._bucket.upload(upload_id).parts.items())
        )
        self._xml(f"<ListPartsResult><IsTruncated>false</IsTruncated>{rows}</ListPartsResult>")

    def _xml(self, text: str) -> None:
        body = f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()
        self._send(200, body, b"Content-Type: application/xml\r\n")

    def _refuse(self, error: Refused) -> None:
        body = b"" if self._request[0] == "HEAD" else f"<Error><Code>{error.code}</Code></Error>".encode()
        self._send(error.status, body, b"Content-Type: application/xml\r\n")

    def _send(self, status: int, body: bytes, said: bytes = b"", *, length: int | None = None) -> None:
        self._send_pieces(status, [body] if body else [], len(body) if length is None else length, said)

    def _send_pieces(
        self, status: int, pieces: Sequence[bytes | bytearray | memoryview], size: int, said: bytes
    ) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        begin = b"HTTP/1.1 %d %b\r\nx-amz-request-id: 1\r\n" % (status, _REASONS.get(status, "Refused").encode())
        self._transport.writelines([b"%bContent-Length: %d\r\n%b\r\n" % (begin, size, said), *pieces])


def cut(pieces: Sequence[bytearray], low: int, high: int) -> list[memoryview]:
    """Bytes ``low`` to ``high`` of the pieces together."""
    found, position = [], 0
    for piece in pieces:
        start, end = max(low - position, 0), min(high - position, len(piece))
        if start < end:
            found.append(memoryview(piece)[start:end])
        position += len(piece)
    return found


def dechunked(body: bytearray) -> bytearray:
    """What an ``aws-chunked`` body carries."""
    found, position = bytearray(), 0
    while True:
        line = body.index(b"\r\n", position)
        size = int(bytes(body[position:line]).split(b";", 1)[0], 16)
        if not size:
            return found
        found += memoryview(body)[line + 2 : line + 2 + size]
        position = line + 2 + size + 2


def checked(body: bytearray, headers: dict[str, str]) -> int | None:
    """The CRC-64/NVME that was sent, which must be right."""
    said = headers.get("x-amz-checksum-crc64nvme")
    if said is None:
        return None
    crc = checksums.crc64nvme(body)
    if told(crc) != said:
        raise Refused(400, "BadDigest")
    return crc


def told(crc: int) -> str:
    """As S3 writes it."""
    return base64.b64encode(crc.to_bytes(8, "big")).decode()


async def serve(port: int) -> None:
    """Until SIGTERM."""
    bucket, loop = Bucket(), asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(lambda: Connection(bucket), "127.0.0.1", port)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
