"""``multipart/related`` uploads of the JSON API, read as a stream.

Line breaks may be CR LF, as MIME has it, or LF alone, as `gcsfs` sends and Google takes; the first one decides.
"""

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
        self._opening = b"--" + boundary
        self._line_break = b"\r\n"
        self._buffer = bytearray()
        self.content_type: str | None = None

    async def metadata(self) -> dict[str, Any]:
        """The resource in the first part; reads up to the start of the content."""
        await self._read_until(self._opening)
        if not (await self._read_until(b"\n")).endswith(b"\r"):
            self._line_break = b"\n"
        await self._read_headers()
        raw = await self._read_until(self._line_break + self._opening)
        await self._read_until(self._line_break)
        for line in (await self._read_headers()).decode("utf-8", "replace").splitlines():
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
        closing = self._line_break + self._opening + b"--"
        hold = len(closing) - 1
        while True:
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

    async def _read_headers(self) -> bytes:
        """A part's headers, from behind its delimiter; there may be none."""
        lines = []
        while line := await self._read_until(self._line_break):
            lines.append(line)
        return b"\n".join(lines)

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
