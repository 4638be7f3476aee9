"""One connection's requests and the answers to them, as they pass through a fault proxy."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from typing import Any, Protocol

from holdfast.sandbox.http_framing import Kind, Piece
from holdfast.sandbox.trails.sanitising import request_of, response_of, target_of

#: Of a body so much is looked at where the head does not tell all: the name of a Cloud Storage upload, the calls of
#: a batch, the code of an error. It is let go again at once.
_SEEN_BYTES, _SEEN_OF_A_BATCH_BYTES = 4096, 256 * 1024
_UPLOAD = re.compile(rb"POST \S*?/upload/|PUT \S*[?&]upload_id=|POST \S*[?&]upload_id=")
#: Of the AWS services that name the operation in a form.
_FORM = re.compile(rb"POST /? HTTP")
_ACTION = re.compile(rb"(?:^|&)Action=([A-Za-z0-9]{1,64})(?:&|$)")
_BATCH = re.compile(rb"POST \S*?(?:/batch/|[?&]comp=batch)")
_CALL = re.compile(rb"^(GET|HEAD|PUT|POST|PATCH|DELETE) (\S+)(?: HTTP/1\.[01])?\r?$", re.MULTILINE)
_CALL_STATUS = re.compile(rb"^HTTP/1\.[01] (\d{3})", re.MULTILINE)
_XML_CODE = re.compile(rb"<Code>([A-Za-z0-9._-]{1,64})</Code>")
_JSON_REASON = re.compile(rb'"reason"\s*:\s*"([A-Za-z0-9._-]{1,64})"')


class Sink(Protocol):
    """Where what was seen goes."""

    def record(self, exchange: dict[str, Any]) -> None:
        """Keep one exchange. Never raises."""

    def not_understood(self, peer: str) -> None:
        """Count a stream that is no HTTP. Never raises."""


class _Exchange:
    __slots__ = (
        "answer_head",
        "answer_seen",
        "answer_seen_limit",
        "began_ns",
        "head",
        "received_bytes",
        "seen",
        "seen_limit",
        "sent_bytes",
        "status",
    )

    def __init__(self, head: bytes) -> None:
        self.began_ns = time.time_ns()
        self.head = head
        self.sent_bytes = self.received_bytes = self.status = 0
        self.answer_head = b""
        self.seen, self.answer_seen = b"", b""
        self.seen_limit = self.answer_seen_limit = 0
        if head.startswith((b"POST ", b"PUT ")):
            if _BATCH.match(head):
                self.seen_limit = self.answer_seen_limit = _SEEN_OF_A_BATCH_BYTES
            elif _UPLOAD.match(head) or _FORM.match(head):
                self.seen_limit = self.answer_seen_limit = _SEEN_BYTES

    def answered(self, head: bytes) -> None:
        self.answer_head = head
        code = head.partition(b" ")[2][:3]
        self.status = int(code) if code.isdigit() else 0
        if self.status >= 400:
            self.answer_seen_limit = max(self.answer_seen_limit, _SEEN_BYTES)


class Watch:
    """Pairs requests with answers and hands each pair on once its answer is complete, or the connection ends.

    It looks at pieces the proxy cuts anyway, copies none of the content, and never raises.
    """

    def __init__(self, sink: Sink, peer: str) -> None:
        self._sink = sink
        self._peer = peer
        self._waiting: deque[_Exchange] = deque()
        self._sending: _Exchange | None = None
        self._answering: _Exchange | None = None
        self._lost = False

    def request(self, piece: Piece) -> None:
        """Bytes of the client."""
        if piece.kind is Kind.HEAD:
            self._sending = _Exchange(piece.data)
            self._waiting.append(self._sending)
        elif piece.kind is Kind.OPAQUE:
            self._no_http()
        elif piece.kind is Kind.BODY and self._sending is not None:
            exchange = self._sending
            exchange.sent_bytes += len(piece.data)
            if len(exchange.seen) < exchange.seen_limit:
                exchange.seen += piece.data[: exchange.seen_limit - len(exchange.seen)]

    def response(self, piece: Piece) -> None:
        """Bytes of the cloud."""
        if piece.kind is Kind.HEAD:
            if not piece.data.startswith(b"1", 9):  # 100 Continue: the answer is yet to come
                self._answering = self._waiting.popleft() if self._waiting else None
                if self._answering is not None:
                    self._answering.answered(piece.data)
        elif piece.kind is Kind.OPAQUE:
            self._no_http()
        elif piece.kind is Kind.BODY and self._answering is not None:
            exchange = self._answering
            exchange.received_bytes += len(piece.data)
            if len(exchange.answer_seen) < exchange.answer_seen_limit:
                exchange.answer_seen += piece.data[: exchange.answer_seen_limit - len(exchange.answer_seen)]
        if piece.ends_message and self._answering is not None:
            self._hand_on(self._answering, "whole")
            self._answering = None

    def refused(self, status: int) -> None:
        """The proxy answered the newest request itself, in the cloud's place."""
        if self._waiting:
            exchange = self._waiting.pop()
            exchange.status = status
            self._hand_on(exchange, "refused")

    def ended(self, *, by_cloud: bool) -> None:
        """The connection is over: what has no complete answer will get none.

        Args:
            by_cloud: the cloud closed it, which is how an answer without a length ends.
        """
        if self._answering is not None:
            closes = by_cloud and not _has_length(self._answering.answer_head)
            self._hand_on(self._answering, "whole" if closes else "cut")
        for exchange in self._waiting:
            self._hand_on(exchange, "unanswered")
        self._answering = None
        self._waiting.clear()

    def _hand_on(self, exchange: _Exchange, end: str) -> None:
        try:
            described = _described(exchange, self._peer, end)
        except Exception:  # whatever a client sends, it must not be cut off for being watched
            self._sink.not_understood(self._peer)
            return
        self._sink.record(described)

    def _no_http(self) -> None:
        if not self._lost:
            self._lost = True
            self._sink.not_understood(self._peer)


def _has_length(head: bytes) -> bool:
    lower = head.lower()
    return b"\r\ncontent-length:" in lower or b"\r\ntransfer-encoding:" in lower


def _described(exchange: _Exchange, peer: str, end: str) -> dict[str, Any]:
    """What is kept of an exchange; nothing secret is in it."""
    kept = request_of(exchange.head)
    kept.update(
        at_ns=exchange.began_ns,
        took_us=(time.time_ns() - exchange.began_ns) // 1000,
        peer=peer,
        end=end,
        status=exchange.status,
        sent_bytes=exchange.sent_bytes,
        received_bytes=exchange.received_bytes,
        answer=response_of(exchange.answer_head) if exchange.answer_head else {},
    )
    if exchange.status >= 400:
        kept["error"] = _error(exchange.answer_seen)
    if not exchange.seen_limit:
        return kept
    if _FORM.match(exchange.head):
        action = _ACTION.search(exchange.seen)
        kept["action"] = action[1].decode("ascii") if action else None
    elif exchange.seen_limit == _SEEN_BYTES:
        kept["object"] = _named(exchange.seen) or _named(exchange.answer_seen)
    else:
        kept["calls"] = _calls(exchange.seen, exchange.answer_seen)
    return kept


def _error(body: bytes) -> str | None:
    found = _XML_CODE.search(body) or _JSON_REASON.search(body)
    return found[1].decode("ascii") if found else None


def _named(body: bytes) -> dict[str, str] | None:
    """Name and bucket in the JSON of an object, alone or as the first part of a multipart body."""
    start = body.find(b"{")
    if start < 0:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(body[start:].decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return None
    kept = {
        name: found[name] for name in ("name", "bucket") if isinstance(found, dict) and isinstance(found.get(name), str)
    }
    return kept if "name" in kept else None


def _calls(body: bytes, answer: bytes) -> list[list[Any]]:
    """Method, target and status of each call in a batch; 0 where no status was seen."""
    asked = [(one[1].decode("ascii"), target_of(one[2].decode("latin-1"))) for one in _CALL.finditer(body)]
    statuses = [int(one[1]) for one in _CALL_STATUS.finditer(answer)]
    statuses += [0] * (len(asked) - len(statuses))
    return [[method, target, status] for (method, target), status in zip(asked, statuses, strict=False)]
