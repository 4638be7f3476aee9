"""A blob's bytes as they lie encoded in the store, and back. docs/formats/checkpoint.md specifies it.

An encoded blob is one Zstandard frame (RFC 8878). In a ``zstd-shuffled-<w>`` blob the content is shuffled first, in
blocks of 1 MiB: of each element of w bytes the first bytes come together, then the second ones and so on (the filter
of HDF5 and Blosc). The exponents of floating-point numbers so lie side by side, and those are what compresses in a
training state.

Both ways work block by block, and decoding never holds more than a block, a window and a chunk beside what its caller
keeps. Zstandard itself runs without the interpreter's lock.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from blake3 import blake3

from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.format import BlobRef, Encoding
from holdfast.errors import ConfigError

BLOCK_BYTES = 1024 * 1024
#: The memory a frame may ask its reader for; level 19, the highest that is written, needs as much.
WINDOW_BYTES_MAX = 8 * 1024 * 1024
#: Bytes per element that each encoding shuffles by; 1: not at all.
ELEMENT_BYTES: dict[Encoding, int] = {"zstd": 1, "zstd-shuffled-2": 2, "zstd-shuffled-4": 4, "zstd-shuffled-8": 8}


def encode(data: bytes, encoding: Encoding, *, level: int, at_most: int) -> bytes | None:
    """Encode a blob; the same bytes each time with one version of Zstandard and one level.

    Args:
        level: Zstandard's, 1 to 19.
        at_most: give up as soon as the result is longer, in bytes.

    Returns:
        The frame, or None where it would be longer than ``at_most``.
    """
    view = memoryview(data).cast("B")
    compressor = zstandard().ZstdCompressor(level=level, write_checksum=False).compressobj(size=len(view))
    frame, shuffle = io.BytesIO(), _shuffle(ELEMENT_BYTES[encoding])
    for begin in range(0, len(view), BLOCK_BYTES):
        frame.write(compressor.compress(shuffle(view[begin : begin + BLOCK_BYTES])))
        if frame.tell() > at_most:
            return None
    frame.write(compressor.flush())
    return None if frame.tell() > at_most else frame.getvalue()


def decoded(chunks: Iterable[bytes], reference: BlobRef, *, where: str) -> Iterator[memoryview]:
    """The content of an encoded blob, block by block; what came is right only once the iteration has ended.

    Each block's memory is used again for the next one.

    Never more than ``content_size_bytes`` are decoded, whatever the frame says. At the end both digests have been
    compared: that of the stored bytes, which tells damage, and that of the content, which tells a manifest that lies.

    Args:
        chunks: the stored bytes.
        reference: an encoded blob's.

    Raises:
        CheckpointUnreadable: the stored bytes are others, or do not decode to what the manifest names.
    """
    stored, content = _Stored(chunks, reference.size_bytes), blake3()
    wrong: tuple[str, str, str] | None = None
    try:
        for block in _blocks(stored, reference):
            content.update(block)
            yield block
    except _NotDecodable as error:
        wrong = ("an encoded blob does not decode to what its manifest names", error.expected, error.found)
    stored.drain()
    if stored.digest != reference.digest:
        # Before what it decoded to: bytes that were damaged decode to anything.
        wrong = ("the stored bytes of a blob have another digest", reference.digest, stored.digest)
    elif wrong is None and (found := f"blake3:{content.hexdigest()}") != reference.content_digest:
        wrong = ("an encoded blob decodes to other content than its manifest names", reference.content, found)
    if wrong is not None:
        what, expected, found = wrong
        raise CheckpointUnreadable(what, where=where, expected=expected, found=found)


def zstandard() -> Any:
    """The package ``zstandard``.

    Raises:
        ConfigError: it is not installed. Not `CheckpointUnreadable`: the checkpoint may well be whole, and nothing
            older must be elected in its place.
    """
    try:
        import zstandard as package
    except ImportError:
        raise ConfigError(
            "compressed checkpoints need the package zstandard",
            where="this process's Python",
            expected="zstandard 0.23 or later",
            found="it is not installed",
            fix="Install it (`pip install zstandard`), it is a dependency of holdfast; or turn compression off to save",
        ) from None
    return package


def can_shuffle() -> bool:
    """Whether blobs can be shuffled here without the interpreter's lock, which needs NumPy. Reading needs none."""
    try:
        import numpy  # noqa: F401
    except ImportError:
        return False
    return True


class _NotDecodable(Exception):
    def __init__(self, expected: str, found: str) -> None:
        self.expected, self.found = expected, found


class _Stored:
    """The stored bytes as a file to read from, hashed on their way; ends as soon as they are more than there may be."""

    def __init__(self, chunks: Iterable[bytes], size_bytes: int) -> None:
        self._chunks = iter(chunks)
        self._left = memoryview(b"")
        self._hasher = blake3()
        self._size_bytes = size_bytes
        self._seen = 0

    def read(self, size: int = -1) -> bytes:
        while not self._left and self._next():
            pass
        size = len(self._left) if size < 0 else size
        part, self._left = self._left[:size], self._left[size:]
        return bytes(part)

    def drain(self) -> None:
        while self._next():
            pass

    @property
    def digest(self) -> str:
        return f"blake3:{self._hasher.hexdigest()}"

    def _next(self) -> bool:
        chunk = next(self._chunks, None) if self._seen <= self._size_bytes else None
        if chunk is None:
            return False
        self._seen += len(chunk)
        self._hasher.update(chunk)
        self._left = memoryview(chunk)
        return True


def _blocks(stored: _Stored, reference: BlobRef) -> Iterator[memoryview]:
    package = zstandard()
    assert reference.encoding is not None
    size_bytes, unshuffle = reference.content_bytes, _unshuffle(ELEMENT_BYTES[reference.encoding])
    memory = memoryview(bytearray(min(BLOCK_BYTES, size_bytes)))
    decompressor = package.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
    reader = decompressor.stream_reader(stored, read_across_frames=True)
    try:
        for begin in range(0, size_bytes, BLOCK_BYTES):
            block = memory[: min(BLOCK_BYTES, size_bytes - begin)]
            if (read := _fill(block, reader)) < len(block):
                raise _NotDecodable(f"{size_bytes} bytes of content", f"{begin + read}")
            yield unshuffle(block)
        if reader.read(1):
            raise _NotDecodable(f"{size_bytes} bytes of content", "more")
    except package.ZstdError as error:
        raise _NotDecodable("a Zstandard frame", str(error)) from None


def _fill(block: memoryview, reader: Any) -> int:
    """Read until the block is full or there is no more. Returns how many bytes came."""
    filled = 0
    while filled < len(block) and (read := reader.readinto(block[filled:])):
        filled += read
    return filled


def _shuffle(element_bytes: int) -> Callable[[memoryview], Any]:
    """A function that shuffles a block into memory which its next call uses again: cold memory costs more."""
    if element_bytes == 1:
        return lambda block: block
    import numpy as np

    memory = np.empty(BLOCK_BYTES, np.uint8)

    def shuffled(block: memoryview) -> Any:
        array = np.frombuffer(block, np.uint8)
        whole = len(array) // element_bytes * element_bytes
        np.copyto(memory[:whole].reshape(element_bytes, -1), array[:whole].reshape(-1, element_bytes).T)
        memory[whole : len(array)] = array[whole:]
        return memory[: len(array)]

    return shuffled


def _unshuffle(element_bytes: int) -> Callable[[memoryview], memoryview]:
    if element_bytes == 1:
        return lambda block: block
    memory = bytearray(BLOCK_BYTES)

    def unshuffled(block: memoryview) -> memoryview:
        count = len(block) // element_bytes
        whole = count * element_bytes
        # Slices of a bytearray: twice as fast as NumPy's transposition back, and a reader needs no NumPy.
        content = memory if len(block) == len(memory) else bytearray(len(block))
        for place in range(element_bytes):
            content[place:whole:element_bytes] = block[place * count : (place + 1) * count]
        content[whole:] = block[whole:]
        return memoryview(content)

    return unshuffled
