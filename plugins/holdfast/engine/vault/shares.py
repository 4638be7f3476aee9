"""Shares: an object cut into k pieces and m - k of parity, so that any k of m bring it back. Format: vault-shares.md.

Piece i holds bytes ``i * P`` to ``(i + 1) * P`` of the object, so a range of it needs ranges of the pieces it touches,
or, where one is gone, the same range of any k others: the code works byte by byte (Reed-Solomon over GF(2^8), zfec).

Every share carries the same *description*: the digests of the object, of all shares and of their blocks. So what one
site serves is checked by what another says.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3

from holdfast.engine.vault.errors import Damaged
from holdfast.errors import ConfigError

MAGIC = b"HFSH"
VERSION = 1
BLOCK_BYTES = 64 * 1024
_PRELUDE = struct.Struct(">4sBBH")
_FIXED = struct.Struct(">BBHQQ32s")
_DIGEST = 32
_BLOCK_DIGEST = 16
MOST_SHARES = 16


@dataclass(frozen=True)
class Scheme:
    """Any ``needed`` of ``total`` shares bring an object back.

    Raises:
        ConfigError: 1 <= needed < total <= 16 does not hold.
    """

    needed: int = 2
    total: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.needed < self.total <= MOST_SHARES:
            raise ConfigError(
                "shares that lose nothing when one is lost",
                where="erasure code",
                expected=f"1 <= needed < total <= {MOST_SHARES}",
                found=f"{self.needed} of {self.total}",
            )

    def piece_bytes(self, size_bytes: int) -> int:
        """How long each share's payload is."""
        return -(-size_bytes // self.needed)

    def description_bytes(self, piece_bytes: int) -> int:
        blocks = -(-piece_bytes // BLOCK_BYTES)
        return _FIXED.size + self.total * (_DIGEST + blocks * _BLOCK_DIGEST) + _DIGEST

    def share_bytes(self, size_bytes: int, number: int) -> int:
        """How long the share of this number is: its end is padded so that two sizes tell the object's own."""
        piece = self.piece_bytes(size_bytes)
        short = piece * self.needed - size_bytes
        return _PRELUDE.size + self.description_bytes(piece) + piece + number * short

    def size_of(self, sizes: Mapping[int, int]) -> tuple[int, frozenset[int]] | None:
        """The object's size, from its shares' sizes by their numbers, and which of them agree with it.

        ``None``: fewer than `needed` agree on one, or it cannot be told from sizes alone.
        """
        if self.needed == 1:
            found = {self._size_if(size, 0) for size in sizes.values()}
        else:
            found = {self._size_of_two(one, other) for one, other in itertools.combinations(sorted(sizes.items()), 2)}
        agreeing = {
            size: frozenset(number for number, share in sizes.items() if self.share_bytes(size, number) == share)
            for size in found
            if size is not None
        }
        most = max(map(len, agreeing.values()), default=0)
        best = [size for size, numbers in agreeing.items() if len(numbers) == most]
        return (best[0], agreeing[best[0]]) if most >= self.needed and len(best) == 1 else None

    def _size_of_two(self, one: tuple[int, int], other: tuple[int, int]) -> int | None:
        short, rest = divmod(other[1] - one[1], other[0] - one[0])
        if rest or not 0 <= short < self.needed:
            return None
        return self._size_if(one[1] - one[0] * short, short)

    def _size_if(self, share: int, short: int) -> int | None:
        """The object's size by an unpadded share's."""
        room = share - _PRELUDE.size - self.description_bytes(0)
        if room < 0:
            return None
        blocks = -(-room // (BLOCK_BYTES + self.total * _BLOCK_DIGEST))
        piece = room - blocks * self.total * _BLOCK_DIGEST
        if piece < 0 or -(-piece // BLOCK_BYTES) != blocks or piece * self.needed < short:
            return None
        return piece * self.needed - short


@dataclass(frozen=True)
class Description:
    """What every share of an object says of all of them.

    Args:
        size_bytes: of the object.
        piece_bytes: of each share's payload.
        digest: BLAKE3 of the object.
        piece_digests: BLAKE3 of each payload.
        block_digests: by share, the first 16 bytes of BLAKE3 of each of its blocks, joined.
        data: as it lies in every share.
    """

    scheme: Scheme
    size_bytes: int
    piece_bytes: int
    digest: bytes
    piece_digests: tuple[bytes, ...]
    block_digests: tuple[bytes, ...]
    data: bytes

    @property
    def payload_offset(self) -> int:
        """Where a share's payload begins."""
        return _PRELUDE.size + len(self.data)

    def blocks(self, start: int, end: int) -> tuple[int, int]:
        """A range of a piece, widened to whole blocks."""
        return start // BLOCK_BYTES * BLOCK_BYTES, min(-(-end // BLOCK_BYTES) * BLOCK_BYTES, self.piece_bytes)

    def is_good(self, number: int, start: int, data: bytes) -> bool:
        """Whether these bytes are those of a share's payload from ``start``, the beginning of a block, on."""
        table = self.block_digests[number]
        view = memoryview(data)
        for offset in range(0, len(data), BLOCK_BYTES):
            place = (start + offset) // BLOCK_BYTES * _BLOCK_DIGEST
            if (
                blake3(view[offset : offset + BLOCK_BYTES]).digest(_BLOCK_DIGEST)
                != table[place : place + _BLOCK_DIGEST]
            ):
                return False
        return True


def make_shares(scheme: Scheme, data: bytes) -> list[bytes]:
    """All shares of an object, by number."""
    pieces = _pieces(scheme, data)
    piece_bytes = scheme.piece_bytes(len(data))
    fixed = _FIXED.pack(scheme.needed, scheme.total, 0, len(data), piece_bytes, blake3(data).digest())
    digests = b"".join(blake3(piece).digest() for piece in pieces)
    blocks = b"".join(_block_digests(piece) for piece in pieces)
    described = fixed + digests + blocks
    described += blake3(described).digest()
    short = piece_bytes * scheme.needed - len(data)
    return [
        b"".join((_PRELUDE.pack(MAGIC, VERSION, number, 0), described, piece, bytes(number * short)))
        for number, piece in enumerate(pieces)
    ]


def _pieces(scheme: Scheme, data: bytes) -> list[bytes | memoryview]:
    size = scheme.piece_bytes(len(data))
    if size == 0:
        return [b""] * scheme.total
    padded = memoryview(data.ljust(size * scheme.needed, b"\0"))
    return encode(scheme, [padded[start : start + size] for start in range(0, len(padded), size)])


def _block_digests(piece: bytes | memoryview) -> bytes:
    view = memoryview(piece)
    return b"".join(
        blake3(view[start : start + BLOCK_BYTES]).digest(_BLOCK_DIGEST) for start in range(0, len(piece), BLOCK_BYTES)
    )


def encode(scheme: Scheme, first: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """All pieces, the object's own and parity, from the first ``needed`` ones, all equally long."""
    import zfec

    return list(zfec.Encoder(scheme.needed, scheme.total).encode(tuple(first)))


def decode(scheme: Scheme, pieces: Mapping[int, bytes]) -> list[bytes]:
    """The first ``needed`` pieces (or the same range of each) from any ``needed`` by number."""
    import zfec

    chosen = sorted(pieces)[: scheme.needed]
    if not pieces[chosen[0]]:
        return [b""] * scheme.needed
    decoder = zfec.Decoder(scheme.needed, scheme.total)
    return list(decoder.decode(tuple(pieces[number] for number in chosen), tuple(chosen)))


def parse_share(data: bytes, scheme: Scheme, number: int, where: str) -> Description | int:
    """The description in a share's beginning.

    Args:
        data: the share's first bytes.
        number: which share it must be.

    Returns:
        It; or, when ``data`` is too short, how many bytes are needed.

    Raises:
        Damaged: this is no share, another one, or its description was changed.
    """

    def wrong(expected: str, found: str) -> Damaged:
        return Damaged("this is not the share that belongs here", where=where, expected=expected, found=found)

    if len(data) < _PRELUDE.size + _FIXED.size:
        raise wrong("a share", f"{len(data)} bytes")
    magic, version, found_number, zero = _PRELUDE.unpack_from(data)
    if (magic, version, zero) != (MAGIC, VERSION, 0):
        raise wrong(f"{MAGIC!r} version {VERSION}", f"{magic!r} version {version}")
    needed, total, zero, size_bytes, piece_bytes, digest = _FIXED.unpack_from(data, _PRELUDE.size)
    if (needed, total, found_number, zero) != (scheme.needed, scheme.total, number, 0):
        raise wrong(
            f"share {number} of {scheme.needed} of {scheme.total}", f"share {found_number} of {needed} of {total}"
        )
    if piece_bytes != scheme.piece_bytes(size_bytes):
        raise wrong(f"pieces of {scheme.piece_bytes(size_bytes)} bytes", f"{piece_bytes}")
    length = scheme.description_bytes(piece_bytes)
    if len(data) < _PRELUDE.size + length:
        return _PRELUDE.size + length
    described = data[_PRELUDE.size : _PRELUDE.size + length]
    if blake3(described[:-_DIGEST]).digest() != described[-_DIGEST:]:
        raise wrong("a description whose digest fits", "a changed one")
    at = _FIXED.size + total * _DIGEST
    each = -(-piece_bytes // BLOCK_BYTES) * _BLOCK_DIGEST
    return Description(
        scheme,
        size_bytes,
        piece_bytes,
        digest,
        tuple(described[_FIXED.size + one * _DIGEST :][:_DIGEST] for one in range(total)),
        tuple(described[at + one * each :][:each] for one in range(total)),
        bytes(described),
    )


def read_share(data: bytes, scheme: Scheme, number: int, where: str) -> tuple[Description, bytes]:
    """A whole share: its description and its payload. Raises Damaged: any byte of it is not what it should be."""
    found = parse_share(data, scheme, number, where)
    if isinstance(found, int):
        raise Damaged("the share is cut short", where=where, expected=f"{found} bytes", found=f"{len(data)} bytes")
    size = scheme.share_bytes(found.size_bytes, number)
    payload = data[found.payload_offset : found.payload_offset + found.piece_bytes]
    if len(data) != size or data[found.payload_offset + found.piece_bytes :].strip(b"\0"):
        raise Damaged(
            "the share is not as long as it says", where=where, expected=f"{size} bytes", found=f"{len(data)}"
        )
    if blake3(payload).digest() != found.piece_digests[number]:
        raise Damaged("the share's payload was changed", where=where, expected=found.piece_digests[number].hex())
    return found, payload
