"""The framer cuts messages where HTTP does, however the bytes arrive."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.sandbox.http_framing import Framer, Kind, Piece

REQUESTS = (
    b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
    b"HEAD /x HTTP/1.1\r\n\r\n"
    b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n0\r\nTrailer: t\r\n\r\n"
    b"GET /x HTTP/1.1\r\n\r\n"
)
RESPONSES = (
    b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"  # to HEAD: a length and no body
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    b"HTTP/1.0 200 OK\r\n\r\nuntil the connection ends"
)

cuts = st.lists(st.integers(0, max(len(REQUESTS), len(RESPONSES))), max_size=12)


def feed(framer: Framer, data: bytes, at: list[int]) -> list[Piece]:
    edges = [0, *sorted(min(one, len(data)) for one in at), len(data)]
    return [piece for start, end in pairwise(edges) for piece in framer.feed(data[start:end])]


def content(pieces: list[Piece], kind: Kind) -> bytes:
    return b"".join(piece.data for piece in pieces if piece.kind is kind)


@given(cuts, cuts)
def test_messages_are_the_same_however_the_bytes_are_cut(at: list[int], response_at: list[int]) -> None:
    methods: deque[bytes] = deque()
    requests = feed(Framer(methods, is_response=False), REQUESTS, at)
    assert b"".join(piece.data for piece in requests) == REQUESTS
    assert content(requests, Kind.BODY) == b"helloabc"
    assert [piece.data.split()[0] for piece in requests if piece.kind is Kind.HEAD] == [
        b"PUT",
        b"HEAD",
        b"POST",
        b"GET",
    ]
    assert sum(piece.ends_message for piece in requests) == 4

    responses = feed(Framer(methods, is_response=True), RESPONSES, response_at)
    assert b"".join(piece.data for piece in responses) == RESPONSES
    assert content(responses, Kind.BODY) == b"ok\r\nxuntil the connection ends"
    assert not methods


@given(st.binary(min_size=1), cuts)
def test_what_is_not_http_passes_unchanged(data: bytes, at: list[int]) -> None:
    framer = Framer(deque(), is_response=False)
    pieces = feed(framer, b"\x16\x03" + data, at)
    assert b"".join(piece.data for piece in pieces) == b"\x16\x03" + data
    assert {piece.kind for piece in pieces} == {Kind.OPAQUE}


@pytest.mark.parametrize(
    "stream",
    [
        b"PUT /x HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nwhatever",
        b"PUT /x HTTP/1.1\r\nContent-Length: -5\r\n\r\nwhatever",
        b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nwhatever",
        b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1_0\r\nwhatever",
        b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000 + b"\r\nwhatever",
    ],
)
def test_a_length_that_is_none_passes_unchanged(stream: bytes) -> None:
    framer = Framer(deque(), is_response=False)
    pieces = [*framer.feed(stream), *framer.feed(b" and more\r\n\r\n")]
    assert b"".join(piece.data for piece in pieces) == stream + b" and more\r\n\r\n"
