"""The checksums clouds compute themselves: CRC-64/NVME (S3, Azure) and CRC-32C (Google Cloud).

Both can be computed part by part, in any order, and combined. They tell accidents, not attacks: what a snapshot
vouches for is its BLAKE3 digests.

awscrt computes them; it is imported at first use, since a process that copies nothing needs it not.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Self

#: What can be summed without a copy.
Bytes = bytes | bytearray | memoryview


def _awscrt() -> Any:
    from awscrt import checksums  # type: ignore[import-untyped]

    return checksums


def crc64nvme(data: Bytes, previous: int = 0) -> int:
    """CRC-64/NVME of the data, going on from ``previous``. Of ``123456789`` it is ``0xae8b14860a799888``."""
    return int(_awscrt().crc64nvme(data, previous))


def crc32c(data: Bytes, previous: int = 0) -> int:
    """CRC-32C (Castagnoli) of the data, going on from ``previous``. Of ``123456789`` it is ``0xe3069283``."""
    return int(_awscrt().crc32c(data, previous))


def combine_crc64nvme(first: int, second: int, second_size_bytes: int) -> int:
    """CRC-64/NVME of two neighbouring stretches, from theirs and the size of the second."""
    return int(_awscrt().combine_crc64nvme(first, second, second_size_bytes))


def combine_crc32c(first: int, second: int, second_size_bytes: int) -> int:
    """CRC-32C of two neighbouring stretches, from theirs and the size of the second."""
    return int(_awscrt().combine_crc32c(first, second, second_size_bytes))


@dataclass(frozen=True, slots=True)
class Checksums:
    """The checksums of a stretch of bytes; ``None``: not computed.

    ``one + other`` is those of both stretches, one after the other.
    """

    crc64nvme: int | None
    crc32c: int | None
    size_bytes: int

    @classmethod
    def of(cls, data: Bytes, *, with_crc64nvme: bool = True, with_crc32c: bool = True) -> Self:
        """Those of the data; leave one out to save its time (a gibibyte takes about 0.05 s each)."""
        size_bytes = data.nbytes if isinstance(data, memoryview) else len(data)
        return cls(crc64nvme(data) if with_crc64nvme else None, crc32c(data) if with_crc32c else None, size_bytes)

    def __add__(self, other: Checksums) -> Checksums:
        return Checksums(
            None
            if self.crc64nvme is None or other.crc64nvme is None
            else combine_crc64nvme(self.crc64nvme, other.crc64nvme, other.size_bytes),
            None
            if self.crc32c is None or other.crc32c is None
            else combine_crc32c(self.crc32c, other.crc32c, other.size_bytes),
            self.size_bytes + other.size_bytes,
        )

    def contradicts(self, other: Checksums) -> str | None:
        """Where the two cannot be of the same bytes, in words; ``None`` when nothing known of both differs."""
        for name, one, two in (
            ("size", self.size_bytes, other.size_bytes),
            ("CRC-64/NVME", self.crc64nvme, other.crc64nvme),
            ("CRC-32C", self.crc32c, other.crc32c),
        ):
            if one is not None and two is not None and one != two:
                return f"{name} {one} and {two}" if name == "size" else f"{name} {one:#x} and {two:#x}"
        return None

    def confirms(self, other: Checksums) -> bool:
        """Whether at least one checksum is known of both, and nothing differs."""
        if self.contradicts(other) is not None:
            return False
        return (self.crc64nvme is not None and other.crc64nvme is not None) or (
            self.crc32c is not None and other.crc32c is not None
        )


#: Of nothing: where a sum of many begins.
NO_BYTES = Checksums(0, 0, 0)


def s3_text(crc64: int) -> str:
    """CRC-64/NVME as S3 writes it in ``x-amz-checksum-crc64nvme``: base64, most significant byte first."""
    return base64.b64encode(crc64.to_bytes(8, "big")).decode()


def from_s3_text(text: str) -> int | None:
    """The number; ``None`` when the text is none (or the checksum of the parts' checksums, ``…-3``)."""
    return _number(text, 8, "big")


def azure_text(crc64: int) -> str:
    """CRC-64/NVME as Azure writes it in ``x-ms-content-crc64``: base64, least significant byte first."""
    return base64.b64encode(crc64.to_bytes(8, "little")).decode()


def from_azure_text(text: str) -> int | None:
    """The number; ``None`` when the text is none."""
    return _number(text, 8, "little")


def google_text(crc32: int) -> str:
    """CRC-32C as Google Cloud writes it in ``x-goog-hash: crc32c=…``: base64, most significant byte first."""
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


def from_google_text(text: str) -> int | None:
    """The number; ``None`` when the text is none."""
    return _number(text, 4, "big")


def _number(text: str, size: int, order: str) -> int | None:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return int.from_bytes(data, "big" if order == "big" else "little") if len(data) == size else None
