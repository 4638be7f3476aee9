"""Pooled connections to one service: for parts, which go from and to a caller's memory, and for small objects.

One request is made once; only a connection that the server had closed meanwhile is replaced.
"""

from __future__ import annotations

import http.client
import os
import select
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
#: A connection that was used a moment ago is not asked whether it is still there.
_FRESH_SECONDS = 0.5
#: No more time than this is given to a server that puts an object together.
_LONGEST_WORK_SECONDS = 256
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
            return self._exchanged(call, limits, method, target, headers, body, None, _LARGEST_ANSWER_BYTES)
        except TooLong as error:
            raise StoreUnavailable(
                "the answer is not one of an object store",
                where=call.where,
                expected=f"at most {_LARGEST_ANSWER_BYTES} bytes",
                found=f"{error.size_bytes} bytes",
                outcome_unknown=call.writes,
            ) from None

    def get(self, call: Call, target: str, headers: Mapping[str, str], *, most_bytes: int) -> Answer | None:
        """GET whose body is wanted whole; ``None``: it is longer than ``most_bytes``.

        Raises:
            StoreUnavailable: no answer came.
        """
        try:
            limits = self._timeouts.reading(most_bytes)
            return self._exchanged(call, limits, "GET", target, headers, b"", None, most_bytes)
        except TooLong:
            return None

    def read_into(self, call: Call, target: str, headers: Mapping[str, str], buffer: memoryview) -> Answer:
        """GET that fills the buffer from an answer of 200 or 206; another answer comes back with its body.

        Raises:
            StoreUnavailable: no answer came, or it was not as long as the buffer.
        """
        limits = self._timeouts.reading(buffer.nbytes)
        try:
            return self._exchanged(call, limits, "GET", target, headers, b"", buffer, _LARGEST_ANSWER_BYTES)
        except TooLong as error:
            raise StoreUnavailable(
                "the answer is not as long as asked",
                where=call.where,
                expected=f"{buffer.nbytes} bytes",
                found=f"{error.size_bytes} bytes",
            ) from None

    def _exchanged(
        self,
        call: Call,
        limits: RequestLimits,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | bytearray | memoryview,
        into: memoryview | None,
        most_bytes: int,
    ) -> Answer:
        until = time.monotonic() + limits.total_seconds
        head = _head(method, self._target(target), headers, len(body))
        connection, fresh = self._take(call, limits)
        while True:
            connection.silence_seconds = limits.silence_seconds
            try:
                try:
                    connection.send(head, body, until)
                except (BrokenPipeError, ConnectionResetError) as error:
                    # A server that refuses early answers and closes before it has taken the whole body: its answer
                    # counts.
                    try:
                        answer = connection.receive(method, until, into=into, most_bytes=most_bytes)
                    except (OSError, BadAnswer):
                        raise error from None
                else:
                    answer = connection.receive(method, until, into=into, most_bytes=most_bytes)
            except (OSError, BadAnswer) as error:
                connection.close()
                if not fresh and isinstance(error, _GONE):
                    # The server had closed it between two requests; ours was not looked at.
                    connection, fresh = self._connected(call, limits), True
                    continue
                raise _unavailable(error, call) from None
            except BaseException:
                connection.close()
                raise
            if answer.stays:
                self._give(connection)
            else:
                connection.close()
            return answer

    def _take(self, call: Call, limits: RequestLimits) -> tuple[Connection, bool]:
        if self._pid != os.getpid():
            with self._lock:
                self._pid, self._idle = os.getpid(), []
        idle = self._idle  # a list's own pop and append are one step each
        while idle:
            try:
                connection = idle.pop()
            except IndexError:
                break
            if time.monotonic() - connection.idle_since < _FRESH_SECONDS or not _has_news(connection):
                return connection, False
            connection.close()
        return self._connected(call, limits), True

    def _give(self, connection: Connection) -> None:
        connection.idle_since = time.monotonic()
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def _connected(self, call: Call, limits: RequestLimits) -> Connection:
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


def _head(method: str, target: str, headers: Mapping[str, str], size_bytes: int) -> bytes:
    """A request's head."""
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
    if (size_bytes or method in ("PUT", "POST")) and "Content-Length" not in headers:
        lines.append(f"Content-Length: {size_bytes}")
    text = "\r\n".join(lines)
    if text.count("\n") >= len(lines) or text.count("\r") >= len(lines):
        raise ValueError("a header with a line break")
    return f"{text}\r\n\r\n".encode("latin-1")


def _has_news(connection: Connection) -> bool:
    """An idle connection has nothing to say; when it has, it is the end."""
    poll = select.poll()
    poll.register(connection.socket, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


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
