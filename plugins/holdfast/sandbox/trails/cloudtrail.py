"""The trail of an emulated AWS: CloudTrail's log files, and the chain of signed digests over them.

Layout, digests and the string to sign are AWS's:
https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-log-file-validation-digest-file-structure.html
A real digest covers an hour. Here it covers the time since the one before, at most an hour, so that two minutes of a
demo have a chain; its start is the end of the one before, as there.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.sandbox.layout import SandboxSite
from holdfast.sandbox.trails.cloudtrail_events import cloudtrail_event, is_of_the_cloud
from holdfast.sandbox.trails.emulator import Emulator
from holdfast.sandbox.trails.exchanges import Exchange
from holdfast.sandbox.trails.names import AWS_ACCOUNT, AWS_TRAIL, trail_buckets
from holdfast.sandbox.trails.signing import DigestKey

_LONGEST = timedelta(hours=1)
_EVENTS_PER_FILE = 10_000
_ISO = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class _LogFile:
    key: str
    text: bytes
    oldest: str
    newest: str


class CloudTrail:
    """Delivers one site's log files and digests.

    Args:
        key: signs the digests.
    """

    def __init__(self, site: SandboxSite, emulator: Emulator, key: DigestKey) -> None:
        self._site = site
        self._emulator = emulator
        self._key = key
        self._bucket = trail_buckets("aws", site.bucket)[0]

    def plan(self, _exchanges: Sequence[Exchange], state: dict[str, Any], now: datetime) -> dict[str, Any]:
        """The period this delivery closes."""
        return {"start": state.get("end") or state["began"], "end": now.strftime(_ISO)}

    def deliver(
        self, exchanges: Sequence[Exchange], plan: dict[str, Any], state: dict[str, Any]
    ) -> tuple[dict[str, Any], int, int]:
        """Write the log files, then the digests that name them. Doing it again writes the same bytes.

        Returns:
            The state behind it, how many events, how many objects.
        """
        end = _parsed(plan["end"])
        events = [cloudtrail_event(one, self._site.region) for one in exchanges if is_of_the_cloud(one)]
        files = [
            # Delivered in the period, which its end no longer belongs to.
            self._log_file(events[start : start + _EVENTS_PER_FILE], end - timedelta(seconds=1))
            for start in range(0, len(events), _EVENTS_PER_FILE)
        ]
        for file in files:
            self._put(file.key, file.text, {})
        previous, digests = state.get("previous"), 0
        for start, stop in _hours(_parsed(plan["start"]), end):
            previous = self._digest(start, stop, files if stop == end else [], previous)
            digests += 1
        return {**state, "end": plan["end"], "previous": previous}, len(events), len(files) + digests

    def _log_file(self, events: list[dict[str, Any]], delivered: datetime) -> _LogFile:
        text = b'{"Records":[' + b",".join(_encoded(event) for event in events) + b"]}"
        unique = hashlib.sha256(text).hexdigest()[:16]
        region = self._site.region
        key = (
            f"AWSLogs/{AWS_ACCOUNT}/CloudTrail/{region}/{delivered:%Y/%m/%d}/"
            f"{AWS_ACCOUNT}_CloudTrail_{region}_{delivered:%Y%m%dT%H%MZ}_{unique}.json.gz"
        )
        times = [event["eventTime"] for event in events]
        return _LogFile(key, text, min(times), max(times))

    def _digest(
        self, start: datetime, end: datetime, files: Sequence[_LogFile], previous: dict[str, str] | None
    ) -> dict[str, str]:
        region = self._site.region
        key = (
            f"AWSLogs/{AWS_ACCOUNT}/CloudTrail-Digest/{region}/{end:%Y/%m/%d}/"
            f"{AWS_ACCOUNT}_CloudTrail-Digest_{region}_{AWS_TRAIL}_{region}_{end:%Y%m%dT%H%M%SZ}.json.gz"
        )
        before = previous or {}
        text = _encoded(
            {
                "awsAccountId": AWS_ACCOUNT,
                "digestStartTime": start.strftime(_ISO),
                "digestEndTime": end.strftime(_ISO),
                "digestS3Bucket": self._bucket,
                "digestS3Object": key,
                "digestPublicKeyFingerprint": self._key.fingerprint,
                "digestSignatureAlgorithm": "SHA256withRSA",
                "newestEventTime": max((file.newest for file in files), default=None),
                "oldestEventTime": min((file.oldest for file in files), default=None),
                "previousDigestS3Bucket": self._bucket if previous else None,
                "previousDigestS3Object": before.get("key"),
                "previousDigestHashValue": before.get("hash"),
                "previousDigestHashAlgorithm": "SHA-256" if previous else None,
                "previousDigestSignature": before.get("signature"),
                "logFiles": [
                    {
                        "s3Bucket": self._bucket,
                        "s3Object": file.key,
                        "hashValue": hashlib.sha256(file.text).hexdigest(),
                        "hashAlgorithm": "SHA-256",
                        "newestEventTime": file.newest,
                        "oldestEventTime": file.oldest,
                    }
                    for file in files
                ],
            }
        )
        digest = hashlib.sha256(text).hexdigest()
        to_sign = f"{end.strftime(_ISO)}\n{self._bucket}/{key}\n{digest}\n{before.get('signature', 'null')}"
        signature = self._key.sign(to_sign.encode()).hex()
        self._put(key, text, {"signature": signature, "signature-algorithm": "SHA256withRSA"})
        return {"key": key, "hash": digest, "signature": signature}

    def _put(self, key: str, text: bytes, metadata: dict[str, str]) -> None:
        data = gzip.compress(text, mtime=0)
        self._emulator.put_s3(self._site.region, self._bucket, key, data, "application/json", metadata)


def _hours(start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """The period in parts of at most an hour; CloudTrail digests hours without events too."""
    found = []
    while start < end:
        stop = min(end, start + _LONGEST)
        found.append((start, stop))
        start = stop
    return found


def _parsed(text: str) -> datetime:
    return datetime.strptime(text, _ISO).replace(tzinfo=UTC)


def _encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
