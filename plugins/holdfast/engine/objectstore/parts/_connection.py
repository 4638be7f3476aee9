"""One connection that speaks HTTP/1.1 (RFC 9112): as much of it as object stores do, with as few steps as it takes.

`http.client` makes the connection (TLS, proxies' tunnels); a request and its answer then go over its socket directly.
For each small object `http.client` would take as much processor time as everything else that is done about it, most of
it to read heads as if they were mail. Bodies go from and to the caller's memory, without a copy where they are large.
"""

from __future__ import annotations

import http.client
import io
import re
import select
import socket
import ssl
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

#: A head, and the body of a small object behind it.
_BUFFER_BYTES = 72 * 1024
#: Of an answer whose body goes elsewhere.
_HEAD_BYTES = 4 * 1024
#: Bodies up to this are sent in one piece with their heads over TLS.
_JOINED_BYTES = 64 * 1024
#: A large body is received in steps of this size, so that the deadline is looked at in between.
_STEP_BYTES = 1024 * 1024
#: Within this the socket's own limit, which begins anew with every step, is near enough to the request's.
_NEAR_SECONDS = 0.25
_TIMEVAL = struct.Struct("@ll")
_NO_BODY = (204, 304)
#: Names and values of a head's lines.
_HEADERS = re.compile(r"^([^\s:]+):[ \t]*([^\r\n]*?)[ \t]*\r?$", re.MULTILINE)


class Disconnected(ConnectionResetError):
    """The server closed the connection without a word."""


class BadAnswer(Exception):
    """This is not an answer of HTTP/1.1, or it broke off in the middle."""


class TooLong(Exception):
    """The answer has another length than the caller can take."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.size_bytes = size_bytes


@dataclass(slots=True)
class Answer:
    """What a server said: header names in lower case, and the body, unless it went into a buffer."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    #: Whether another request may follow on this connection.
    stays: bool = False

    def xml(self) -> ElementTree.Element | None:
        """The body as XML; ``None`` when it is none (or declares entities)."""
        if not self.body or b"<!DOCTYPE" in self.body or b"<!ENTITY" in self.body:
            return None
        try:
            return ElementTree.fromstring(self.body.lstrip(b"\xef\xbb\xbf \r\n"))  # noqa: S314 - no entities
        except ElementTree.ParseError:
            return None


class Connection:
    """A connected socket. Not safe among threads.

    Args:
        connected: where the socket comes from.
    """

    def __init__(self, connected: http.client.HTTPConnection) -> None:
        self._connected = connected  # kept: it would close the socket when it goes
        sock = connected.sock
        if sock is None:
            raise ValueError("expected a connected connection")
        self.socket: socket.socket = sock
        self._secure = isinstance(sock, ssl.SSLSocket)
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        #: Bytes at the front of the buffer that came behind an interim answer.
        self._kept = 0
        self._limit = 0.0
        #: How long an answer may be without a byte; ``None``: only the whole counts.
        self.silence_seconds: float | None = None
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN | select.POLLHUP | select.POLLERR)

    def close(self) -> None:
        """End it."""
        self._connected.close()

    def has_news(self) -> bool:
        """Whether there is something to receive: of an idle connection the end, or what nobody asked for."""
        waiting = isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()
        return bool(waiting or self._poll.poll(0))

    def send(self, head: bytes, body: bytes | bytearray | memoryview, until: float) -> None:
        """Send a request.

        Args:
            head: with the empty line.
            body: may be empty.
            until: of `time.monotonic`.

        Raises:
            OSError: it could not be sent, or not in time.
        """
        if self._secure:
            self._give(until)
            if len(body) <= _JOINED_BYTES:
                self.socket.sendall(head + body)
                return
            self.socket.sendall(head)
            self.socket.sendall(body)
            return
        pieces: Sequence[bytes | bytearray | memoryview] = (head, body) if len(body) else (head,)
        left = len(head) + len(body)
        while True:
            self._give(until)
            try:
                sent = self.socket.sendmsg(pieces)
            except BlockingIOError:
                raise TimeoutError("could not be sent in time") from None
            left -= sent
            if not left:
                return
            pieces = _without(pieces, sent)

    def receive(self, method: str, until: float, *, into: memoryview | None = None, most_bytes: int) -> Answer:
        """Receive the answer.

        Args:
            method: of the request.
            until: of `time.monotonic`.
            into: where the body of an answer of 200 or 206 goes; it must be as long.
            most_bytes: no other body may be longer.

        Raises:
            TooLong: the body has another length than ``into``, or is longer than ``most_bytes``.
            BadAnswer: it is no answer, or broke off.
            OSError: the connection broke (`Disconnected`: before it began), or nothing came in time.
        """
        answer, begin, have = self._head(until, _HEAD_BYTES if into is not None else _BUFFER_BYTES)
        while answer.status < 200:  # an interim answer: what follows it is moved to the front
            self._buffer[: have - begin] = self._buffer[begin:have]
            self._kept = have - begin
            answer, begin, have = self._head(until, _BUFFER_BYTES)
        if method == "HEAD" or answer.status in _NO_BODY:
            answer.stays = answer.stays and begin == have
            return answer
        wanted = into if answer.status in (200, 206) else None
        length = _length(answer.headers)
        if "transfer-encoding" in answer.headers or length is None:
            self._of_unknown_length(answer, begin, have, until, wanted, most_bytes)
            return answer
        answer.stays = answer.stays and have - begin <= length
        if wanted is not None:
            if length != len(wanted):
                raise TooLong(length)
            count = min(have - begin, length)
            wanted[:count] = self._view[begin : begin + count]
            self._fill(wanted, count, until)
        elif length > most_bytes:
            raise TooLong(length)
        else:
            answer.body = self._body(begin, have, length, until)
        return answer

    def _head(self, until: float, step_bytes: int) -> tuple[Answer, int, int]:
        """An answer without its body; where that begins in the buffer, and how far the buffer is filled."""
        have, self._kept = self._kept, 0
        if not have:
            # The time for the request was given when it was sent.
            have = self._received(self._view[:step_bytes])
            if not have:
                raise Disconnected("the server closed the connection")
        while (end := self._buffer.find(b"\r\n\r\n", 0, have)) < 0:
            if have == _BUFFER_BYTES:
                raise BadAnswer("a head that is too long")
            count = self._receive_into(self._view[have : have + step_bytes], until)
            if not count:
                raise BadAnswer("the head broke off")
            have += count
        text = self._buffer[:end].decode("latin-1")
        first, _, rest = text.partition("\r\n")
        if not first.startswith("HTTP/1.") or not first[9:12].isdecimal():
            raise BadAnswer("not an answer of HTTP/1.1")
        found = _HEADERS.findall(rest)
        if len(found) != rest.count("\n") + bool(rest):
            raise BadAnswer("a header that is none")
        headers = {name.lower(): value for name, value in found}
        said = headers.get("connection", "").lower()
        stays = said != "close" if first[7] == "1" else said == "keep-alive"
        return Answer(int(first[9:12]), headers, b"", stays), end + 4, have

    def _body(self, begin: int, have: int, length: int, until: float) -> bytes:
        end = begin + length
        if end <= _BUFFER_BYTES:
            self._fill(self._view[:end], have, until)
            return bytes(self._view[begin:end])
        body = io.BytesIO()  # which gives its bytes away without a copy
        body.seek(length - 1)
        body.write(b"\0")
        with body.getbuffer() as view:
            view[: have - begin] = self._view[begin:have]
            self._fill(view, have - begin, until)
        return body.getvalue()

    def _fill(self, view: memoryview, have: int, until: float) -> None:
        """Receive until the view is full."""
        while have < len(view):
            count = self._receive_into(view[have : have + _STEP_BYTES], until, socket.MSG_WAITALL)
            if not count:
                raise BadAnswer(f"the body broke off after {have} bytes")
            have += count

    def _of_unknown_length(
        self, answer: Answer, begin: int, have: int, until: float, into: memoryview | None, most_bytes: int
    ) -> None:
        """A body in chunks, or one that ends with the connection."""
        if "transfer-encoding" in answer.headers:
            body, more = self._chunked(self._buffer[begin:have], until, most_bytes)
            answer.stays = answer.stays and not more
        elif into is not None:  # whether it is whole nobody could know
            raise BadAnswer("a body of unknown length")
        else:
            body, answer.stays = self._until_closed(self._buffer[begin:have], until, most_bytes), False
        if into is None:
            answer.body = body
        elif len(body) != len(into):
            raise TooLong(len(body))
        else:
            into[:] = body

    def _until_closed(self, body: bytearray, until: float, most_bytes: int) -> bytes:
        while len(body) <= most_bytes and (count := self._receive_into(self._view, until)):
            body += self._view[:count]
        if len(body) > most_bytes:
            raise TooLong(len(body))
        return bytes(body)

    def _chunked(self, waiting: bytearray, until: float, most_bytes: int) -> tuple[bytes, bool]:
        """A body in chunks, and whether something came behind it."""
        body = bytearray()
        while True:
            line = self._line(waiting, until)
            size = _size(line)
            if not size:
                break
            if len(body) + size > most_bytes:
                raise TooLong(len(body) + size)
            while len(waiting) < size + 2:
                self._more(waiting, until)
            if waiting[size : size + 2] != b"\r\n":
                raise BadAnswer("a chunk of another length than it says")
            body += waiting[:size]
            del waiting[: size + 2]
        while self._line(waiting, until):
            pass  # trailers
        return bytes(body), bool(waiting)

    def _line(self, waiting: bytearray, until: float) -> bytes:
        while (end := waiting.find(b"\r\n")) < 0:
            if len(waiting) > _HEAD_BYTES:
                raise BadAnswer("a line that is too long")
            self._more(waiting, until)
        line = bytes(waiting[:end])
        del waiting[: end + 2]
        return line

    def _more(self, waiting: bytearray, until: float) -> None:
        count = self._receive_into(self._view, until)
        if not count:
            raise BadAnswer("the body broke off")
        waiting += self._view[:count]

    def _receive_into(self, view: memoryview, until: float, flags: int = 0) -> int:
        self._give(until)
        return self._received(view, flags)

    def _received(self, view: memoryview, flags: int = 0) -> int:
        if self._secure:
            return self.socket.recv_into(view)
        try:
            return self.socket.recv_into(view, 0, flags)
        except BlockingIOError:
            raise TimeoutError("no answer in time") from None

    def _give(self, until: float) -> None:
        """Give the next step what is left of the time.

        The kernel keeps the limit (SO_RCVTIMEO, SO_SNDTIMEO): Python's own would ask it before every step whether there
        is something. Nor is the limit set anew for a little less time.
        """
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        if self.silence_seconds is not None:
            left = min(left, self.silence_seconds)
        if abs(left - self._limit) < _NEAR_SECONDS and self._limit > 2 * _NEAR_SECONDS:
            return
        self._limit = left
        if self._secure:
            self.socket.settimeout(left)
            return
        if self.socket.gettimeout() is not None:
            self.socket.settimeout(None)
        value = _TIMEVAL.pack(int(left), max(1, int(left % 1 * 1e6)))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def _without(pieces: Sequence[bytes | bytearray | memoryview], sent: int) -> list[memoryview]:
    """What is left of the pieces after so many bytes."""
    left = []
    for piece in pieces:
        view = memoryview(piece)
        if sent < len(view):
            left.append(view[sent:])
        sent = max(0, sent - len(view))
    return left


def _length(headers: Mapping[str, str]) -> int | None:
    said = headers.get("content-length")
    if said is None:
        return None
    if not said.isdecimal():
        raise BadAnswer("a length that is none")
    return int(said)


def _size(line: bytes) -> int:
    try:
        return int(line.split(b";", 1)[0].strip(), 16)
    except ValueError:
        raise BadAnswer("a chunk without its size") from None
