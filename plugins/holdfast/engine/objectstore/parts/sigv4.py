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
_EMPTY = hashlib.sha256(b"").hexdigest()
_MOST_SHAPES = 256
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
        self._key: tuple[str, hmac.HMAC] | None = None
        self._second: tuple[tuple[int, ...], str] | None = None
        self._shapes: dict[tuple[str, ...], tuple[list[tuple[str, str]], str]] = {}

    def signed(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes | bytearray | memoryview | None,
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
        stamp = self._stamp(at)
        payload = UNSIGNED_PAYLOAD if body is None else _EMPTY if not len(body) else hashlib.sha256(body).hexdigest()
        everything = {**headers, "X-Amz-Date": stamp, "X-Amz-Content-SHA256": payload}
        if self._token:
            everything["X-Amz-Security-Token"] = self._token
        names, signed_names = self._signed_names(tuple(everything))
        told, text = everything, "\n".join(everything.values())
        if not _is_even(text, len(everything)):
            told = {name: " ".join(value.split()) for name, value in everything.items()}
        pairs = sorted(tuple(pair.partition("=")[::2]) for pair in query.split("&")) if query else []
        canonical = "\n".join(
            (
                method,
                path,
                "&".join(f"{name}={value}" for name, value in pairs),
                *[f"{lower}:{told[name]}" for lower, name in names],
                "",
                signed_names,
                payload,
            )
        )
        scope = f"{stamp[:8]}/{self._region}/s3/aws4_request"
        text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        keyed = self._keyed(stamp[:8]).copy()
        keyed.update(text.encode())
        signature = keyed.hexdigest()
        everything["Authorization"] = (
            f"{_ALGORITHM} Credential={self._id}/{scope}, SignedHeaders={signed_names}, Signature={signature}"
        )
        return everything

    def _signed_names(self, names: tuple[str, ...]) -> tuple[list[tuple[str, str]], str]:
        """The headers that are signed, in order, each in lower case and as it is written; and their list.

        Nearly all requests have one of a few sets of headers.
        """
        known = self._shapes.get(names)
        if known is None:
            lower = sorted((name.lower(), name) for name in names if name.lower() not in _NOT_SIGNED)
            known = (lower, ";".join(name for name, _ in lower))
            if len(self._shapes) < _MOST_SHAPES:
                self._shapes[names] = known
        return known

    def _stamp(self, at: datetime) -> str:
        """The second as S3 writes it; many requests share it."""
        second, kept = (at.year, at.month, at.day, at.hour, at.minute, at.second), self._second
        if kept is None or kept[0] != second:
            self._second = kept = (second, at.strftime("%Y%m%dT%H%M%SZ"))
        return kept[1]

    def _keyed(self, day: str) -> hmac.HMAC:
        """The hash under the signing key of one day, to be copied; it is the same for all its requests."""
        kept = self._key
        if kept is None or kept[0] != day:
            key = f"AWS4{self._secret}".encode()
            for word in (day, self._region, "s3", "aws4_request"):
                key = hmac.new(key, word.encode(), hashlib.sha256).digest()
            self._key = kept = (day, hmac.new(key, digestmod=hashlib.sha256))
        return kept[1]


def _is_even(text: str, lines: int) -> bool:
    """Whether values, by lines, are signed as they are: no blanks at their ends, none beside another, nothing odd."""
    return (
        text.isascii()
        and text.count("\n") == lines - 1
        and "  " not in text
        and "\n " not in text
        and " \n" not in text
        and text[:1] != " "
        and text[-1:] != " "
        and text.replace("\n", "").isprintable()
    )
