"""AWS Signature Version 4 for S3 (https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html).

botocore's signer would bring a tenth of a second and ten megabytes into every process that copies; tests hold this one
against it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
_ALGORITHM = "AWS4-HMAC-SHA256"
#: Changed on the way by proxies, so never signed.
_NOT_SIGNED = frozenset(("user-agent", "expect", "x-amzn-trace-id", "content-length", "authorization"))


class Signer:
    """Signs requests to one region's S3.

    Args:
        access_key_id: of the key pair.
        secret_access_key: of the key pair.
        token: of a session; ``None`` for a key pair that is not temporary.
        region: as S3 knows it.
    """

    def __init__(self, access_key_id: str, secret_access_key: str, token: str | None, region: str) -> None:
        self._id, self._secret, self._token, self._region = access_key_id, secret_access_key, token, region
        self._key: tuple[str, bytes] | None = None

    def signed(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes | None,
        at: datetime,
    ) -> dict[str, str]:
        """The headers of the signed request.

        Args:
            method: of HTTP.
            path: percent-encoded, as it stands in the request line.
            query: percent-encoded, likewise, without the question mark.
            headers: with ``Host``.
            body: what is sent; ``None``: its hash is left out of the signature.
            at: now, in UTC.
        """
        stamp = at.strftime("%Y%m%dT%H%M%SZ")
        payload = UNSIGNED_PAYLOAD if body is None else hashlib.sha256(body).hexdigest()
        everything = {**headers, "X-Amz-Date": stamp, "X-Amz-Content-SHA256": payload}
        if self._token:
            everything["X-Amz-Security-Token"] = self._token
        lower = {name.lower(): " ".join(value.split()) for name, value in everything.items()}
        names = sorted(lower.keys() - _NOT_SIGNED)
        pairs = sorted(tuple(pair.partition("=")[::2]) for pair in query.split("&")) if query else []
        signed_names = ";".join(names)
        canonical = "\n".join(
            (
                method,
                path,
                "&".join(f"{name}={value}" for name, value in pairs),
                *(f"{name}:{lower[name]}" for name in names),
                "",
                signed_names,
                payload,
            )
        )
        scope = f"{stamp[:8]}/{self._region}/s3/aws4_request"
        text = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
        signature = hmac.new(self._signing_key(stamp[:8]), text.encode(), hashlib.sha256).hexdigest()
        everything["Authorization"] = (
            f"{_ALGORITHM} Credential={self._id}/{scope}, SignedHeaders={signed_names}, Signature={signature}"
        )
        return everything

    def _signing_key(self, day: str) -> bytes:
        """Of one day; it is the same for all its requests."""
        kept = self._key
        if kept is None or kept[0] != day:
            key = f"AWS4{self._secret}".encode()
            for word in (day, self._region, "s3", "aws4_request"):
                key = hmac.new(key, word.encode(), hashlib.sha256).digest()
            self._key = kept = (day, key)
        return kept[1]
