"""Reading back what the proxies recorded."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from holdfast.sandbox.trails.recording import SUFFIX

_NAMESPACE = uuid.UUID("6f6f36a1-6d0f-4a2b-9a6c-3f0f7a8f4b21")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: One delivery takes about so much; the next one takes the rest.
MOST_BYTES = 16 * 1024 * 1024

#: File name → from which byte (inclusive) to which (exclusive).
Ranges = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Exchange:
    """One request and what was answered.

    Args:
        id: a UUID made of where the record lies, so the same record gives the same events however often it is read.
        listener: ``store``, ``dns`` or ``trail``.
        at: when its head arrived.
        end: ``whole``, ``cut`` (the answer was not seen to its end), ``unanswered`` (no answer was seen, so what
            became of it is not known) or ``refused`` (the fault proxy answered 503 for the cloud).
        status: 0 while none is known.
        caller: ``kind`` and perhaps ``id`` and ``service``.
        headers: lower-case names; only those `sanitising` lets through.
        named: object and bucket, from the body of a Cloud Storage upload.
        action: of an AWS service that is asked with a form.
        calls: method, target and status of each call in a batch.
    """

    id: str
    listener: str
    at: datetime
    took_us: int
    end: str
    method: str
    target: str
    status: int
    peer: str
    sent_bytes: int
    received_bytes: int
    caller: Mapping[str, str]
    headers: Mapping[str, str]
    answer: Mapping[str, str]
    error: str | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    action: str | None = None
    calls: tuple[tuple[str, str, int], ...] = ()

    @property
    def path(self) -> str:
        """As it was sent, percent signs and all."""
        return self.target.partition("?")[0]

    @cached_property
    def segments(self) -> list[str]:
        """Of the path, decoded one by one; what is no UTF-8 stays visible as U+FFFD."""
        return [unquote(one) for one in self.path.removeprefix("/").split("/")]

    @cached_property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def failed(self) -> bool:
        """The cloud refused it, or nobody knows what became of it."""
        return self.status >= 400 or self.status == 0

    def inner(self) -> Iterator[Exchange]:
        """The calls of a batch as exchanges of their own; only itself where it is none."""
        if not self.calls:
            yield self
        for number, (method, target, status) in enumerate(self.calls):
            yield Exchange(
                str(uuid.uuid5(_NAMESPACE, f"{self.id}:{number}")),
                self.listener,
                self.at,
                self.took_us,
                self.end if status else "unanswered",
                method,
                target,
                status,
                self.peer,
                0,
                0,
                self.caller,
                self.headers,
                self.answer,
            )


@dataclass(frozen=True)
class Read:
    """What lies in some ranges.

    Args:
        unparsed: streams that were no HTTP.
        torn: lines that are no record: a full disk cut them off.
    """

    exchanges: tuple[Exchange, ...]
    unparsed: int
    torn: int


def waiting(folder: Path, cursor: Mapping[str, int]) -> Ranges:
    """What was recorded and not yet delivered, in whole lines; at most about 16 MiB, the oldest first."""
    found: Ranges = {}
    room = MOST_BYTES
    files = sorted(folder.glob(f"*{SUFFIX}"))
    newest = {_listener(file.name): file.name for file in files}
    for file in files:
        start = cursor.get(file.name, 0)
        if room <= 0 or file.stat().st_size <= start:
            continue
        with file.open("rb") as lines:
            lines.seek(start)
            data = lines.read(room)
        # Nobody writes to an older file any more: a line without an end will not get one.
        closed = newest[_listener(file.name)] != file.name and len(data) < room
        end = len(data) if closed else data.rfind(b"\n") + 1
        if end:
            found[file.name] = (start, start + end)
            room -= end
    return found


def read(folder: Path, ranges: Mapping[str, tuple[int, int]]) -> Read:
    """The exchanges of these ranges, in the order in which they began."""
    exchanges: list[Exchange] = []
    unparsed = torn = 0
    for name, (start, end) in sorted(ranges.items()):
        with (folder / name).open("rb") as lines:
            lines.seek(start)
            data = lines.read(end - start)
        at = start
        for line in io.BytesIO(data):
            try:
                document = json.loads(line)
                if document["end"] == "unparsed":
                    unparsed += 1
                else:
                    exchanges.append(_exchange(document, name, at))
            except (ValueError, KeyError, TypeError):
                torn += 1
            at += len(line)
    exchanges.sort(key=lambda one: one.at)
    return Read(tuple(exchanges), unparsed, torn)


def remove_delivered(folder: Path, cursor: Mapping[str, int]) -> None:
    """Remove files that are delivered whole and that nobody writes any more: each listener's but its newest."""
    files = sorted(folder.glob(f"*{SUFFIX}"))
    newest = {_listener(file.name): file.name for file in files}
    for file in files:
        if newest[_listener(file.name)] != file.name and cursor.get(file.name, 0) >= file.stat().st_size:
            file.unlink()


def _listener(name: str) -> str:
    return name.split("-")[1]


def _exchange(document: dict[str, Any], name: str, at: int) -> Exchange:
    return Exchange(
        str(uuid.uuid5(_NAMESPACE, f"{name}:{at}")),
        _listener(name),
        _EPOCH + timedelta(microseconds=document["at_ns"] // 1000),
        document["took_us"],
        document["end"],
        document["method"],
        document["target"],
        document["status"],
        document["peer"],
        document["sent_bytes"],
        document["received_bytes"],
        document["caller"],
        document["headers"],
        document["answer"],
        document.get("error"),
        document.get("object") or {},
        document.get("action"),
        tuple((method, target, status) for method, target, status in document.get("calls") or ()),
    )
