"""Checksums: the published check values, and that parts make the whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.objectstore.checksums import (
    NO_BYTES,
    Checksums,
    azure_text,
    combine_crc32c,
    combine_crc64nvme,
    crc32c,
    crc64nvme,
    from_azure_text,
    from_google_text,
    from_s3_text,
    google_text,
    s3_text,
)

_CHECK = b"123456789"


def test_the_check_values_of_the_catalogue() -> None:
    assert crc64nvme(_CHECK) == 0xAE8B14860A799888
    assert crc32c(_CHECK) == 0xE3069283


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_two_stretches_combine_to_the_whole(first: bytes, second: bytes) -> None:
    assert combine_crc64nvme(crc64nvme(first), crc64nvme(second), len(second)) == crc64nvme(first + second)
    assert combine_crc32c(crc32c(first), crc32c(second), len(second)) == crc32c(first + second)
    assert crc64nvme(second, crc64nvme(first)) == crc64nvme(first + second)
    assert crc32c(second, crc32c(first)) == crc32c(first + second)


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_any_cut_has_the_sums_of_the_whole(pieces: list[bytes]) -> None:
    whole = Checksums.of(b"".join(pieces))
    assert sum((Checksums.of(piece) for piece in pieces), NO_BYTES) == whole
    folded = NO_BYTES
    for piece in reversed(pieces):
        folded = Checksums.of(memoryview(piece)) + folded
    assert folded == whole


def test_what_was_not_computed_stays_unknown() -> None:
    one = Checksums.of(b"a", with_crc32c=False)
    assert (one + Checksums.of(b"b")).crc32c is None
    assert (one + Checksums.of(b"b")).crc64nvme == crc64nvme(b"ab")


def test_what_confirms_and_what_contradicts() -> None:
    one, other = Checksums.of(b"one"), Checksums.of(b"two")
    assert one.confirms(Checksums.of(b"one", with_crc64nvme=False))
    assert not one.confirms(other)
    assert not one.confirms(Checksums(None, None, 3))
    assert one.contradicts(Checksums(None, None, 3)) is None
    assert "CRC-64/NVME" in str(one.contradicts(other))
    assert "size" in str(one.contradicts(Checksums(None, None, 4)))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_the_clouds_texts_are_read_back(wide: int, narrow: int) -> None:
    assert from_s3_text(s3_text(wide)) == wide
    assert from_azure_text(azure_text(wide)) == wide
    assert from_google_text(google_text(narrow)) == narrow


def test_the_texts_are_those_the_clouds_document() -> None:
    assert s3_text(crc64nvme(_CHECK)) == "rosUhgp5mIg="  # most significant byte first
    assert azure_text(crc64nvme(_CHECK)) == "iJh5CoYUi64="  # least significant byte first
    assert google_text(crc32c(_CHECK)) == "4waSgw=="


@pytest.mark.parametrize("text", ["", "rosUhgp5mIg=-3", "rosU", "not base64!", "4waSgw=="])
def test_another_text_is_no_crc64(text: str) -> None:
    assert from_s3_text(text) is None
