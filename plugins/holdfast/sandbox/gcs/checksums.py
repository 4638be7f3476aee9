"""CRC32C and MD5 of a stream, and the CRC32C of a concatenation without reading it again."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import google_crc32c

from holdfast.sandbox.gcs.errors import GcsError, invalid

# The reflected Castagnoli polynomial (RFC 3720, appendix B.4).
_POLYNOMIAL = 0x82F63B78


class Hasher:
    """Both checksums of what is fed to it, in one pass."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._crc32c = 0
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Add the next bytes."""
        self.size_bytes += len(data)
        self._crc32c = google_crc32c.extend(self._crc32c, data)
        self._md5.update(data)

    def digest(self) -> Checksums:
        """The checksums so far; more may be added afterwards."""
        return Checksums(encode_crc32c(self._crc32c), base64.b64encode(self._md5.digest()).decode())


@dataclass(frozen=True)
class Checksums:
    """Checksums as the APIs write them.

    Attributes:
        crc32c: base64 of the big-endian CRC32C.
        md5: base64 of the MD5, or None for an object made of components (as in Google Cloud Storage).
    """

    crc32c: str
    md5: str | None

    def goog_hash(self) -> str:
        """Value of the ``x-goog-hash`` response header."""
        return f"crc32c={self.crc32c}" + (f",md5={self.md5}" if self.md5 else "")


def encode_crc32c(value: int) -> str:
    """A CRC32C as the APIs write it."""
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def decode_crc32c(text: str) -> int:
    """The inverse of `encode_crc32c`."""
    return int.from_bytes(base64.b64decode(text), "big")


def expected_checksums(headers: Mapping[str, str], fields: Mapping[str, object] | None = None) -> dict[str, str]:
    """What a request says its content hashes to, from ``x-goog-hash``, ``Content-MD5`` and JSON fields.

    Args:
        headers: request headers, case-insensitive.
        fields: the object resource sent along, if any (``crc32c``, ``md5Hash``).

    Returns:
        A mapping with keys out of ``crc32c`` and ``md5``.

    Raises:
        GcsError: 400 for something that is no checksum.
    """
    expected: dict[str, str] = {}
    for item in headers.get("x-goog-hash", "").split(","):
        kind, _, value = item.strip().partition("=")
        if kind in ("crc32c", "md5"):
            expected[kind] = value
        elif kind:
            raise invalid(f"x-goog-hash: expected crc32c=... or md5=..., found {item.strip()!r}.")
    if "content-md5" in headers:
        expected["md5"] = headers["content-md5"]
    for kind, field in (("crc32c", "crc32c"), ("md5", "md5Hash")):
        value_in_body = (fields or {}).get(field)
        if value_in_body is not None:
            expected[kind] = str(value_in_body)
    for kind, value in expected.items():
        length = 4 if kind == "crc32c" else 16
        try:
            raw = base64.b64decode(value, validate=True)
        except binascii.Error:
            raw = b""
        if len(raw) != length:
            raise invalid(f"{kind}: expected base64 of {length} bytes, found {value!r}.", xml_code="InvalidDigest")
    return expected


def verify(expected: Mapping[str, str], found: Checksums) -> None:
    """Refuse content whose checksums are not those announced.

    Raises:
        GcsError: 400, naming the checksum announced and the one computed.
    """
    for kind, value in expected.items():
        computed = found.crc32c if kind == "crc32c" else found.md5
        if computed is not None and computed != value:
            label = "CRC32C" if kind == "crc32c" else "MD5 hash"
            raise GcsError(
                400,
                "invalid",
                f'Provided {label} "{value}" doesn\'t match calculated {label} "{computed}".',
                xml_code="BadDigest",
            )


def combine_crc32c(first: int, second: int, second_size_bytes: int) -> int:
    """CRC32C of the concatenation of two byte strings, from their CRC32Cs and the length of the second.

    Appending n zero bytes is a linear map over GF(2); its powers of two are precomputed (the method
    of zlib's ``crc32_combine``).
    """
    power = 0
    while second_size_bytes:
        if second_size_bytes & 1:
            first = _apply(_zero_bytes_operator(power), first)
        second_size_bytes >>= 1
        power += 1
    return first ^ second


@functools.cache
def _zero_bytes_operator(power: int) -> tuple[int, ...]:
    """Matrix (32 columns) that appends 2**power zero bytes to a CRC."""
    if power == 0:
        one_bit = (_POLYNOMIAL, *(1 << n for n in range(31)))
        operator = one_bit
        for _ in range(3):
            operator = tuple(_apply(operator, column) for column in operator)
        return operator
    previous = _zero_bytes_operator(power - 1)
    return tuple(_apply(previous, column) for column in previous)


def _apply(operator: tuple[int, ...], vector: int) -> int:
    result = 0
    for column in operator:
        if vector & 1:
            result ^= column
        vector >>= 1
        if not vector:
            break
    return result
