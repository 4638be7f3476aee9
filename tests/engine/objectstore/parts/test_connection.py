"""What a connection of ours takes for an answer, byte by byte, and what it does not."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from holdfast.engine.objectstore.parts._connection import BadAnswer, Connection, Disconnected, TooLong

MOST = 1 << 20
Feed = Callable[..., Connection]


@pytest.fixture
def answered() -> Iterator[Feed]:
    """A connection at whose other end these bytes were written, in pieces of a size."""
    ends: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def make(data: bytes, *, step: int = 1 << 20, hang_up: bool = False) -> Connection:
        here, there = socket.socketpair()
        ends.extend((here, there))

        def write() -> None:
            with suppress(OSError):  # the test has seen enough
                for start in range(0, len(data), step):
                    there.sendall(data[start : start + step])
                    if step < len(data):
                        time.sleep(0)
                if hang_up:
                    there.shutdown(socket.SHUT_WR)

        threads.append(threading.Thread(target=write, daemon=True))
        threads[-1].start()
        connected = http.client.HTTPConnection("127.0.0.1")
        connected.sock = here
        return Connection(connected)

    yield make
    for end in ends:
        end.close()
    for thread in threads:
        thread.join()


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


WHOLE = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "a"\r\nX-Odd:  two words \r\n\r\nhello'
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;name=value\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: x\r\n\r\n"
)


@pytest.mark.parametrize("data", [WHOLE, CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE])
@pytest.mark.parametrize("step", [1 << 20, 7, 1])
def test_the_same_answer_comes_out_however_it_arrives(answered: Feed, data: bytes, step: int) -> None:
    connection = answered(data, step=step)
    answer = connection.receive("GET", soon(), most_bytes=MOST)
    assert (answer.status, answer.body, answer.stays) == (200, b"hello", True)
    if data.endswith(WHOLE):
        assert answer.headers == {"content-length": "5", "etag": '"a"', "x-odd": "two words"}


@pytest.mark.parametrize("data", [WHOLE, CHUNKED])
@pytest.mark.parametrize("step", [1 << 20, 3])
def test_a_body_goes_where_it_belongs(answered: Feed, data: bytes, step: int) -> None:
    into = bytearray(5)
    answer = answered(data, step=step).receive("GET", soon(), into=memoryview(into), most_bytes=MOST)
    assert (bytes(into), answer.body, answer.stays) == (b"hello", b"", True)


def test_an_error_does_not_go_where_the_body_belongs(answered: Feed) -> None:
    into = bytearray(5)
    data = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone"
    answer = answered(data).receive("GET", soon(), into=memoryview(into), most_bytes=MOST)
    assert (answer.status, answer.body, bytes(into)) == (404, b"none", bytes(5))


@pytest.mark.parametrize("size", [3, 7])
@pytest.mark.parametrize("data", [WHOLE, CHUNKED])
def test_a_body_of_another_length_goes_nowhere(answered: Feed, data: bytes, size: int) -> None:
    with pytest.raises(TooLong) as raised:
        answered(data).receive("GET", soon(), into=memoryview(bytearray(size)), most_bytes=MOST)
    assert raised.value.size_bytes == 5


@pytest.mark.parametrize("data", [WHOLE, CHUNKED, b"HTTP/1.0 200 OK\r\n\r\nhello"])
def test_a_body_longer_than_wanted_is_not_taken(answered: Feed, data: bytes) -> None:
    with pytest.raises(TooLong):
        answered(data, hang_up=True).receive("GET", soon(), most_bytes=4)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_some_answers_have_no_body(answered: Feed, status: str) -> None:
    answer = answered(f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n".encode()).receive(
        "GET", soon(), most_bytes=MOST
    )
    assert (answer.body, answer.stays) == (b"", True)


def test_a_head_request_has_none_either(answered: Feed) -> None:
    answer = answered(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n").receive("HEAD", soon(), most_bytes=MOST)
    assert (answer.headers["content-length"], answer.body, answer.stays) == ("500", b"", True)


def test_a_body_may_end_with_the_connection(answered: Feed) -> None:
    data = b"HTTP/1.1 200 OK\r\nETag: x\r\n\r\n" + b"z" * 200_000
    answer = answered(data, hang_up=True).receive("GET", soon(), most_bytes=MOST)
    assert (len(answer.body), answer.stays) == (200_000, False)


def test_a_body_of_unknown_length_fills_no_buffer(answered: Feed) -> None:
    with pytest.raises(BadAnswer):
        answered(b"HTTP/1.1 200 OK\r\n\r\nhello", hang_up=True).receive(
            "GET", soon(), into=memoryview(bytearray(5)), most_bytes=MOST
        )


@pytest.mark.parametrize("size", [71_000, 73_000, 900_000])
def test_large_bodies_are_whole(answered: Feed, size: int) -> None:
    body = bytes(range(256)) * (size // 256)
    data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    assert answered(data, step=50_000).receive("GET", soon(), most_bytes=MOST).body == body


@pytest.mark.parametrize(
    ("head", "stays"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
    ],
)
def test_whether_another_request_may_follow(answered: Feed, head: bytes, stays: bool) -> None:
    answer = answered(head + b"Content-Length: 0\r\n\r\n").receive("GET", soon(), most_bytes=MOST)
    assert answer.stays is stays


def test_no_request_follows_an_answer_nobody_asked_for(answered: Feed) -> None:
    assert not answered(WHOLE + WHOLE).receive("GET", soon(), most_bytes=MOST).stays


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: nameless\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: 1\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
    ],
)
def test_what_is_no_answer_is_none(answered: Feed, data: bytes) -> None:
    with pytest.raises(BadAnswer):
        answered(data, hang_up=True).receive("GET", soon(), most_bytes=MOST)


def test_a_connection_that_ends_before_an_answer_is_told_apart(answered: Feed) -> None:
    with pytest.raises(Disconnected):
        answered(b"", hang_up=True).receive("GET", soon(), most_bytes=MOST)


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"])
def test_an_answer_that_does_not_come_is_given_up(answered: Feed, data: bytes) -> None:
    connection, began = answered(data), time.monotonic()
    until = soon(0.3)
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", until)
    with pytest.raises(TimeoutError):
        connection.receive("GET", until, most_bytes=MOST)
    assert time.monotonic() - began < 5


def test_an_answer_may_not_be_silent_for_long(answered: Feed) -> None:
    connection, began = answered(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"), time.monotonic()
    connection.silence_seconds = 0.2
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", soon(60))
    with pytest.raises(TimeoutError):
        connection.receive("GET", soon(60), most_bytes=MOST)
    assert time.monotonic() - began < 5


def test_a_large_request_is_sent_whole_and_one_nobody_takes_is_given_up() -> None:
    here, there = socket.socketpair()
    connected = http.client.HTTPConnection("127.0.0.1")
    connected.sock = here
    body, taken = bytes(range(256)) * 8192, bytearray()

    def read() -> None:
        while len(taken) < 4 + len(body):
            taken.extend(there.recv(10_000))

    reader = threading.Thread(target=read)
    reader.start()
    connection = Connection(connected)
    connection.send(b"head", memoryview(body), soon())
    reader.join()
    assert bytes(taken) == b"head" + body
    with pytest.raises(TimeoutError):
        connection.send(b"head", body * 4, soon(0.3))
    here.close()
    there.close()
