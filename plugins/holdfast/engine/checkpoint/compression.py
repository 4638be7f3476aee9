"""Whether a blob is stored compressed, and how: the policy of a run.

Nothing here runs in the training thread: blobs are encoded where they are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from holdfast.engine.checkpoint.encoding import can_shuffle, encode, zstandard
from holdfast.engine.checkpoint.format import BlobRef, Encoding, digest_of
from holdfast.errors import ConfigError

LEVEL_MAX = 19
#: What `auto` must save of a blob's bytes. Less is not worth a core's time at either end.
SAVED_SHARE_MIN = 0.1
#: Smaller blobs stay plain with `auto`: a request is a request.
AUTO_BYTES_MIN = 64 * 1024
_SAMPLE_PARTS = 16
_SAMPLE_PART_BYTES = 64 * 1024


class Policy(StrEnum):
    NONE = "none"
    AUTO = "auto"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True)
class Compression:
    """How the blobs of a run are stored.

    Args:
        policy: ``none``: as they are. ``auto``: a blob of 64 KiB or more is encoded where that saves a tenth of it.
            ``zstd``: each that becomes smaller.
        level: Zstandard's, 1 to 19.

    Raises:
        ConfigError: no such policy or level, or the policy needs a package that is not installed.
    """

    policy: Policy | str = Policy.NONE
    level: int = 1

    def __post_init__(self) -> None:
        if self.policy not in tuple(Policy):
            raise ConfigError(
                "there is no such compression policy",
                where="compression",
                expected=", ".join(Policy),
                found=repr(self.policy),
            )
        if isinstance(self.level, bool) or not isinstance(self.level, int) or not 1 <= self.level <= LEVEL_MAX:
            raise ConfigError(
                "there is no such compression level",
                where="compression",
                expected=f"1 to {LEVEL_MAX}",
                found=repr(self.level),
            )
        if self.is_on:
            zstandard()

    @property
    def is_on(self) -> bool:
        return self.policy != Policy.NONE


class BlobEncoder:
    """Gives each blob the form the policy wants."""

    def __init__(self, compression: Compression) -> None:
        self.compression = compression

    def form(self, data: bytes, content: str) -> tuple[BlobRef, bytes]:
        """How a blob is to be stored, and the bytes to store.

        Args:
            content: the digest of ``data``.
        """
        plain = BlobRef(digest=content, size_bytes=len(data)), data
        at_most = self._at_most(len(data))
        if at_most is None or (encoding := self._best(data)) is None:
            return plain
        frame = encode(data, encoding, level=self.compression.level, at_most=at_most)
        if frame is None:
            return plain
        reference = BlobRef(
            digest=digest_of(frame),
            size_bytes=len(frame),
            encoding=encoding,
            content_digest=content,
            content_size_bytes=len(data),
        )
        return reference, frame

    def again(self, data: bytes, reference: BlobRef) -> bytes | None:
        """The bytes that this blob lies stored in; None where they do not come out the same (another level, another
        version of Zstandard)."""
        if reference.encoding is None:
            return data
        if not self.compression.is_on:
            return None
        frame = encode(data, reference.encoding, level=self.compression.level, at_most=reference.size_bytes)
        return frame if frame is not None and digest_of(frame) == reference.digest else None

    def may_keep(self, reference: BlobRef) -> bool:
        """Whether a blob may stay in the form an earlier checkpoint gave it. Without compression only a plain one may:
        that is what lets a version of holdfast go on that reads no other."""
        return reference.encoding is None or self.compression.is_on

    def _at_most(self, size_bytes: int) -> int | None:
        """How many bytes the encoded form may have; None: it is not tried."""
        if self.compression.policy == Policy.ZSTD:
            return size_bytes - 1 if size_bytes else None
        if self.compression.policy == Policy.AUTO and size_bytes >= AUTO_BYTES_MIN:
            return int(size_bytes * (1 - SAVED_SHARE_MIN))
        return None

    def _best(self, data: bytes) -> Encoding | None:
        """The encoding that makes a sample smallest; None: none of them saves what `auto` asks for."""
        sample = sample_of(data)
        tried: tuple[Encoding, ...] = ("zstd",)
        if can_shuffle():
            tried = ("zstd", "zstd-shuffled-2", "zstd-shuffled-4", "zstd-shuffled-8")
        best: Encoding | None = "zstd" if self.compression.policy == Policy.ZSTD else None
        at_most = len(sample) if best else int(len(sample) * (1 - SAVED_SHARE_MIN))
        for encoding in tried:
            frame = encode(sample, encoding, level=self.compression.level, at_most=at_most)
            if frame is not None:
                best, at_most = encoding, len(frame) - 1
        return best


def sample_of(data: bytes) -> bytes:
    """A mebibyte of a blob, in sixteen parts from all over it; a smaller blob whole.

    One part from the middle would be of one tensor, and the tensors of a blob are unlike.
    """
    view = memoryview(data).cast("B")
    if len(view) <= _SAMPLE_PARTS * _SAMPLE_PART_BYTES:
        return bytes(view)
    stride = (len(view) - _SAMPLE_PART_BYTES) // (_SAMPLE_PARTS - 1) // 8 * 8  # whole elements
    return b"".join(view[at : at + _SAMPLE_PART_BYTES] for at in range(0, _SAMPLE_PARTS * stride, stride))
