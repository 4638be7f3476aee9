"""Where HTTP/1.1 messages begin and end in a stream of bytes (RFC 9112 §6), and no more of HTTP than that.

The proxy needs it to hit bodies and spare heads, and to act between two requests of a kept-alive connection.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

_LONGEST_HEAD = 256 * 1024
#: Python's `int` reads signs and underscores too, and refuses thousands of digits.
_CHUNK_SIZE, _LENGTH = re.compile(rb"[0-9A-Fa-f]{1,15}"), re.compile(rb"[0-9]{1,18}")


class Kind(Enum):
    HEAD = auto()  # a complete start line with its header fields
    BODY = auto()  # content
    FRAME = auto()  # chunk sizes, trailers: what frames content
    OPAQUE = auto()  # not HTTP, or no longer


#: States in which whatever comes belongs to the same thing until the connection ends.
_OPEN_ENDED = {"opaque": Kind.OPAQUE, "close": Kind.BODY}


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a message.

    Args:
        ends_message: the message is complete with these bytes.
        content_length: of a head: the length it announces, if it does.
    """

    kind: Kind
    data: bytes
    ends_message: bool = False
    content_length: int | None = None


class Framer:
    """Cuts one direction of a connection into pieces.

    Args:
        methods: filled by the request side, drained by the response side: what a response belongs to decides
            whether it has a body.
        is_response: which direction this is.
    """

    def __init__(self, methods: deque[bytes], *, is_response: bool) -> None:
        self._methods = methods
        self._is_response = is_response
        self._head = bytearray()
        self._left = 0  # bytes of body or chunk to come
        self._state = "head"

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The pieces these bytes complete."""
        while data:
            if self._state in _OPEN_ENDED:
                yield Piece(_OPEN_ENDED[self._state], data)
                return
            if self._state in ("body", "chunk"):
                piece, data = self._content(data)
                yield piece
                continue
            taken, data = self._head_or_line(data)
            if taken is not None:
                yield taken

    def _content(self, data: bytes) -> tuple[Piece, bytes]:
        taken, rest = data[: self._left], data[self._left :]
        self._left -= len(taken)
        ends_message = not self._left and self._state == "body"
        if not self._left:
            self._state = "head" if self._state == "body" else "chunk end"
        return Piece(Kind.BODY, taken, ends_message=ends_message), rest

    def _head_or_line(self, data: bytes) -> tuple[Piece | None, bytes]:
        """A head up to its empty line, or one line that frames a chunk; ``None`` while it is not complete."""
        mark = b"\r\n\r\n" if self._state == "head" else b"\n"
        start = max(0, len(self._head) - len(mark) + 1)
        self._head += data
        end = self._head.find(mark, start)
        if end >= 0:
            end += len(mark)
            rest = bytes(self._head[end:])
            del self._head[end:]
            taken = self._take_head()
            return self._message(taken) if self._state == "head" else self._line(taken), rest
        if len(self._head) > _LONGEST_HEAD or (
            self._state == "head" and not _looks_like_http(self._head, self._is_response)
        ):
            self._state = "opaque"
            return Piece(Kind.OPAQUE, self._take_head()), b""
        return None, b""

    def _take_head(self) -> bytes:
        head = bytes(self._head)
        self._head.clear()
        return head

    def _line(self, line: bytes) -> Piece:
        if self._state == "chunk end":
            self._state = "chunk size"
        elif self._state == "chunk size":
            size = line.split(b";")[0].strip()
            if _CHUNK_SIZE.fullmatch(size) is None:
                self._state = "opaque"
                return Piece(Kind.OPAQUE, line)
            self._left = int(size, 16)
            self._state = "chunk" if self._left else "trailer"
        elif not line.strip():
            self._state = "head"
            return Piece(Kind.FRAME, line, ends_message=True)
        return Piece(Kind.FRAME, line)

    def _message(self, head: bytes) -> Piece:
        start, _, rest = head.partition(b"\r\n")
        if not _looks_like_http(bytearray(head), self._is_response):
            self._state = "opaque"
            return Piece(Kind.OPAQUE, head)
        length, chunked = _body_framing(rest)
        if self._is_response:
            return self._response(head, start, length, chunked)
        self._methods.append(start.split(b" ")[0])
        return self._open(head, length, chunked, until_close=False)

    def _response(self, head: bytes, start: bytes, length: int | None, chunked: bool) -> Piece:
        status = start.split(b" ")[1][:3] if b" " in start else b""
        if status.startswith(b"1"):
            if status == b"101":
                self._state = "opaque"
            return Piece(Kind.HEAD, head)
        method = self._methods.popleft() if self._methods else b""
        if method == b"HEAD" or status in (b"204", b"304"):
            return Piece(Kind.HEAD, head, ends_message=True, content_length=0)
        return self._open(head, length, chunked, until_close=True)

    def _open(self, head: bytes, length: int | None, chunked: bool, *, until_close: bool) -> Piece:
        if chunked:
            self._state = "chunk size"
        elif length:
            self._state, self._left = "body", length
        elif length is None and until_close:
            self._state = "close"
        else:
            return Piece(Kind.HEAD, head, ends_message=True, content_length=0)
        return Piece(Kind.HEAD, head, content_length=length)


def _looks_like_http(head: bytearray, is_response: bool) -> bool:
    start = bytes(head[:16])
    if is_response:
        return start[:5] == b"HTTP/"[: len(start)]
    method = start.split(b" ")[0]
    return method.isalpha() and method.isupper()


def _body_framing(fields: bytes) -> tuple[int | None, bool]:
    length: int | None = None
    chunked = False
    for line in fields.split(b"\r\n"):
        name, _, value = line.partition(b":")
        match name.strip().lower():
            case b"content-length":
                length = int(value) if _LENGTH.fullmatch(value.strip()) else None
            case b"transfer-encoding":
                chunked = b"chunked" in value.lower()
    return length, chunked
