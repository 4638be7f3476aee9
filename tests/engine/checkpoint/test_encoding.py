"""Encoded blobs: what goes in comes out, and nothing that lies gets further than its own size."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.engine.checkpoint.encoding import BLOCK_BYTES, ELEMENT_BYTES, WINDOW_BYTES_MAX, decoded, encode
from holdfast.engine.checkpoint.errors import CheckpointUnreadable
from holdfast.engine.checkpoint.format import BlobRef, Encoding, digest_of
from holdfast.errors import ConfigError

GOLDEN = Path(__file__).parents[2] / "golden" / "checkpoint"
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def framed(content: bytes, encoding: Encoding = "zstd", level: int = 1, **changes: Any) -> tuple[bytes, BlobRef]:
    """A frame and an honest reference to it, but for the changes."""
    frame = encode(content, encoding, level=level, at_most=2 * len(content) + 1000)
    assert frame is not None
    return frame, reference(frame, content, encoding, **changes)


def reference(frame: bytes, content: bytes, encoding: str = "zstd", **changes: Any) -> BlobRef:
    fields = {
        "digest": digest_of(frame),
        "size_bytes": len(frame),
        "encoding": encoding,
        "content_digest": digest_of(content),
        "content_size_bytes": len(content),
        **changes,
    }
    return BlobRef.model_validate(fields)


def read(chunks: Iterable[bytes], of: BlobRef) -> bytes:
    return b"".join(bytes(block) for block in decoded(chunks, of, where="a test"))


def contents() -> st.SearchStrategy[bytes]:
    """Repeated and random bytes, of sizes around nothing, an element and a block."""
    sizes = st.one_of(
        st.integers(0, 40), st.integers(BLOCK_BYTES - 9, BLOCK_BYTES + 9), st.integers(0, 3 * BLOCK_BYTES)
    )
    seeds = st.integers(0, 2**32 - 1)
    noisy = st.builds(lambda size, seed: np.random.default_rng(seed).bytes(size), sizes, seeds)
    repeated = st.builds(
        lambda size, part: (part * (size // len(part) + 1))[:size], sizes, st.binary(min_size=1, max_size=64)
    )
    return st.one_of(noisy, repeated, st.binary(max_size=300))


@settings(max_examples=60, deadline=None)
@given(contents(), st.sampled_from(ENCODINGS), st.integers(1, 6), st.sampled_from([7, 4096, 4 * 1024 * 1024]))
def test_what_is_encoded_is_decoded_to_the_last_byte(
    content: bytes, encoding: Encoding, level: int, chunk_bytes: int
) -> None:
    frame, of = framed(content, encoding, level)
    assert read(cut(frame, max(chunk_bytes, len(frame) // 1000 + 1)), of) == content
    assert framed(content, encoding, level)[0] == frame


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=400), st.sampled_from(ENCODINGS), st.data())
def test_no_flipped_bit_and_no_cut_gets_through(content: bytes, encoding: Encoding, data: st.DataObject) -> None:
    frame, of = framed(content, encoding)
    damaged = bytearray(frame)
    position = data.draw(st.integers(0, len(frame) - 1))
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    for wrong in (bytes(damaged), frame[:position], frame + b"\0"):
        with pytest.raises(CheckpointUnreadable, match="stored bytes"):
            read([wrong], of)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_one_zstandard_frame_any_tool_reads(encoding: Encoding) -> None:
    content = np.arange(300_001, dtype="<i8").tobytes() + b"tail"
    frame, _ = framed(content, encoding)
    plain = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    assert zstandard.get_frame_parameters(frame).content_size == len(content)
    width = ELEMENT_BYTES[encoding]
    expected = b""
    for block in cut(content, BLOCK_BYTES):  # the specification, word for word
        whole = len(block) // width * width
        expected += b"".join(block[place:whole:width] for place in range(width)) + block[whole:]
    assert plain == expected


def test_the_golden_blob_is_read_by_this_version() -> None:
    from holdfast.engine.checkpoint.format import parse_manifest

    manifest = parse_manifest((GOLDEN / "000000000130.000002.json").read_bytes(), where="golden")
    of = manifest.blobs["optimizer-000.safetensors"]
    assert of.encoding == "zstd-shuffled-4"
    content = (np.arange(20_000, dtype="<f4") / np.float32(7)).tobytes()
    assert read([(GOLDEN / "zstd-shuffled-4.blob").read_bytes()], of) == content


# -- what lies -------------------------------------------------------------------------------------------------------


def test_a_bomb_is_decoded_no_further_than_the_manifest_says() -> None:
    content = bytes(64 * BLOCK_BYTES)
    frame, of = framed(content, content_size_bytes=3 * BLOCK_BYTES)
    assert len(frame) < len(content) / 5000
    seen: list[int] = []
    with pytest.raises(CheckpointUnreadable, match=f"expected {3 * BLOCK_BYTES} bytes of content; found more"):
        seen.extend(len(block) for block in decoded(cut(frame, 4096), of, where="a test"))
    assert sum(seen) == 3 * BLOCK_BYTES


@pytest.mark.parametrize("said", [99, 101, 2**50])
def test_a_manifest_that_lies_about_the_size_is_refused(said: int) -> None:
    frame, of = framed(b"x" * 100, content_size_bytes=said)
    with pytest.raises(CheckpointUnreadable, match="does not decode to what its manifest names"):
        read([frame], of)


def test_a_manifest_that_lies_about_the_content_is_refused() -> None:
    frame, of = framed(b"x" * 100, content_digest=digest_of(b"y" * 100))
    with pytest.raises(CheckpointUnreadable, match="other content than its manifest names"):
        read([frame], of)


@pytest.mark.parametrize("stored", [b"", b"no frame at all", b"\x28\xb5\x2f\xfd"])
def test_bytes_that_are_no_frame_are_refused_though_their_digest_is_right(stored: bytes) -> None:
    with pytest.raises(CheckpointUnreadable, match="does not decode"):
        read([stored], reference(stored, b"x" * 100))


def test_a_frame_cut_off_is_refused_though_its_digest_is_right() -> None:
    content = np.random.default_rng(1).bytes(2 * BLOCK_BYTES)
    frame, _ = framed(content)
    for size in (1, len(frame) // 2, len(frame) - 10):
        with pytest.raises(CheckpointUnreadable, match="does not decode"):
            read([frame[:size]], reference(frame[:size], content))


def test_what_follows_the_frame_is_refused_though_the_digest_is_right() -> None:
    frame, _ = framed(b"x" * 100)
    for more in (b"garbage", framed(b"y")[0]):
        with pytest.raises(CheckpointUnreadable, match="does not decode"):
            read([frame + more], reference(frame + more, b"x" * 100))


def test_another_encoding_than_it_was_written_in_is_refused() -> None:
    content = np.arange(1000, dtype="<f4").tobytes()
    frame, _ = framed(content, "zstd-shuffled-4")
    with pytest.raises(CheckpointUnreadable, match="other content"):
        read([frame], reference(frame, content, "zstd-shuffled-2"))


def test_a_frame_that_wants_more_memory_than_is_ever_written_is_refused() -> None:
    content = np.random.default_rng(1).bytes(1000)
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=24)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = compressor.compress(content) + compressor.flush()
    assert zstandard.get_frame_parameters(frame).window_size > WINDOW_BYTES_MAX
    with pytest.raises(CheckpointUnreadable, match="does not decode"):
        read([frame], reference(frame, content))


def test_the_highest_level_that_is_written_can_be_read() -> None:
    content = bytes(2 * WINDOW_BYTES_MAX + 1)
    frame, of = framed(content, level=19)
    assert zstandard.get_frame_parameters(frame).window_size <= WINDOW_BYTES_MAX
    assert read([frame], of) == content


def test_no_more_is_read_of_stored_bytes_than_there_may_be() -> None:
    frame, of = framed(b"x" * 100)
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield frame

    with pytest.raises(CheckpointUnreadable):
        read(endless(), of)
    assert taken <= 3


def test_it_gives_up_when_the_result_would_be_too_long() -> None:
    noise = np.random.default_rng(1).bytes(4 * BLOCK_BYTES)
    assert encode(noise, "zstd", level=1, at_most=len(noise) - 1) is None
    frame = encode(bytes(4 * BLOCK_BYTES), "zstd", level=1, at_most=10_000)
    assert frame is not None
    assert len(frame) <= 10_000


def test_without_the_package_it_is_no_damage_but_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, of = framed(b"x" * 100)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigError, match="need the package zstandard") as refused:
        read([frame], of)
    assert not isinstance(refused.value, CheckpointUnreadable)
    assert "pip install zstandard" in str(refused.value)


def test_reading_needs_no_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    content = np.arange(1000, dtype="<f4").tobytes() + b"abc"
    frame, of = framed(content, "zstd-shuffled-4")
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert read([frame], of) == content
