"""The format of shares: any k of m bring an object back, and no byte of a share can change unnoticed."""

from __future__ import annotations

import itertools
import random

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.shares import BLOCK_BYTES, Scheme, decode, encode, make_shares, parse_share, read_share
from holdfast.errors import ConfigError

SCHEMES = st.sampled_from([Scheme(2, 3), Scheme(3, 5), Scheme(1, 2), Scheme(4, 6)])
SIZES = st.integers(0, 4 * BLOCK_BYTES) | st.sampled_from([0, 1, 2, 3, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 1])


def some_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@given(SCHEMES, SIZES)
def test_any_k_shares_bring_it_back_and_fewer_say_nothing_else(scheme: Scheme, size: int) -> None:
    data = some_bytes(size)
    shares = make_shares(scheme, data)
    read = [read_share(share, scheme, number, "here") for number, share in enumerate(shares)]
    assert all(described == read[0][0] for described, _ in read)
    assert read[0][0].digest == blake3(data).digest()
    for numbers in itertools.combinations(range(scheme.total), scheme.needed):
        pieces = {number: read[number][1] for number in numbers}
        assert b"".join(decode(scheme, pieces))[:size] == data


@given(SCHEMES, SIZES)
def test_the_size_is_told_by_the_sizes_of_as_many_shares_as_are_needed(scheme: Scheme, size: int) -> None:
    sizes = {number: len(share) for number, share in enumerate(make_shares(scheme, some_bytes(size)))}
    assert sizes == {number: scheme.share_bytes(size, number) for number in sizes}
    for numbers in itertools.combinations(range(scheme.total), max(scheme.needed, 1)):
        told = scheme.size_of({number: sizes[number] for number in numbers})
        assert told == (size, frozenset(numbers))


@given(SIZES, st.integers(0, 2), st.integers(1, 5000))
def test_one_torn_share_does_not_change_what_the_others_tell(size: int, torn: int, cut: int) -> None:
    scheme = Scheme(2, 3)
    sizes = {number: scheme.share_bytes(size, number) for number in range(3)}
    sizes[torn] = max(0, sizes[torn] - cut)
    told = scheme.size_of(sizes)
    assert told is None or told == (size, frozenset({0, 1, 2} - {torn})), (told, sizes)


@given(st.data())
def test_every_flipped_bit_of_a_share_is_found(data: st.DataObject) -> None:
    scheme = Scheme(2, 3)
    size = data.draw(st.sampled_from([0, 1, 999, BLOCK_BYTES, 3 * BLOCK_BYTES + 5]))
    number = data.draw(st.integers(0, 2))
    share = bytearray(make_shares(scheme, some_bytes(size))[number])
    share[data.draw(st.integers(0, len(share) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Damaged):
        read_share(bytes(share), scheme, number, "here")


def test_a_share_cut_short_grown_or_elsewhere_is_refused() -> None:
    scheme = Scheme(2, 3)
    shares = make_shares(scheme, some_bytes(1001))
    for number, share in enumerate(shares):
        for wrong in (b"", share[:10], share[:-1], share + b"\0", share + b"x"):
            with pytest.raises(Damaged):
                read_share(wrong, scheme, number, "here")
        with pytest.raises(Damaged):
            read_share(share, scheme, (number + 1) % 3, "here")
        with pytest.raises(Damaged):
            read_share(share, Scheme(2, 4), number, "here")
    needed = parse_share(make_shares(scheme, bytes(60 * BLOCK_BYTES))[0][:200], scheme, 0, "here")
    assert isinstance(needed, int)
    assert needed > 200


def test_a_range_of_a_piece_decodes_from_the_same_range_of_others() -> None:
    scheme = Scheme(3, 5)
    pieces = encode(scheme, [some_bytes(3000 + number)[:3000] for number in range(3)])
    for numbers in itertools.combinations(range(5), 3):
        assert decode(scheme, {number: pieces[number][700:900] for number in numbers}) == [
            piece[700:900] for piece in pieces[:3]
        ]


@pytest.mark.parametrize(("needed", "total"), [(0, 3), (3, 3), (4, 3), (2, 17)])
def test_a_scheme_that_loses_nothing_is_refused_otherwise(needed: int, total: int) -> None:
    with pytest.raises(ConfigError):
        Scheme(needed, total)


def test_the_bytes_of_a_share_are_those_of_version_1() -> None:
    """Written out by hand from docs/formats/vault-shares.md: a later version must read this."""
    data = b"holdfast!"
    pieces = [b"holdf", b"ast!\0"]
    shares = make_shares(Scheme(2, 3), data)
    parity = shares[2][-7:-2]
    all_three = [*pieces, parity]
    described = bytes([2, 3, 0, 0]) + (9).to_bytes(8, "big") + (5).to_bytes(8, "big") + blake3(data).digest()
    described += b"".join(blake3(piece).digest() for piece in all_three)
    described += b"".join(blake3(piece).digest(16) for piece in all_three)
    described += blake3(described).digest()
    for number, piece in enumerate(all_three):
        assert shares[number] == b"HFSH" + bytes([1, number, 0, 0]) + described + piece + bytes(number)
    assert blake3(b"".join(shares)).hexdigest() == "7d1636aaba34cd09617f9392a8d957ab3d5a5c4b6b48640cf2e9a1627f8e0d60"
