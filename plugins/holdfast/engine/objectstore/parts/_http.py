"""Pooled connections to one service: for parts, which go from and to a caller's memory, and for small objects.

One request is made once; only a connection that the server had closed meanwhile is replaced, and not under a
conditional write: whether it happened is for whoever made it to find out.
"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import time
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]
from xml.etree import ElementTree

from holdfast.engine.objectstore._translate import Call
from holdfast.engine.objectstore.errors import ObjectStoreError, StoreUnavailable
from holdfast.engine.objectstore.parts._connection import Answer as Answer
from holdfast.engine.objectstore.parts._connection import BadAnswer, Connection, Disconnected, TooLong
from holdfast.engine.objectstore.timeouts import RequestLimits, Timeouts
from holdfast.errors import ConfigError

#: Idle connections kept per endpoint.
_MOST_IDLE = 64
#: An answer that is not an object's bytes is a small document.
_LARGEST_ANSWER_BYTES = 32 * 1024 * 1024
#: No more time than this is given to a server that puts an object together.
_LONGEST_WORK_SECONDS = 256
_CONDITIONS = frozenset(("If-None-Match", "If-Match"))
_GONE = (Disconnected, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


def texts(element: ElementTree.Element) -> dict[str, str]:
    """The texts of an element's children, by their names without namespace."""
    return {child.tag.rpartition("}")[2]: (child.text or "") for child in element}


def children(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """The children of that name, whatever their namespace."""
    return [child for child in element if child.tag.rpartition("}")[2] == name]


class HttpPool:
    """Connections to one endpoint. Safe to use from many threads; a forked child begins with none.

    Args:
        base_url: scheme, host and port; a path is ignored.
        timeouts: limits of one request.
        store: whose endpoint it is, for messages.
    """

    def __init__(self, base_url: str, timeouts: Timeouts, store: str) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ConfigError(
                "the endpoint is not a URL", where=store, expected="http://… or https://…", found=base_url
            )
        self._secure = url.scheme == "https"
        self._host, self._port = url.hostname, url.port
        self.host_header = url.netloc.rpartition("@")[2]
        self._timeouts = timeouts
        self._proxy = _proxy(url.scheme, self._host)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._pid = os.getpid()
        self._tls: ssl.SSLContext | None = None

    def request(
        self,
        call: Call,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | bytearray | memoryview = b"",
        *,
        work_bytes: int = 0,
    ) -> Answer:
        """Make one request and read its answer, which must be small.

        Args:
            call: what is asked, for messages.
            method: of HTTP.
            target: path and query.
            headers: with ``Host``.
            body: what is sent.
            work_bytes: how many bytes the server may have to move before it answers; it gets time for that.

        Raises:
            StoreUnavailable: no answer came; ``outcome_unknown`` when the call writes and may have happened.
        """
        size_bytes = len(body)
        patience_bytes = min(work_bytes, _LONGEST_WORK_SECONDS * self._timeouts.minimum_bytes_per_second)
        limits = self._timeouts.writing(max(size_bytes, patience_bytes))
        try:
            return self.begin(call, limits, method, target, headers, body, None, _LARGEST_ANSWER_BYTES).answer()
        except TooLong as error:
            raise StoreUnavailable(
                "the answer is not one of an object store",
                where=call.where,
                expected=f"at most {_LARGEST_ANSWER_BYTES} bytes",
                found=f"{error.size_bytes} bytes",
                outcome_unknown=call.writes,
            ) from None

    def begin_get(self, call: Call, target: str, headers: Mapping[str, str], *, most_bytes: int) -> Exchange:
        """Send a GET whose body is wanted whole, and may have so many bytes."""
        return self.begin(call, self._timeouts.reading(most_bytes), "GET", target, headers, b"", None, most_bytes)

    def begin_put(self, call: Call, target: str, headers: Mapping[str, str], body: bytes) -> Exchange:
        """Send a PUT whose answer is small."""
        limits = self._timeouts.writing(len(body))
        return self.begin(call, limits, "PUT", target, headers, body, None, _LARGEST_ANSWER_BYTES)

    def read_into(self, call: Call, target: str, headers: Mapping[str, str], buffer: memoryview) -> Answer:
        """GET that fills the buffer from an answer of 200 or 206; another answer comes back with its body.

        Raises:
            StoreUnavailable: no answer came, or it was not as long as the buffer.
        """
        limits = self._timeouts.reading(buffer.nbytes)
        try:
            return self.begin(call, limits, "GET", target, headers, b"", buffer, _LARGEST_ANSWER_BYTES).answer()
        except TooLong as error:
            raise StoreUnavailable(
                "the answer is not as long as asked",
                where=call.where,
                expected=f"{buffer.nbytes} bytes",
                found=f"{error.size_bytes} bytes",
            ) from None

    def begin(
        self,
        call: Call,
        limits: RequestLimits,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | bytearray | memoryview,
        into: memoryview | None,
        most_bytes: int,
    ) -> Exchange:
        """Send a request; its answer is still to be taken.

        Raises:
            StoreUnavailable: no connection could be made.
        """
        head = _head(method, self._target(target), headers, len(body))
        # A conditional write that happened, and whose answer was lost, would be refused by what it wrote itself.
        again = method in ("GET", "HEAD") or _CONDITIONS.isdisjoint(headers)
        return Exchange(self, call, limits, method, head, body, into, most_bytes, again=again)

    def take(self, call: Call, limits: RequestLimits) -> tuple[Connection, bool]:
        """A connection, and whether it is a new one."""
        if self._pid != os.getpid():
            with self._lock:
                self._pid, self._idle = os.getpid(), []
        idle = self._idle  # a list's own pop and append are one step each
        while idle:
            try:
                connection = idle.pop()
            except IndexError:
                break
            if not connection.has_news():
                return connection, False
            connection.close()
        return self.connected(call, limits), True

    def give(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def connected(self, call: Call, limits: RequestLimits) -> Connection:
        """A new connection. Raises StoreUnavailable."""
        connection = self._connection(limits.connect_seconds)
        try:
            connection.connect()
        except ssl.SSLError as error:
            raise ObjectStoreError(
                "the store's certificate or TLS is not accepted",
                where=call.where,
                found=str(error)[:200],
                fix="Check the site's endpoint and the host's certificate authorities (SSL_CERT_FILE)",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise StoreUnavailable("no connection could be made", where=call.where, found=_name(error)) from None
        return Connection(connection)

    def _connection(self, connect_seconds: float) -> http.client.HTTPConnection:
        host, port = self._proxy or (self._host, self._port)
        if not self._secure:
            return http.client.HTTPConnection(host, port, timeout=connect_seconds)
        with self._lock:
            if self._tls is None:
                self._tls = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, port, timeout=connect_seconds, context=self._tls)
        if self._proxy:
            connection.set_tunnel(self._host, self._port or 443)
        return connection

    def _target(self, target: str) -> str:
        """As it stands in the request line: a proxy wants the whole URL, unless it is a tunnel."""
        return f"http://{self.host_header}{target}" if self._proxy and not self._secure else target


class Exchange:
    """One request, sent when this is made, and its answer.

    Args:
        again: it may be sent again when the connection turns out to have been closed.
    """

    __slots__ = (
        "_again", "_body", "_call", "_connection", "_failed", "_fresh", "_head", "_into", "_limits", "_method",
        "_most_bytes", "_pool", "_until",
    )  # fmt: skip

    def __init__(
        self,
        pool: HttpPool,
        call: Call,
        limits: RequestLimits,
        method: str,
        head: bytes,
        body: bytes | bytearray | memoryview,
        into: memoryview | None,
        most_bytes: int,
        *,
        again: bool,
    ) -> None:
        self._pool, self._call, self._limits, self._again = pool, call, limits, again
        self._method, self._head, self._body, self._into, self._most_bytes = method, head, body, into, most_bytes
        self._until = time.monotonic() + limits.total_seconds
        self._connection, self._fresh = pool.take(call, limits)
        self._failed: OSError | None = None
        self._send()

    def _send(self) -> None:
        self._connection.silence_seconds = self._limits.silence_seconds
        try:
            self._connection.send(self._head, self._body, self._until)
        except OSError as error:
            self._failed = error
        except BaseException:
            self._connection.close()
            raise

    def answer(self) -> Answer:
        """Take the answer.

        Raises:
            StoreUnavailable: none came.
            TooLong: it has another length than can be taken.
        """
        while True:
            try:
                answer = self._receive()
            except (OSError, BadAnswer) as error:
                self._connection.close()
                if self._fresh or not self._again or not isinstance(error, _GONE):
                    raise _unavailable(error, self._call) from None
                # The server had closed it between two requests; ours was not looked at.
                self._connection, self._fresh, self._failed = self._pool.connected(self._call, self._limits), True, None
                self._send()
                continue
            except BaseException:
                self._connection.close()
                raise
            if answer.stays and self._failed is None:
                self._pool.give(self._connection)
            else:
                self._connection.close()
            return answer

    def _receive(self) -> Answer:
        failed = self._failed
        if failed is not None and not isinstance(failed, BrokenPipeError | ConnectionResetError):
            raise failed
        try:
            return self._connection.receive(self._method, self._until, into=self._into, most_bytes=self._most_bytes)
        except (OSError, BadAnswer):
            # A server that refuses early answers and closes before it has taken the whole body: its answer counts.
            # There was none.
            if failed is not None:
                raise failed from None
            raise

    def abandon(self) -> None:
        """Nobody wants the answer any more."""
        self._connection.close()


def _head(method: str, target: str, headers: Mapping[str, str], size_bytes: int) -> bytes:
    """A request's head."""
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
    if (size_bytes or method in ("PUT", "POST")) and "Content-Length" not in headers:
        lines.append(f"Content-Length: {size_bytes}")
    text = "\r\n".join(lines)
    if text.count("\n") >= len(lines) or text.count("\r") >= len(lines):
        raise ValueError("a header with a line break")
    return f"{text}\r\n\r\n".encode("latin-1")


def _unavailable(error: Exception, call: Call) -> StoreUnavailable:
    if isinstance(error, TimeoutError):
        what = "no answer came in time"
    elif isinstance(error, BadAnswer):
        what = "the connection broke before the answer was complete"
    else:
        what = "the connection broke"
    return StoreUnavailable(what, where=call.where, found=_name(error), outcome_unknown=call.writes)


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _proxy(scheme: str, host: str) -> tuple[str, int | None] | None:
    """The proxy the environment names for this host, as the store's own client would use."""
    found = getproxies_environment().get(scheme)
    if not found or proxy_bypass_environment(host):
        return None
    url = urlsplit(found if "://" in found else f"http://{found}")
    return (unquote(url.hostname), url.port) if url.hostname else None
