"""HTTP for parts: pooled connections of the standard library, because nothing else sends and fills a caller's buffer.

A body goes from the caller's memory to the socket and from the socket to the caller's memory, without a copy in
between. One request is made once; only a connection that the server had closed meanwhile is replaced.
"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]
from xml.etree import ElementTree

from holdfast.engine.objectstore._translate import Call
from holdfast.engine.objectstore.errors import ObjectStoreError, StoreUnavailable
from holdfast.engine.objectstore.timeouts import RequestLimits, Timeouts
from holdfast.errors import ConfigError

_T = TypeVar("_T")

#: Idle connections kept per endpoint.
_MOST_IDLE = 64
#: An answer that is not an object's bytes is a small document.
_LARGEST_ANSWER_BYTES = 32 * 1024 * 1024
#: A buffer is filled in steps of this size, so that the deadline is looked at in between.
_STEP_BYTES = 1024 * 1024
#: No more time than this is given to a server that puts an object together.
_LONGEST_WORK_SECONDS = 256
_GONE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: header names in lower case, and the body, unless it went into a buffer."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def xml(self) -> ElementTree.Element | None:
        """The body as XML; ``None`` when it is none (or declares entities)."""
        if not self.body or b"<!DOCTYPE" in self.body or b"<!ENTITY" in self.body:
            return None
        try:
            return ElementTree.fromstring(self.body.lstrip(b"\xef\xbb\xbf \r\n"))  # noqa: S314 - no entities
        except ElementTree.ParseError:
            return None


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
        self._idle: list[http.client.HTTPConnection] = []
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
        size_bytes = body.nbytes if isinstance(body, memoryview) else len(body)
        patience_bytes = min(work_bytes, _LONGEST_WORK_SECONDS * self._timeouts.minimum_bytes_per_second)
        limits = self._timeouts.writing(max(size_bytes, patience_bytes))
        headers = {**headers, "Content-Length": str(size_bytes)} if size_bytes or method in ("PUT", "POST") else headers

        def exchange(connection: http.client.HTTPConnection, until: float) -> tuple[Answer, bool]:
            response = _send(connection, method, self._target(target), headers, body, until)
            data = response.read(_LARGEST_ANSWER_BYTES)
            if not response.isclosed() and response.read(1):
                raise http.client.HTTPException("an answer too large")
            return Answer(response.status, _headers(response), data), not response.will_close

        return self._exchanged(call, limits, exchange)

    def read_into(self, call: Call, target: str, headers: Mapping[str, str], buffer: memoryview) -> Answer:
        """GET that fills the buffer from an answer of 200 or 206; another answer comes back with its body.

        Raises:
            StoreUnavailable: no answer came, or it was not as long as the buffer.
        """
        limits = self._timeouts.reading(buffer.nbytes)

        def exchange(connection: http.client.HTTPConnection, until: float) -> tuple[Answer, bool]:
            response = _send(connection, "GET", self._target(target), headers, b"", until)
            if response.status not in (200, 206):
                data = response.read(_LARGEST_ANSWER_BYTES)
                return Answer(response.status, _headers(response), data), not response.will_close
            length = response.length
            if length is not None and length != buffer.nbytes:
                raise _CutShort(length)
            filled = 0
            while filled < buffer.nbytes:
                _limit(connection, until)
                count = response.readinto(buffer[filled : filled + _STEP_BYTES])
                if not count:
                    raise _CutShort(filled)
                filled += count
            rest = response.read(1)  # ends the response, so that the connection can be used again
            if rest:
                raise _CutShort(filled + 1)
            return Answer(response.status, _headers(response)), not response.will_close

        try:
            return self._exchanged(call, limits, exchange)
        except _CutShort as error:
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
        exchange: Callable[[http.client.HTTPConnection, float], tuple[_T, bool]],
    ) -> _T:
        until = time.monotonic() + limits.total_seconds
        connection, fresh = self._take(call, limits)
        while True:
            try:
                answer, keep = exchange(connection, until)
            except _CutShort:
                connection.close()
                raise
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if not fresh and isinstance(error, _GONE):
                    # The server had closed it between two requests; ours was not looked at.
                    connection, fresh = self._connected(call, limits), True
                    continue
                raise _unavailable(error, call) from None
            except BaseException:
                connection.close()
                raise
            if keep:
                self._give(connection)
            else:
                connection.close()
            return answer

    def _take(self, call: Call, limits: RequestLimits) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._idle = os.getpid(), []
            while self._idle:
                connection = self._idle.pop()
                if not _closed_by_server(connection):
                    return connection, False
                connection.close()
        return self._connected(call, limits), True

    def _give(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < _MOST_IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _connected(self, call: Call, limits: RequestLimits) -> http.client.HTTPConnection:
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
        return connection

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


class _CutShort(Exception):
    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.size_bytes = size_bytes


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes | bytearray | memoryview,
    until: float,
) -> http.client.HTTPResponse:
    _limit(connection, until)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    try:
        connection.endheaders(body if body else None)
    except (BrokenPipeError, ConnectionResetError) as error:
        # A server that refuses early answers and closes before it has taken the whole body: its answer counts.
        try:
            return _response(connection, until)
        except (OSError, http.client.HTTPException):
            raise error from None
    return _response(connection, until)


def _response(connection: http.client.HTTPConnection, until: float) -> http.client.HTTPResponse:
    _limit(connection, until)
    return connection.getresponse()


def _limit(connection: http.client.HTTPConnection, until: float) -> None:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    if connection.sock is not None:
        connection.sock.settimeout(left)


def _closed_by_server(connection: http.client.HTTPConnection) -> bool:
    """An idle connection has nothing to say; when it has, it is the end."""
    sock = connection.sock
    if sock is None:
        return True
    import select

    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def _headers(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _unavailable(error: Exception, call: Call) -> StoreUnavailable:
    if isinstance(error, TimeoutError):
        what = "no answer came in time"
    elif isinstance(error, http.client.IncompleteRead):
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
