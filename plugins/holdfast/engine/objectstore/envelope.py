"""Client-side encryption of objects: AES-256-GCM in frames, a random key per object, wrapped by a key of the user's.

The format is docs/formats/envelope.md. `EncryptedStore` makes it invisible: sizes, ranges and digests are those of the
plaintext, so nothing above it knows. That works because the size of an envelope follows from that of its content.

The library that encrypts is imported with the first envelope: few sites need it, and every process that copies would
carry its seven megabytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from holdfast.engine.objectstore.errors import BytesCorrupted, PermissionRefused
from holdfast.errors import ConfigError

MAGIC = b"HFEN"
VERSION = 1
_AES_256_GCM = 1
FRAME_BITS = 18
#: Plaintext of every frame but the last.
FRAME_BYTES = 1 << FRAME_BITS
TAG_BYTES = 16
#: A stored frame, its tag included.
STORED_FRAME_BYTES = FRAME_BYTES + TAG_BYTES
_HEADER = struct.Struct(">4sBBBx8s40s8x")
HEADER_BYTES = _HEADER.size
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The key-encryption keys: new objects are wrapped by the first, old ones unwrapped by whichever they name."""

    keys: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.keys or any(len(key) != KEY_BYTES for key in self.keys):
            raise ValueError(f"expected one or more keys of {KEY_BYTES} bytes")

    @property
    def current(self) -> bytes:
        """The one that wraps."""
        return self.keys[0]

    def find(self, key_id: bytes) -> bytes | None:
        """The key of this id."""
        return next((key for key in self.keys if key_id_of(key) == key_id), None)


def key_id_of(key: bytes) -> bytes:
    """Eight bytes that name a key without giving it away."""
    return hashlib.sha256(b"holdfast key id\0" + key).digest()[:8]


def key_ring(variable: str, environ: Mapping[str, str] = os.environ) -> KeyRing:
    """The keys in an environment variable: base64 of 32 bytes each, by commas, the current one first.

    Raises:
        ConfigError: the variable is not set, or is something else. The message does not show its value.
    """
    text = environ.get(variable)
    keys = [_decoded(part.strip()) for part in (text or "").split(",") if part.strip()]
    if keys and None not in keys:
        return KeyRing(tuple(key for key in keys if key is not None))
    raise ConfigError(
        "the key-encryption key cannot be used",
        where=f"environment variable {variable}",
        expected=f"base64 of {KEY_BYTES} random bytes; older keys after it, by commas",
        found="nothing" if not text else "something else",
        fix="Make one with `openssl rand -base64 32` and keep a copy where no site's loss can take it",
    )


def _decoded(text: str) -> bytes | None:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY_BYTES else None


def stored_size(size_bytes: int) -> int:
    """The size of the envelope of so many bytes."""
    return HEADER_BYTES + size_bytes + TAG_BYTES * frame_count(size_bytes)


def frame_count(size_bytes: int) -> int:
    """The frames of so many bytes of plaintext; nothing has one too."""
    return max(1, -(-size_bytes // FRAME_BYTES))


def plain_size(stored_bytes: int) -> int | None:
    """The size of an envelope's content; ``None``: no envelope has this size."""
    body = stored_bytes - HEADER_BYTES
    if body < TAG_BYTES:
        return None
    frames = -(-body // STORED_FRAME_BYTES)
    last = body - (frames - 1) * STORED_FRAME_BYTES
    if last < TAG_BYTES or (last == TAG_BYTES and frames > 1):
        return None
    return body - TAG_BYTES * frames


class Envelope:
    """One object's key and place: seals and opens its frames.

    Args:
        data_key: the object's own key.
        header: the first bytes of the stored object.
        dataset: what the object belongs to.
        key: its key in the store.
    """

    def __init__(self, data_key: bytes, header: bytes, dataset: str, key: str) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.header = header
        self._cipher, self._wrong = AESGCM(data_key), InvalidTag
        self._where = key
        names = b"".join(struct.pack(">I", len(name)) + name for name in (dataset.encode(), key.encode()))
        # Not the wrapped key: it changes when the object is wrapped anew.
        self._context = hashlib.sha256(b"holdfast envelope\0" + header[:8] + names).digest()

    @classmethod
    def new(cls, ring: KeyRing, dataset: str, key: str, *, random: Callable[[int], bytes] = os.urandom) -> Envelope:
        """The envelope of an object to be written, with a key that is used for nothing else."""
        data_key = random(KEY_BYTES)
        return cls(data_key, _header(ring.current, data_key), dataset, key)

    @classmethod
    def read(cls, header: bytes, ring: KeyRing, dataset: str, key: str, *, where: str) -> Envelope:
        """The envelope an object was written with.

        Raises:
            BytesCorrupted: this is no envelope.
            PermissionRefused: it is wrapped by a key that is not on the ring.
        """
        return cls(_unwrapped(header, ring, where), header[:HEADER_BYTES], dataset, key)

    def seal(self, index: int, last: bool, plain: bytes | memoryview) -> bytes:
        """The stored form of a frame."""
        return self._cipher.encrypt(_nonce(index), plain, self._bound(index, last))

    def open(self, index: int, last: bool, stored: bytes | memoryview, *, where: str) -> bytes:
        """The plaintext of a frame. Raises BytesCorrupted for anything but that frame of that object."""
        try:
            return self._cipher.decrypt(_nonce(index), stored, self._bound(index, last))
        except self._wrong:
            raise BytesCorrupted(
                "an encrypted frame is not what was written here",
                where=where,
                expected=f"frame {index}{', the last' if last else ''} of {self._where}",
                found="bytes that were changed, cut off, or belong elsewhere",
            ) from None

    def sealed(self, plain: bytes | memoryview) -> bytes:
        """A whole object."""
        view, count = memoryview(plain), frame_count(len(plain))
        frames = (view[index * FRAME_BYTES : (index + 1) * FRAME_BYTES] for index in range(count))
        sealed = (self.seal(index, index == count - 1, frame) for index, frame in enumerate(frames))
        return b"".join((self.header, *sealed))

    def sealed_stream(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """A whole object of unknown size: a frame goes when it is known whether it is the last."""
        yield self.header
        index, waiting = 0, bytearray()
        for chunk in chunks:
            waiting += chunk
            while len(waiting) > FRAME_BYTES:
                yield self.seal(index, False, bytes(waiting[:FRAME_BYTES]))
                del waiting[:FRAME_BYTES]
                index += 1
        yield self.seal(index, True, bytes(waiting))

    def opened(self, stored: Iterable[bytes], first: int, count: int, *, where: str) -> Iterator[bytes]:
        """The plaintext of frames in a stream.

        Args:
            stored: bytes from the first wanted frame on, in chunks of any size; at most up to the object's end.
            first: index of that frame.
            count: frames of the whole object.
            where: for messages.
        """
        index, waiting = first, bytearray()
        for chunk in stored:
            waiting += chunk
            while len(waiting) > STORED_FRAME_BYTES or (len(waiting) == STORED_FRAME_BYTES and index < count - 1):
                yield self.open(index, False, bytes(waiting[:STORED_FRAME_BYTES]), where=where)
                del waiting[:STORED_FRAME_BYTES]
                index += 1
        if waiting:
            yield self.open(index, index == count - 1, bytes(waiting), where=where)

    def _bound(self, index: int, last: bool) -> bytes:
        return self._context + struct.pack(">QB", index, last)


def rewrapped(header: bytes, ring: KeyRing, *, where: str) -> bytes:
    """The same envelope's header under the ring's current key; the frames after it stay as they are."""
    return _header(ring.current, _unwrapped(header, ring, where))


def _header(key: bytes, data_key: bytes) -> bytes:
    from cryptography.hazmat.primitives.keywrap import aes_key_wrap

    return _HEADER.pack(MAGIC, VERSION, _AES_256_GCM, FRAME_BITS, key_id_of(key), aes_key_wrap(key, data_key))


def _unwrapped(header: bytes, ring: KeyRing, where: str) -> bytes:
    if len(header) < HEADER_BYTES or header[:4] != MAGIC:
        raise BytesCorrupted("the object is not encrypted", where=where, expected="an envelope", found="other bytes")
    _, version, algorithm, bits, key_id, wrapped = _HEADER.unpack(header[:HEADER_BYTES])
    if (version, algorithm, bits) != (VERSION, _AES_256_GCM, FRAME_BITS):
        raise BytesCorrupted(
            "the envelope is of a kind not known here",
            where=where,
            expected=f"version {VERSION}, algorithm {_AES_256_GCM}, frames of 2^{FRAME_BITS} bytes",
            found=f"version {version}, algorithm {algorithm}, frames of 2^{bits} bytes",
        )
    key = ring.find(key_id)
    if key is None:
        raise PermissionRefused(
            "the object is encrypted under a key that is not here",
            where=where,
            expected=f"key {key_id.hex()}",
            found=", ".join(key_id_of(known).hex() for known in ring.keys),
            fix="Put the older key after the current one in the variable the policy names",
        )
    from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

    try:
        return aes_key_unwrap(key, wrapped)
    except InvalidUnwrap:
        raise BytesCorrupted("the object's key is damaged", where=where, found=f"wrapped by {key_id.hex()}") from None


def _nonce(index: int) -> bytes:
    """Unique, because the key is the object's own and each frame is sealed once."""
    return struct.pack(">IQ", 0, index)
