"""One CloudTrail digest: what it says, and whether AWS's signature on it holds.

A digest is a gzip file of JSON; its signature is user metadata of its object and so is lost by a copy that does not
carry metadata. Signed is the line-wise text of its end, its place, the SHA-256 of its inflated bytes, and the signature
of the digest before: https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-log-file-custom-validation.html
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast.engine.audit.interface import Document, Finding, State
from holdfast.engine.audit.sources.cloudtrail_files import UnreadableFile, inflate
from holdfast.engine.audit.sources.cloudtrail_layout import digest_end, is_backfill, moment

MAX_DIGEST_BYTES = 64 * 1024 * 1024
ALGORITHM = "SHA256withRSA"


class UnreadableDigest(ValueError):
    """The document is no digest."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key CloudTrail signs digests of one region with.

    Args:
        der: PKCS#1, as `ListPublicKeys` gives it.
        told_by: on whose word it is AWS's.
    """

    region: str
    fingerprint: str
    der: bytes
    valid_from: datetime
    valid_until: datetime
    told_by: str = "cloudtrail:ListPublicKeys"

    def as_document(self) -> Document:
        """The key as evidence to keep: AWS does not promise to name it for ever."""
        return Document(
            f"keys/{self.region}/{self.fingerprint}.der",
            "application/octet-stream",
            self.der,
            {
                "region": self.region,
                "fingerprint": self.fingerprint,
                "valid_from": _text(self.valid_from),
                "valid_until": _text(self.valid_until),
                "told_by": self.told_by,
            },
        )

    @classmethod
    def from_document(cls, document: Document) -> PublicKey:
        """Raises ValueError, KeyError."""
        about = document.about
        return cls(
            about["region"],
            about["fingerprint"],
            document.data,
            moment(about["valid_from"]),
            moment(about["valid_until"]),
            about["told_by"],
        )


@dataclass(frozen=True, slots=True)
class Digest:
    """What one digest says.

    Args:
        key: where it lies, in the bucket.
        said_key: where it says that it lies.
        end_text: its end as it is written there, which is signed.
        sha256: hex, of its inflated bytes.
        signature: hex; ``None`` where the object's metadata has none.
        previous_key: the digest before it; ``None`` at the beginning of a chain.
        previous_sha256: of that one's inflated bytes.
        logs: key in the bucket → SHA-256 of the inflated bytes.
    """

    key: str
    region: str
    start: datetime
    end: datetime
    end_text: str
    bucket: str
    said_key: str
    account: str
    fingerprint: str
    sha256: str
    signature: str | None
    algorithm: str | None
    previous_key: str | None
    previous_sha256: str | None
    previous_signature: str | None
    logs: Mapping[str, str]
    newest_event: datetime | None
    generated_at: datetime | None
    modified_at: datetime | None

    @property
    def is_backfill(self) -> bool:
        """Whether it names files that came too late for the digest of their hour."""
        return is_backfill(self.key)

    def string_to_sign(self) -> bytes:
        """What AWS signs."""
        previous = "null" if self.previous_signature is None else self.previous_signature
        return f"{self.end_text}\n{self.bucket}/{self.said_key}\n{self.sha256}\n{previous}".encode()


def parse(document: Document) -> Digest:
    """The digest in a document of a source.

    Args:
        document: the gzip bytes; ``about`` has the object's metadata, its ``key`` in the bucket and its ``region``.

    Raises:
        UnreadableDigest: it is none.
    """
    about = document.about
    try:
        content = inflate([document.data], max_bytes=MAX_DIGEST_BYTES)
        said = json.loads(content)
        return Digest(
            key=about["key"],
            region=about["region"],
            start=moment(said["digestStartTime"]),
            end=moment(said["digestEndTime"]),
            end_text=said["digestEndTime"],
            bucket=_string(said["digestS3Bucket"]),
            said_key=_string(said["digestS3Object"]),
            account=_string(said["awsAccountId"]),
            fingerprint=_string(said["digestPublicKeyFingerprint"]),
            sha256=hashlib.sha256(content).hexdigest(),
            signature=about.get("signature"),
            algorithm=about.get("signature-algorithm"),
            previous_key=_optional(said.get("previousDigestS3Object")),
            previous_sha256=_optional(said.get("previousDigestHashValue")),
            previous_signature=_optional(said["previousDigestSignature"]),
            logs={_string(log["s3Object"]): _string(log["hashValue"]) for log in said["logFiles"] or ()},
            newest_event=moment(said["newestEventTime"]) if said.get("newestEventTime") else None,
            generated_at=_moment_of(about, "backfill-generation-timestamp"),
            modified_at=_moment_of(about, "modified_at"),
        )
    except UnreadableFile as error:
        raise UnreadableDigest(str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableDigest(f"it is not laid out as a digest: {type(error).__name__}: {error}") from None


def check(digest: Digest, keys: Mapping[tuple[str, str], PublicKey]) -> list[Finding]:
    """What is wrong with one digest by itself: its place and its signature. Nothing is when it is empty.

    Args:
        keys: by region and fingerprint.
    """
    if digest.said_key != digest.key:
        return [Finding("digest-moved", f"the digest says it lies at {digest.said_key}; found elsewhere", digest.key)]
    if not digest.is_backfill and digest_end(digest.key) != digest.end:
        # Before its signature is looked at: of another time no key may be known, and nothing could be said.
        return [
            Finding("digest-altered", f"expected the end that its name says; found {digest.end_text}", digest.key),
        ]
    if digest.signature is None or digest.algorithm is None:
        return [
            Finding(
                "digest-signature-lost",
                "the object has no metadata signature and signature-algorithm: AWS's signature was lost, as by a copy "
                "that left metadata behind",
                digest.key,
            )
        ]
    if digest.algorithm != ALGORITHM:
        return [Finding("digest-algorithm", f"expected {ALGORITHM}; found {digest.algorithm}", digest.key)]
    signed_at = digest.generated_at or digest.end
    key = keys.get((digest.region, digest.fingerprint))
    if key is None and any(
        known.region == digest.region and known.valid_from <= signed_at <= known.valid_until for known in keys.values()
    ):
        return [
            Finding(
                "key-not-listed",
                f"the digest names the public key {digest.fingerprint}, which is none of those AWS listed for "
                f"{digest.region} at {_text(signed_at)}",
                digest.key,
            )
        ]
    if key is None:
        return [
            Finding(
                "key-unknown",
                f"no public key of {digest.region} of that time is at hand, {digest.fingerprint} is named: the "
                "signature cannot be verified",
                digest.key,
                State.UNKNOWN,
            )
        ]
    if not _holds(digest, key.der):
        return [
            Finding(
                "digest-altered",
                f"AWS's signature does not hold with the public key {digest.fingerprint}: the digest, its place or "
                "its signature was changed",
                digest.key,
            )
        ]
    if not key.valid_from <= signed_at <= key.valid_until:
        return [
            Finding(
                "key-outside-validity",
                f"the key {key.fingerprint} is valid from {_text(key.valid_from)} to {_text(key.valid_until)}; the "
                f"digest is of {_text(signed_at)}",
                digest.key,
                State.UNKNOWN,
            )
        ]
    return []


def _holds(digest: Digest, der: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(der)
        if not isinstance(key, RSAPublicKey):
            return False
        key.verify(bytes.fromhex(digest.signature or ""), digest.string_to_sign(), PKCS1v15(), SHA256())
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text; found {type(value).__name__}")
    return value


def _optional(value: Any) -> str | None:
    return None if value is None else _string(value)


def _moment_of(about: Mapping[str, str], name: str) -> datetime | None:
    return moment(about[name]) if name in about else None


def _text(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"
