"""Independent time for a checkpoint, as an extra: a timestamp of RFC 3161 over the signed note.

A timestamp authority signs that the note's SHA-256 existed at a moment, so neither who sealed nor whoever gets hold of
a key later can date it back. The response is kept as received and verified offline, against roots the verifier brings;
nothing else depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
from cryptography import x509

from holdfast.clock import Clock, SystemClock
from holdfast.engine.audit.tlog.errors import LogError, TimestampRefused
from holdfast.errors import ConfigError

_MAX_RESPONSE_BYTES = 256 * 1024
_TIMEOUT = httpx.Timeout(10, connect=5)
_TRIES = 3
_FIRST_PAUSE_SECONDS = 0.5


class AuthorityUnavailable(LogError):
    """The timestamp authority does not answer."""

    exit_code = 1
    transient = True


@dataclass(frozen=True, slots=True)
class Timestamp:
    """What a verified response says.

    Args:
        moment: in UTC: the bytes existed by then.
        policy: the authority's, as a dotted number.
        serial_number: of the response, at its authority.
    """

    moment: datetime
    policy: str
    serial_number: int


def fetch_timestamp(
    url: str,
    data: bytes,
    roots: Sequence[bytes],
    *,
    client: httpx.Client | None = None,
    clock: Clock | None = None,
) -> bytes:
    """Have the bytes timestamped; the response, verified, to be kept beside them.

    Args:
        url: the authority's, ``http`` or ``https``: its answer is signed.
        roots: certificates in PEM that its answer must lead to.

    Raises:
        ConfigError: ``rfc3161-client`` is not installed, or a root cannot be read.
        TimestampRefused: the authority refuses, or what it answers does not verify.
        AuthorityUnavailable: it does not answer, in three tries of up to 10 s.
    """
    library = _library()
    request = library.TimestampRequestBuilder(
        data=data, hash_algorithm=library.HashAlgorithm.SHA256, nonce=True, cert_req=True
    ).build()
    found = _posted(url, request.as_bytes(), client, clock or SystemClock())
    _verified(found, data, roots, url, nonce=request.nonce)
    return found


def verify_timestamp(response: bytes, data: bytes, roots: Sequence[bytes]) -> Timestamp:
    """When these bytes were timestamped, by a response that was kept. Offline.

    Raises:
        ConfigError: ``rfc3161-client`` is not installed, or a root cannot be read.
        TimestampRefused: it is malformed, of other bytes, or not of an authority these roots vouch for.
    """
    return _verified(response, data, roots, "timestamp")


def _verified(response: bytes, data: bytes, roots: Sequence[bytes], where: str, nonce: int | None = None) -> Timestamp:
    library, trusted = _library(), _certificates(roots)
    try:
        decoded = library.decode_timestamp_response(response)
        library.VerifierBuilder(roots=trusted, nonce=nonce).build().verify_message(decoded, data)
        info = decoded.tst_info
        found = Timestamp(info.gen_time.astimezone(UTC), info.policy.dotted_string, info.serial_number)
    except Exception as error:  # the library lets others' errors through, of whatever the bytes are
        raise TimestampRefused(
            "the timestamp does not verify",
            where=where,
            expected="a response for these bytes, of an authority the given roots vouch for",
            found=(str(error).splitlines() or [type(error).__name__])[0][:200],
        ) from None
    return found


def _posted(url: str, request: bytes, client: httpx.Client | None, clock: Clock) -> bytes:
    for attempt in range(1, _TRIES + 1):
        try:
            return _once(url, request, client)
        except AuthorityUnavailable:
            if attempt == _TRIES:
                raise
            clock.sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _once(url: str, request: bytes, client: httpx.Client | None) -> bytes:
    headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    used = client or httpx.Client(timeout=_TIMEOUT, follow_redirects=False)
    try:
        with used.stream("POST", url, content=request, headers=headers) as answer:
            status, body = answer.status_code, b""
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > _MAX_RESPONSE_BYTES:
                    break
    except httpx.UnsupportedProtocol:
        raise ConfigError(
            "this is no timestamp authority's address", where=url, expected="http:// or https://"
        ) from None
    except httpx.HTTPError as error:
        raise AuthorityUnavailable("the authority does not answer", where=url, found=type(error).__name__) from None
    finally:
        if client is None:
            used.close()
    if status == 429 or status >= 500:
        raise AuthorityUnavailable(
            "the timestamp authority is failing or throttling", where=url, found=f"HTTP {status}"
        )
    if status != 200 or len(body) > _MAX_RESPONSE_BYTES:
        found = f"HTTP {status}" if status != 200 else f"more than {_MAX_RESPONSE_BYTES} bytes"
        raise TimestampRefused(
            "the timestamp authority gives no timestamp", where=url, expected="HTTP 200", found=found
        )
    return body


def _certificates(roots: Sequence[bytes]) -> list[x509.Certificate]:
    found: list[x509.Certificate] = []
    for number, each in enumerate(roots, 1):
        try:
            found += x509.load_pem_x509_certificates(each)
        except ValueError as error:
            raise ConfigError(
                "a timestamp authority's root cannot be read",
                where=f"root {number}",
                expected="certificates in PEM",
                found=str(error),
            ) from None
    if not found:
        raise ConfigError("no root of a timestamp authority is given", expected="at least one certificate in PEM")
    return found


def _library() -> Any:
    try:
        import rfc3161_client
    except ImportError as error:
        raise ConfigError(
            "timestamps need a package that is not installed here",
            expected="rfc3161-client",
            found=str(error),
            fix="pip install 'holdfast[audit]'",
        ) from None
    return rfc3161_client
