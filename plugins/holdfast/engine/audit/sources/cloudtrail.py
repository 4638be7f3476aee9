"""CloudTrail's log files and digests in S3, hour by hour.

A log file belongs to the hour in which it was delivered, as its name says. Digests are not cut at full hours: an hour
is complete when digests whose signatures hold speak for all of it, all files they name are there as they were signed,
and there are no others. What judges that is `cloudtrail_chain`, with the same documents a verifier gets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from holdfast.clock import Clock
from holdfast.engine.audit.interface import (
    Batch,
    Coverage,
    Document,
    Interval,
    SourceObject,
    SourceUnreadable,
)
from holdfast.engine.audit.sources.cloudtrail_chain import DIGESTS, Scope, TrailStatus, judge
from holdfast.engine.audit.sources.cloudtrail_digests import PublicKey, UnreadableDigest, parse
from holdfast.engine.audit.sources.cloudtrail_fetching import FetchedFile, fetched
from holdfast.engine.audit.sources.cloudtrail_files import MAX_FILE_BYTES, Cut, UnreadableFile, cut, inflate
from holdfast.engine.audit.sources.cloudtrail_layout import (
    EVENT_FOLDERS,
    HOUR,
    TrailLayout,
    delivered_at,
    digest_end,
    hours_of,
    is_backfill,
)
from holdfast.engine.audit.sources.filling import BATCH_BYTES, Filling
from holdfast.engine.config.audit import CloudTrailSource
from holdfast.engine.objectstore.errors import (
    BytesCorrupted,
    ObjectArchived,
    ObjectNotFound,
    ObjectStoreError,
    PermissionRefused,
    StoreUnavailable,
)
from holdfast.engine.objectstore.interface import ByteRange, ObjectInfo, ObjectStore

if TYPE_CHECKING:
    from holdfast.engine.runtime import Runtime

#: Digests of so many days after an hour are looked through for the one that follows it.
_DAYS_AHEAD = 2
_KEPT_READINGS = 4
_KEPT_DIGESTS = 1024
#: Kept of what is too large for a digest.
_BEGINNING_BYTES = 1024


class TrailApi(Protocol):
    """What CloudTrail's own API adds to the bucket. Raises SourceUnreadable."""

    def public_keys(self, region: str, start: datetime, end: datetime) -> Sequence[PublicKey]:
        """The keys that were valid at some time in between."""

    def status(self, region: str) -> TrailStatus:
        """Whether the trail logs, and when its newest digest was delivered."""


@dataclass
class _Reading:
    """What one pass over an interval found."""

    contents: dict[str, str] = field(default_factory=dict)
    records: int = 0
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    is_whole: bool = False
    evidence: tuple[Document, ...] | None = None


class CloudTrail:
    """See `AuditSource`.

    Args:
        name: of the topology.
        store: the bucket below ``settings.prefix``.
        api: gives the public keys and the trail's status; without it signatures cannot be verified, and no hour is
            complete.
    """

    kind = "cloudtrail"

    def __init__(
        self,
        name: str,
        settings: CloudTrailSource,
        store: ObjectStore,
        clock: Clock,
        *,
        api: TrailApi | None = None,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self._name, self._settings, self._store, self._clock, self._api = name, settings, store, clock, api
        self._batch_bytes = batch_bytes
        self._layout = TrailLayout(
            settings.account,
            settings.trail,
            settings.home_region,
            settings.organization,
            settings.prefix.strip("/"),
        )
        self._readings: dict[Interval, _Reading] = {}
        self._digests: dict[str, Document] = {}
        self._keys: dict[tuple[str, str], PublicKey] = {}

    @property
    def name(self) -> str:
        return self._name

    def intervals(self, window: Interval) -> Sequence[Interval]:
        """Its UTC hours; the first and the last as far as the window goes."""
        start, end = window.start.astimezone(UTC), window.end.astimezone(UTC)
        return [Interval(max(hour.start, start), min(hour.end, end)) for hour in hours_of(window)]

    def read(self, interval: Interval) -> Iterator[Batch]:
        """Every log file delivered in it, region by region in key order.

        Raises:
            SourceUnreadable: at the end, after all that could be read: a region could not be read to its end.
        """
        reading = self._begin(interval)
        batch = Filling(self._batch_bytes)
        for region in self._settings.regions:
            try:
                for source, found in self._files(interval, region, reading):
                    reading.contents[source.object_id] = source.content_sha256
                    reading.records += len(found.records)
                    batch.add(source, found.records)
                    if batch.is_full:
                        yield batch.take()
            except ObjectStoreError as error:
                reading.failures[f"logs:{region}"] = code_of(error), str(error)
        if batch.objects:
            yield batch.take()
        reading.is_whole = True
        if reading.failures:
            where, (code, detail) = next(iter(reading.failures.items()))
            raise SourceUnreadable(
                f"CloudTrail's files were not read to their end: {detail}",
                code=code,
                where=f"{self._name}, {where}, {interval.start:%Y-%m-%dT%H:%MZ}",
            )

    def listed(self, interval: Interval) -> Iterator[tuple[str, int]]:
        """See `Lists`: log files; of digests an hour that is settled needs no more."""
        for region in self._settings.regions:
            for info in self._listed_files(interval, region):
                yield self._layout.full(info.key), info.size_bytes

    def completeness(self, interval: Interval) -> Coverage:
        """What digests, and the files they name, say of it."""
        reading = self._read_through(interval)
        judged = judge(self._evidence(interval, reading), reading.contents)
        return Coverage(
            interval,
            "digest-chain",
            judged.expected or None,
            judged.observed,
            len(reading.contents),
            reading.records,
            judged.findings,
        )

    def documents(self, interval: Interval) -> Iterator[Document]:
        """Digests with their objects' metadata, the public keys they were signed with, and what was read when."""
        yield from self._evidence(interval, self._read_through(interval))

    def normalise(self, raw: pa.LargeBinaryArray) -> pa.Table:
        """See `cloudtrail_events`."""
        from holdfast.engine.audit.sources.cloudtrail_events import normalise

        return normalise(raw)

    def _begin(self, interval: Interval) -> _Reading:
        self._readings.pop(interval, None)
        while len(self._readings) >= _KEPT_READINGS:
            self._readings.pop(next(iter(self._readings)))
        return self._readings.setdefault(interval, _Reading())

    def _read_through(self, interval: Interval) -> _Reading:
        reading = self._readings.get(interval)
        if reading is None or not reading.is_whole:
            try:
                for _ in self.read(interval):
                    pass
            except SourceUnreadable:
                pass  # the reading holds it
            reading = self._readings[interval]
        return reading

    def _files(self, interval: Interval, region: str, reading: _Reading) -> Iterator[tuple[SourceObject, Cut]]:
        for info, file in fetched(self._store, self._listed_files(interval, region)):
            try:
                yield self._opened(file())
            except UnreadableFile as error:
                reading.unreadable[self._layout.full(info.key)] = str(error)
            except ObjectNotFound:
                reading.unreadable[self._layout.full(info.key)] = "it was gone before it was read"

    def _listed_files(self, interval: Interval, region: str) -> Iterator[ObjectInfo]:
        for folder in EVENT_FOLDERS:
            for hour in hours_of(interval):
                for info in self._store.list(self._layout.logs_of(folder, region, hour.start)):
                    delivered = delivered_at(info.key)
                    if delivered is not None and delivered in interval:
                        yield info

    def _opened(self, file: FetchedFile) -> tuple[SourceObject, Cut]:
        """Raises UnreadableFile."""
        content = inflate([file.data])
        found = cut(content)
        source = SourceObject(
            self._layout.full(file.info.key),
            len(file.data),
            hashlib.sha256(file.data).hexdigest(),
            hashlib.sha256(content).hexdigest(),
            found.prefix,
            found.separator,
            found.suffix,
            file.metadata,
            file.info.version.version or file.info.version.e_tag,
            file.info.modified_at,
        )
        return source, found

    def _evidence(self, interval: Interval, reading: _Reading) -> tuple[Document, ...]:
        if reading.evidence is None:
            failures = dict(reading.failures)
            documents: list[Document] = []
            statuses: dict[str, TrailStatus] = {}
            for region in self._settings.regions:
                digests: list[Document] = []
                try:
                    digests.extend(self._digests_of(interval, region, reading))
                except ObjectStoreError as error:
                    failures[f"digests:{region}"] = code_of(error), str(error)
                documents += digests
                try:
                    documents += [key.as_document() for key in self._keys_of(region, digests)]
                except SourceUnreadable as error:
                    failures[f"keys:{region}"] = error.code, str(error)
                try:
                    if self._api is not None:
                        statuses[region] = self._api.status(region)
                except SourceUnreadable as error:
                    failures[f"status:{region}"] = error.code, str(error)
            scope = Scope(
                interval,
                self._layout,
                self._settings.bucket,
                self._settings.regions,
                self._clock.now(),
                statuses,
                failures,
                reading.unreadable,
            )
            reading.evidence = (scope.as_document(), *documents)
        return reading.evidence

    def _digests_of(self, interval: Interval, region: str, reading: _Reading) -> Iterator[Document]:
        """The digests that speak for a part of the interval, and the one after them where something is amiss."""
        covered = interval.start
        named: set[str] = set()
        for info in self._listed_digests(interval, region):
            try:
                document = self._digest(info, region)
            except ObjectNotFound:
                continue  # removed since it was listed: the chain says that it is missing
            try:
                digest = parse(document)
            except UnreadableDigest:
                yield document
                continue
            if is_backfill(info.key):
                if digest.start < interval.end + HOUR:
                    named.update(digest.logs)
                    yield document
                continue
            if digest.start >= interval.end:
                if covered < interval.end or self._unnamed(region, reading, named):
                    yield document
                return
            covered = digest.end if digest.start <= covered else covered
            named.update(digest.logs)
            yield document

    def _listed_digests(self, interval: Interval, region: str) -> Iterator[ObjectInfo]:
        day = interval.start.replace(hour=0, minute=0, second=0, microsecond=0)
        until = min(interval.end + timedelta(days=_DAYS_AHEAD), self._clock.now() + timedelta(days=1))
        while day <= max(until, interval.end):
            found = list(self._store.list(self._layout.digests_of(region, day)))
            # Those of late files are looked at first: one that follows the interval ends the search.
            for info in sorted(found, key=lambda info: (not is_backfill(info.key), info.key)):
                end = digest_end(info.key)
                if end is not None and end > interval.start and info.key in self._layout.digests(region, end):
                    yield info
            day += timedelta(days=1)

    def _unnamed(self, region: str, reading: _Reading, named: set[str]) -> bool:
        return any(f"/{region}/" in key and key not in named for key in reading.contents)

    def _digest(self, info: ObjectInfo, region: str) -> Document:
        """Raises ObjectStoreError."""
        cached = self._digests.get(info.key)
        version = info.version.version or info.version.e_tag or ""
        if cached is not None and cached.about["version"] == version:
            return cached
        if info.size_bytes > MAX_FILE_BYTES:
            reader = self._store.open(info.key, byte_range=ByteRange(0, _BEGINNING_BYTES))
        else:
            reader = self._store.open(info.key, size_bytes=info.size_bytes)
        data = b"".join(reader)
        about = {
            # Blob and others do not take the hyphen: a copy that keeps the name with `_` keeps the signature.
            **{name.lower().replace("_", "-"): value for name, value in reader.metadata.items()},
            "key": self._layout.full(info.key),
            "region": region,
            "version": version,
            "modified_at": f"{reader.info.modified_at:%Y-%m-%dT%H:%M:%SZ}",
        }
        document = Document(f"{DIGESTS}{info.key}", "application/gzip", data, about)
        while len(self._digests) >= _KEPT_DIGESTS:
            self._digests.pop(next(iter(self._digests)))
        self._digests[info.key] = document
        return document

    def _keys_of(self, region: str, documents: Sequence[Document]) -> list[PublicKey]:
        """All keys AWS lists for the time of the digests. Raises SourceUnreadable."""
        if self._api is None:
            return []
        signed: set[datetime] = set()
        for document in documents:
            try:
                digest = parse(document)
            except UnreadableDigest:
                continue
            when = digest.generated_at or digest.end
            signed.add(when)
            if (region, digest.fingerprint) not in self._keys:
                for key in self._api.public_keys(region, when - HOUR, when + HOUR):
                    self._keys[region, key.fingerprint] = key
        return [
            key
            for key in self._keys.values()
            if key.region == region and any(key.valid_from - HOUR <= when <= key.valid_until + HOUR for when in signed)
        ]


def code_of(error: ObjectStoreError) -> str:
    """A short, stable word for why a store gave no answer."""
    text = str(error)
    if isinstance(error, PermissionRefused):
        return "token-expired" if "ExpiredToken" in text or "TokenExpired" in text else "permission-refused"
    if isinstance(error, StoreUnavailable):
        return "throttled" if error.throttled else "store-unavailable"
    if isinstance(error, ObjectArchived):
        return "archived"
    if isinstance(error, BytesCorrupted):
        return "bytes-corrupted"
    return "store-error"


def open_cloudtrail(runtime: Runtime, name: str, settings: CloudTrailSource) -> CloudTrail:
    """The source of a topology, with CloudTrail's API by its site's connection.

    Raises:
        UnknownName: there is no such site.
        ConfigError: its connection is not complete.
    """
    from holdfast.engine.audit.sources.cloudtrail_api import open_api

    store = runtime.bucket(settings.site, settings.bucket, settings.prefix)
    return CloudTrail(name, settings, store, runtime.clock, api=open_api(runtime, settings))
