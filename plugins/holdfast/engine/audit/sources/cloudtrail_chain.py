"""Judges CloudTrail's evidence: every hour spoken for by a digest, every log file as it was signed, nothing added.

Only documents and hashes go in: no network, no store, no clock. A source asks here while it seals, and a verifier asks
years later with what was sealed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from holdfast.engine.audit.interface import Document, Finding, Interval, State
from holdfast.engine.audit.sources.cloudtrail_digests import Digest, PublicKey, UnreadableDigest, check, parse
from holdfast.engine.audit.sources.cloudtrail_layout import HOUR, TrailLayout, delivered_at, moment

#: How long after its end a digest may come: AWS promises none; it came within the hour in what is documented.
DIGEST_DELAY = timedelta(hours=1)
#: When AWS itself says that it has not delivered the digest yet, it is awaited so long.
LONGEST_DELAY = timedelta(hours=24)
#: Clocks and metadata may differ so much before it is told.
SKEW = timedelta(minutes=5)

DIGESTS, KEYS, SCOPES = "digests/", "keys/", "scope/"


@dataclass(frozen=True, slots=True)
class TrailStatus:
    """What AWS says of a trail in one region (`GetTrailStatus`); ``None`` where it says nothing."""

    is_logging: bool | None = None
    stopped_at: datetime | None = None
    newest_digest_at: datetime | None = None


@dataclass(frozen=True)
class Scope:
    """Which hour of which trail was sealed, when, and what AWS said of the trail then: itself a document.

    Args:
        as_of: when it was judged.
        statuses: by region, where the API was asked.
        failures: what could not be read to its end: ``logs``, ``digests``, ``keys`` or ``status``, a colon and a region
            → code and detail.
        unreadable: log files that came but are none → why.
    """

    interval: Interval
    layout: TrailLayout
    bucket: str
    regions: tuple[str, ...]
    as_of: datetime
    statuses: Mapping[str, TrailStatus] = field(default_factory=dict)
    failures: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def as_document(self) -> Document:
        """Its text; `from_document` reads it."""
        layout = self.layout
        said = {
            "account": layout.account,
            "as_of": _text(self.as_of),
            "bucket": self.bucket,
            "end": _text(self.interval.end),
            "failures": {name: list(failure) for name, failure in sorted(self.failures.items())},
            "home_region": layout.home_region,
            "organization": layout.organization,
            "prefix": layout.prefix,
            "regions": list(self.regions),
            "start": _text(self.interval.start),
            "status": {region: _status_text(status) for region, status in sorted(self.statuses.items())},
            "trail": layout.trail,
            "unreadable": dict(sorted(self.unreadable.items())),
        }
        moments = (self.interval.start, self.interval.end, self.as_of)
        name = f"{SCOPES}{'-'.join(f'{when:%Y%m%dT%H%M%SZ}' for when in moments)}.json"
        return Document(name, "application/json", json.dumps(said, sort_keys=True).encode())

    @classmethod
    def from_document(cls, document: Document) -> Scope:
        """Raises ValueError, KeyError, TypeError."""
        said = json.loads(document.data)
        return cls(
            Interval(moment(said["start"]), moment(said["end"])),
            TrailLayout(said["account"], said["trail"], said["home_region"], said["organization"], said["prefix"]),
            said["bucket"],
            tuple(said["regions"]),
            moment(said["as_of"]),
            {region: _status(status) for region, status in said["status"].items()},
            {name: (code, detail) for name, (code, detail) in said["failures"].items()},
            said["unreadable"],
        )


@dataclass(frozen=True)
class Judgement:
    """What the evidence shows.

    Args:
        expected: digests there should be.
        observed: digests there are and that hold.
    """

    findings: tuple[Finding, ...]
    expected: int
    observed: int


def verify_digests(documents: Sequence[Document], content_sha256_by_key: Mapping[str, str]) -> tuple[Finding, ...]:
    """What AWS's own signatures say of sealed log files. Pure and offline.

    Args:
        documents: all that a CloudTrail source gave (`AuditSource.documents`) of the intervals to verify, any order.
        content_sha256_by_key: of every log file read in those intervals: `SourceObject.object_id` →
            ``content_sha256``.

    Returns:
        Every digest that is missing, altered or without its signature; every log file missing, altered or added; and,
        with `State.COMPLETE`, what is only worth knowing: on whose word the public keys are AWS's.
    """
    return judge(documents, content_sha256_by_key).findings


def judge(documents: Sequence[Document], contents: Mapping[str, str]) -> Judgement:
    """See `verify_digests`."""
    findings: list[Finding] = []
    scopes, keys, digests = _read(documents, findings)
    if not scopes:
        findings.append(
            Finding("scope-missing", "no document says which hours of which trail were sealed", SCOPES, State.UNKNOWN)
        )
    findings.extend(_outside(scopes, contents))
    if keys:
        tellers = ", ".join(sorted({key.told_by for key in keys.values()}))
        names = ", ".join(sorted(f"{key.fingerprint} of {key.region}" for key in keys.values()))
        findings.append(
            Finding(
                "keys-trusted",
                f"that the public keys {names} are AWS's is on the word of {tellers}",
                KEYS,
                State.COMPLETE,
            )
        )
    expected = observed = 0
    for region in sorted({region for scope in scopes for region in scope.regions}):
        chain = _Chain(region, scopes, [digest for digest in digests if digest.region == region], keys)
        findings.extend(chain.judge(contents))
        expected, observed = expected + chain.expected, observed + chain.observed
    return Judgement(tuple(dict.fromkeys(findings)), expected, observed)


def _outside(scopes: Sequence[Scope], contents: Mapping[str, str]) -> Iterator[Finding]:
    windows = _joined([scope.interval for scope in scopes])
    for key in sorted(contents):
        delivered = delivered_at(key)
        if delivered is not None and scopes and not _in_any(delivered, windows):
            yield Finding("scope-missing", "no document says that its hour was sealed", key, State.UNKNOWN)


def _read(
    documents: Sequence[Document], findings: list[Finding]
) -> tuple[list[Scope], dict[tuple[str, str], PublicKey], list[Digest]]:
    scopes: list[Scope] = []
    keys: dict[tuple[str, str], PublicKey] = {}
    digests: dict[tuple[str, str, str | None], Digest] = {}
    for document in documents:
        try:
            if document.name.startswith(SCOPES):
                scopes.append(Scope.from_document(document))
            elif document.name.startswith(KEYS):
                key = PublicKey.from_document(document)
                keys[key.region, key.fingerprint] = key
            elif document.name.startswith(DIGESTS):
                digest = parse(document)
                digests[digest.key, digest.sha256, digest.signature] = digest
        except UnreadableDigest as error:
            findings.append(Finding("digest-unreadable", str(error), document.about.get("key", document.name)))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            findings.append(
                Finding("document-unreadable", f"{type(error).__name__}: {error}", document.name, State.UNKNOWN)
            )
    return _newest(scopes), keys, list(digests.values())


def _newest(scopes: Sequence[Scope]) -> list[Scope]:
    """Of an hour that was sealed again, what was found the last time."""
    by_interval: dict[Interval, Scope] = {}
    for scope in sorted(scopes, key=lambda scope: scope.as_of):
        by_interval[scope.interval] = scope
    return list(by_interval.values())


class _Chain:
    """The digests of one region beside what was read of it."""

    def __init__(
        self,
        region: str,
        scopes: Sequence[Scope],
        digests: Sequence[Digest],
        keys: Mapping[tuple[str, str], PublicKey],
    ) -> None:
        mine = [scope for scope in scopes if region in scope.regions]
        self.region = region
        self.layout, self.bucket = mine[0].layout, mine[0].bucket
        self.failed = [
            # A trail's status is only a help: without it, digests say what they say.
            Finding(
                code,
                f"{_text(scope.interval.start)}: {detail}",
                name,
                State.COMPLETE if name.startswith("status:") else State.UNKNOWN,
            )
            for scope in mine
            for name, (code, detail) in scope.failures.items()
            if name.endswith(f":{region}")
        ]
        self.unreadable = {key: why for scope in mine for key, why in scope.unreadable.items()}
        #: Hours of which all log files, and of which all digests were read; of the others nothing is missing for sure.
        self.log_windows = _joined([scope.interval for scope in mine if f"logs:{region}" not in scope.failures])
        self.windows = _joined([scope.interval for scope in mine if f"digests:{region}" not in scope.failures])
        newest = max(mine, key=lambda scope: scope.as_of)
        self.status = newest.statuses.get(region, TrailStatus())
        self.all = sorted(digests, key=lambda digest: (digest.end, digest.key))
        self.regular = [digest for digest in self.all if not digest.is_backfill]
        self.keys = keys
        seen = [digest.modified_at for digest in self.all if digest.modified_at is not None]
        self.newest_seen = max(seen, default=None)
        #: A clock that is behind the bucket's must not keep an hour open.
        self.as_of = max([newest.as_of, *seen])
        self.skew = self.as_of - newest.as_of
        self.expected = self.observed = 0

    def judge(self, contents: Mapping[str, str]) -> Iterator[Finding]:
        yield from self.failed
        if self.skew > SKEW:
            yield Finding(
                "clock-skew",
                f"the clock of who sealed was {self.skew} behind the bucket's",
                self.region,
                State.COMPLETE,
            )
        yield from self._digests()
        yield from self._links()
        yield from self._holes()
        yield from self._logs(contents)

    def _digests(self) -> Iterator[Finding]:
        for digest in self.all:
            wrong = check(digest, self.keys)
            if not wrong and digest.account != self.layout.account:
                wrong = [
                    Finding(
                        "digest-of-another",
                        f"expected account {self.layout.account}; found {digest.account}",
                        digest.key,
                    )
                ]
            yield from wrong
            if digest.bucket != self.bucket:
                yield Finding(
                    "digest-copied",
                    f"it was delivered to {digest.bucket}; read from {self.bucket}",
                    digest.key,
                    State.COMPLETE,
                )
            if digest.newest_event is not None and digest.newest_event > digest.end + SKEW:
                yield Finding(
                    "event-after-digest",
                    f"its newest event is of {_text(digest.newest_event)}, after its end {_text(digest.end)}",
                    digest.key,
                    State.COMPLETE,
                )
            if not digest.is_backfill and self._concerns(digest.start, digest.end):
                self.expected += 1
                self.observed += not wrong

    def _links(self) -> Iterator[Finding]:
        by_key = {digest.key: digest for digest in self.all}
        for digest in self.all:
            before = by_key.get(digest.previous_key or "")
            if before is None:
                continue
            if digest.previous_sha256 is not None and digest.previous_sha256 != before.sha256:
                yield Finding(
                    "digest-altered",
                    f"the next digest, {digest.key}, names its hash {digest.previous_sha256}; found {before.sha256}",
                    before.key,
                )
            elif before.signature is not None and digest.previous_signature != before.signature:
                yield Finding(
                    "digest-signature-replaced",
                    f"the next digest, {digest.key}, names another signature of it",
                    before.key,
                )

    def _holes(self) -> Iterator[Finding]:
        chain = self.regular
        yield from self._between()
        for window in self.windows:
            if chain and window.start < chain[0].start:
                yield from self._hole(window.start, chain[0], until=window.end)
            yield from self._tail(max(window.start, chain[-1].end) if chain else window.start, window.end)

    def _between(self) -> Iterator[Finding]:
        for before, after in pairwise(self.regular):
            if after.start > before.end:
                yield from self._hole(before.end, after)
            elif after.start < before.end:
                yield Finding(
                    "digests-overlap",
                    f"it begins at {_text(after.start)}, before {before.key} ends at {_text(before.end)}",
                    after.key,
                )

    def _hole(self, start: datetime, after: Digest, until: datetime | None = None) -> Iterator[Finding]:
        """No digest speaks for the time before ``after``, which does say whether one should."""
        if after.previous_key is None:
            if self._concerns(start, after.start):
                self.expected += 1
                yield Finding(
                    "chain-restarted",
                    f"no digest speaks for {_text(start)} to {_text(after.start)}, and the chain begins anew after it: "
                    "logging or its validation began here or was stopped and started again, or the last digests before "
                    "were removed",
                    after.key,
                )
            return
        end, name = after.start, after.previous_key
        while end > start:
            begin = max(end - HOUR, start)
            if self._concerns(begin, end) and (until is None or begin < until):
                self.expected += 1
                yield Finding(
                    "digest-missing",
                    f"no digest speaks for {_text(begin)} to {_text(end)}"
                    + (f"; {after.key} names it as the one before" if end == after.start else ""),
                    name,
                )
            end = begin
            name = self.layout.full(self.layout.digest(self.region, end))

    def _tail(self, start: datetime, end: datetime) -> Iterator[Finding]:
        """No digest follows: it is not there yet, or the chain was cut off."""
        while start < end:
            until = start + HOUR
            if self._concerns(start, until):
                self.expected += 1
                yield self._awaited(start, until)
            start = until

    def _awaited(self, start: datetime, end: datetime) -> Finding:
        where = self.layout.full(self.layout.digest(self.region, end))
        said = f"no digest speaks for {_text(start)} to {_text(end)}"
        status, newest = self.status, self.status.newest_digest_at
        if newest is not None and newest >= end and (self.newest_seen is None or newest > self.newest_seen + SKEW):
            return Finding(
                "digest-missing",
                f"{said}, though AWS delivered a digest at {_text(newest)}: the tail is cut off",
                where,
            )
        if status.is_logging is False and (status.stopped_at is None or status.stopped_at < end):
            when = f" since {_text(status.stopped_at)}" if status.stopped_at else ""
            return Finding("logging-stopped", f"{said}: AWS says that the trail does not log{when}", where)
        delay = DIGEST_DELAY if newest is None or newest >= end else LONGEST_DELAY
        if self.as_of < end + delay:
            return Finding("digest-due", f"{said} yet; due by {_text(end + delay)}", where, State.LATE)
        return Finding("digest-missing", f"{said}; due by {_text(end + delay)}: the tail is cut off", where)

    def _logs(self, contents: Mapping[str, str]) -> Iterator[Finding]:
        named: dict[str, tuple[str, str]] = {}
        for digest in self.all:
            named.update({key: (sha256, digest.key) for key, sha256 in digest.logs.items()})
        for key, (sha256, digest_key) in sorted(named.items()):
            if wrong := self._wrong(key, sha256, contents.get(key)):
                code, detail = wrong
                yield Finding(code, f"{digest_key} names it{detail}", key)
        for key, why in sorted(self.unreadable.items()):
            if key not in named and self._is_mine(key):
                yield Finding("log-unreadable", why, key, State.UNKNOWN)
        for key in sorted(set(contents) - set(named)):
            delivered = delivered_at(key)
            if self._is_mine(key) and delivered is not None and _in_any(delivered, self.windows):
                yield self._unnamed(key, delivered)

    def _wrong(self, key: str, sha256: str, found: str | None) -> tuple[str, str] | None:
        """What is wrong with a file that a digest names: code, and the rest of a sentence."""
        if key in self.unreadable:
            return "log-altered", f"; {self.unreadable[key]}"
        if found is not None:
            return None if found == sha256 else ("log-altered", f" with the hash {sha256}; found {found}")
        delivered = delivered_at(key)
        if delivered is not None and _in_any(delivered, self.log_windows):
            return "log-missing", "; it was not found"
        return None

    def _unnamed(self, key: str, delivered: datetime) -> Finding:
        """A file that no digest names: one that follows may still name it."""
        if "/CloudTrail-Insight/" in key:
            return Finding("insight-unnamed", "no digest names it", key, State.COMPLETE)
        follows = [digest.end for digest in self.regular if digest.start > delivered]
        covering = [digest.end for digest in self.regular if digest.start <= delivered < digest.end]
        due = (max(covering) if covering else delivered + HOUR) + HOUR + DIGEST_DELAY
        if not follows and self.as_of < due:
            return Finding("log-late", f"no digest names it yet; one may by {_text(due)}", key, State.LATE)
        return Finding("log-unnamed", "no digest names it: it was added, or the digest that does is missing", key)

    def _is_mine(self, key: str) -> bool:
        return f"/{self.region}/" in key

    def _concerns(self, start: datetime, end: datetime) -> bool:
        return any(start < window.end and end > window.start for window in self.windows)


def _in_any(when: datetime, windows: Sequence[Interval]) -> bool:
    return any(when in window for window in windows)


def _joined(intervals: Sequence[Interval]) -> list[Interval]:
    found: list[Interval] = []
    for interval in sorted(intervals):
        if found and interval.start <= found[-1].end:
            found[-1] = Interval(found[-1].start, max(found[-1].end, interval.end))
        else:
            found.append(interval)
    return found


def _status_text(status: TrailStatus) -> dict[str, Any]:
    return {
        "is_logging": status.is_logging,
        "newest_digest_at": _text(status.newest_digest_at) if status.newest_digest_at else None,
        "stopped_at": _text(status.stopped_at) if status.stopped_at else None,
    }


def _status(said: Mapping[str, Any]) -> TrailStatus:
    newest, stopped = said["newest_digest_at"], said["stopped_at"]
    return TrailStatus(said["is_logging"], moment(stopped) if stopped else None, moment(newest) if newest else None)


def _text(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"
