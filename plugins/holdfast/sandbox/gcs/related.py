"""The two MIME multipart forms of the JSON API: ``multipart/related`` uploads, read as a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from email.message import Message
from typing import Any

from holdfast.sandbox.gcs.errors import invalid

_MOST_METADATA_BYTES = 1024 * 1024


def boundary_of(content_type: str) -> bytes:
    """The boundary parameter of a multipart content type; 400 without one."""
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_boundary()
    if not boundary:
        raise invalid("Missing boundary in the multipart content type.")
    return boundary.encode()


class RelatedUpload:
    """A ``multipart/related`` request: first a JSON resource, then the content.

    Args:
        stream: the request body.
        boundary: from `boundary_of`.
    """

    def __init__(self, stream: AsyncIterator[bytes], boundary: bytes) -> None:
        self._stream = stream
        self._delimiter = b"\r\n--" + boundary
        # The first delimiter stands at the very start, without the line break before it.
        self._buffer = bytearray(b"\r\n")
        self.content_type: str | None = None

    async def metadata(self) -> dict[str, Any]:
        """The resource in the first part; reads up to the start of the content."""
        await self._read_until(self._delimiter)
        await self._read_until(b"\r\n\r\n")
        raw = await self._read_until(self._delimiter)
        headers = await self._read_until(b"\r\n\r\n")
        for line in headers.decode("utf-8", "replace").split("\r\n"):
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-type":
                self.content_type = value.strip()
            if name.strip().lower() == "content-transfer-encoding" and value.strip().lower() not in ("binary", "8bit"):
                raise invalid("Content-Transfer-Encoding: expected binary.")
        try:
            resource = json.loads(raw) if raw.strip() else {}
        except ValueError:
            raise invalid("The first part of a multipart upload must be a JSON object resource.") from None
        if not isinstance(resource, dict):
            raise invalid("The first part of a multipart upload must be a JSON object resource.")
        return resource

    async def content(self) -> AsyncIterator[bytes]:
        """The bytes of the second part. 400 when the closing boundary is missing: the upload is cut short."""
        closing = self._delimiter + b"--"
        hold = len(closing) - 1
        while True:
            # The scan starts where the last one stopped, but for a boundary cut in two.
            at = self._buffer.find(closing)
            if at >= 0:
                yield bytes(self._buffer[:at])
                break
            if len(self._buffer) > hold:
                cut = len(self._buffer) - hold
                yield bytes(self._buffer[:cut])
                del self._buffer[:cut]
            if not await self._fill():
                raise invalid("The multipart upload ends without its closing boundary.")
        while await self._fill():
            self._buffer.clear()

    async def _read_until(self, marker: bytes) -> bytes:
        while True:
            at = self._buffer.find(marker)
            if at >= 0:
                found = bytes(self._buffer[:at])
                del self._buffer[: at + len(marker)]
                return found
            if len(self._buffer) > _MOST_METADATA_BYTES or not await self._fill():
                raise invalid("Malformed multipart upload.")

    async def _fill(self) -> bool:
        async for data in self._stream:
            if data:
                self._buffer += data
                return True
        return False
