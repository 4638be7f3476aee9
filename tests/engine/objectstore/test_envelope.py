"""The envelope's format: golden vectors, and every tampering found. See docs/formats/envelope.md."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.objectstore.envelope import (
    FRAME_BYTES,
    HEADER_BYTES,
    STORED_FRAME_BYTES,
    Envelope,
    KeyRing,
    frame_count,
    key_id_of,
    key_ring,
    plain_size,
    rewrapped,
    stored_size,
)
from holdfast.engine.objectstore.errors import BytesCorrupted, PermissionRefused
from holdfast.errors import ConfigError

KEK = bytes(range(32))
OLD = bytes(range(32, 64))
RING = KeyRing((KEK,))
#: Data keys of the vectors are the bytes 100 to 131.
FIXED = Envelope.new(RING, "sales", "data/sales/a.csv", random=lambda size: bytes(range(100, 100 + size)))
LONG = hashlib.shake_256(b"long").digest(2 * FRAME_BYTES + 7)

#: (plaintext, stored in base64, or the SHA-256 of what is stored when it is long)
GOLDEN_HEADER = (
    "4846454e01011200349fc81da2875b52026115d00cb6ace96d9e2c074ef78f46"
    "4aa18a532bc68cecfb5117109910dedd924b6e9142333c0f0000000000000000"
)
GOLDEN = {
    "empty": "RRyElLeOMDh2jXL2YNcZbQ==",
    "short": "NAKX/h+5jw8iOjehgp0micYWFyXvHNhSkE1S3TeN",
    "long": "64c29480750c42b7c4958d35c90285dfbc0bce176519a8a33760438106b3b325",
}


def opened(stored: bytes, size_bytes: int, dataset: str = "sales", key: str = "data/sales/a.csv", ring=RING) -> bytes:
    envelope = Envelope.read(stored, ring, dataset, key, where="here")
    return b"".join(envelope.opened([stored[HEADER_BYTES:]], 0, frame_count(size_bytes), where="here"))


def test_the_format_is_the_one_documented() -> None:
    assert FIXED.header.hex() == GOLDEN_HEADER
    assert base64.b64encode(FIXED.sealed(b"")[HEADER_BYTES:]).decode() == GOLDEN["empty"]
    assert base64.b64encode(FIXED.sealed(b"hello, replica")[HEADER_BYTES:]).decode() == GOLDEN["short"]
    assert hashlib.sha256(FIXED.sealed(LONG)).hexdigest() == GOLDEN["long"]


def test_a_reader_written_from_the_document_alone_reads_it() -> None:
    stored = FIXED.sealed(LONG)
    data_key = aes_key_unwrap(KEK, stored[16:56])
    bound = hashlib.sha256(
        b"holdfast envelope\0" + stored[:8] + b"\0\0\0\x05sales" + b"\0\0\0\x10data/sales/a.csv"
    ).digest()
    plain = b""
    for index in range(3):
        frame = stored[64 + index * 262160 :][:262160]
        nonce = bytes(4) + index.to_bytes(8, "big")
        plain += AESGCM(data_key).decrypt(nonce, frame, bound + index.to_bytes(8, "big") + bytes([index == 2]))
    assert plain == LONG
    assert stored[:8].hex() == "4846454e01011200"
    assert stored[8:16] == hashlib.sha256(b"holdfast key id\0" + KEK).digest()[:8]


@pytest.mark.parametrize("name", ["empty", "short"])
def test_old_envelopes_are_read(name: str) -> None:
    stored = bytes.fromhex(GOLDEN_HEADER) + base64.b64decode(GOLDEN[name])
    plain = {"empty": b"", "short": b"hello, replica"}[name]
    assert opened(stored, len(plain)) == plain


@given(st.integers(0, 5 * FRAME_BYTES))
def test_the_stored_size_tells_the_plain_one(size_bytes: int) -> None:
    assert plain_size(stored_size(size_bytes)) == size_bytes


@pytest.mark.parametrize("size_bytes", [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES])
def test_streamed_and_whole_are_the_same_envelope(size_bytes: int) -> None:
    plain = LONG[:size_bytes]
    whole = FIXED.sealed(plain)
    assert len(whole) == stored_size(size_bytes)
    for step in (1 << 20, FRAME_BYTES, 100_003):
        assert b"".join(FIXED.sealed_stream(plain[at : at + step] for at in range(0, size_bytes, step))) == whole
    assert opened(whole, size_bytes) == plain


@pytest.mark.parametrize("stored_bytes", [0, 10, HEADER_BYTES, HEADER_BYTES + 15, stored_size(FRAME_BYTES) + 16])
def test_a_size_no_envelope_has_is_told(stored_bytes: int) -> None:
    assert plain_size(stored_bytes) is None


@pytest.mark.parametrize(
    "position", [HEADER_BYTES, HEADER_BYTES + FRAME_BYTES, HEADER_BYTES + STORED_FRAME_BYTES + 9, -1]
)
def test_a_changed_bit_is_found(position: int) -> None:
    stored = bytearray(FIXED.sealed(LONG))
    stored[position] ^= 1
    with pytest.raises(BytesCorrupted, match="frame"):
        opened(bytes(stored), len(LONG))


def test_frames_cannot_be_reordered_dropped_or_repeated() -> None:
    stored = FIXED.sealed(LONG)
    header, body = stored[:HEADER_BYTES], stored[HEADER_BYTES:]
    frames = [body[at : at + STORED_FRAME_BYTES] for at in range(0, len(body), STORED_FRAME_BYTES)]
    for wrong in ([1, 0, 2], [0, 2], [0, 0, 2], [0, 1], [0]):
        with pytest.raises(BytesCorrupted):
            opened(header + b"".join(frames[index] for index in wrong), FRAME_BYTES * (len(wrong) - 1) + 7)
        with pytest.raises(BytesCorrupted):
            opened(header + b"".join(frames[index] for index in wrong), FRAME_BYTES * len(wrong))


def test_an_object_cannot_stand_for_another() -> None:
    stored = FIXED.sealed(b"hello")
    for dataset, key in (("sales", "data/sales/b.csv"), ("other", "data/sales/a.csv"), ("sal", "esdata/sales/a.csv")):
        with pytest.raises(BytesCorrupted):
            opened(stored, 5, dataset, key)


def test_the_header_is_bound_too() -> None:
    stored = bytearray(FIXED.sealed(b"hello"))
    for position in (4, 5, 6, 20, 55):
        changed = bytes(stored[:position]) + bytes([stored[position] ^ 1]) + bytes(stored[position + 1 :])
        with pytest.raises(BytesCorrupted):
            opened(changed, 5)


def test_plain_bytes_are_never_taken_for_an_envelope() -> None:
    with pytest.raises(BytesCorrupted, match="not encrypted"):
        opened(b"a,b,c\n" * 100, 600)


def test_a_key_that_is_not_there_is_named_and_no_key_is_shown() -> None:
    with pytest.raises(PermissionRefused) as caught:
        opened(FIXED.sealed(b"hello"), 5, ring=KeyRing((OLD,)))
    assert key_id_of(KEK).hex() in str(caught.value)
    assert "000102" not in repr(RING)


def test_an_object_wrapped_anew_is_read_with_the_new_key_alone() -> None:
    new = bytes(reversed(KEK))
    stored = FIXED.sealed(LONG)
    header = rewrapped(stored[:HEADER_BYTES], KeyRing((new, KEK)), where="here")
    assert opened(header + stored[HEADER_BYTES:], len(LONG), ring=KeyRing((new,))) == LONG


def test_two_objects_never_share_a_data_key() -> None:
    one, two = (Envelope.new(RING, "d", "k").sealed(b"same") for _ in range(2))
    assert one[HEADER_BYTES:] != two[HEADER_BYTES:]


def test_keys_come_from_the_environment_variable_the_policy_names() -> None:
    text = ",".join(base64.b64encode(key).decode() for key in (KEK, OLD))
    assert key_ring("THE_KEY", {"THE_KEY": text}) == KeyRing((KEK, OLD))


@pytest.mark.parametrize("value", [None, "", "c2hvcnQ=", "not base64!", base64.b64encode(KEK).decode() + ",c2hvcnQ="])
def test_a_wrong_key_is_refused_without_being_shown(value: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        key_ring("THE_KEY", {} if value is None else {"THE_KEY": value})
    assert "THE_KEY" in str(caught.value)
    assert not value or value not in str(caught.value)
