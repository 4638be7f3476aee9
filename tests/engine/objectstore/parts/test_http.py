"""The pooled connections under the parts: what is sent once, what twice, and what an answer cut short is."""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from holdfast.engine.objectstore._translate import Call
from holdfast.engine.objectstore.errors import ObjectStoreError, StoreUnavailable
from holdfast.engine.objectstore.parts._connection import Connection
from holdfast.engine.objectstore.parts._http import HttpPool
from holdfast.engine.objectstore.timeouts import Timeouts
from holdfast.errors import ConfigError

READ = Call("store", "read_into", "key", writes=False)
WRITE = Call("store", "put_part", "key", writes=True)


def pool(url: str, **timeouts: Any) -> HttpPool:
    return HttpPool(url, Timeouts(**timeouts), "store")


def test_a_body_goes_and_an_answer_comes(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(201, {"ETag": '"x"'}, b"made"))
    body = memoryview(bytearray(b"0123456789"))[2:5]
    answer = pool(scripted.url).request(WRITE, "PUT", "/b/k?q=1", {"Host": "h"}, body)
    assert (answer.status, answer.headers["etag"], answer.body) == (201, '"x"', b"made")
    (seen,) = scripted.seen
    assert (seen.method, seen.target, seen.body, seen.headers["content-length"]) == ("PUT", "/b/k?q=1", b"234", "3")


def test_a_connection_is_used_again(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(206, {}, b"abcd"))
    http, buffer = pool(scripted.url), memoryview(bytearray(4))
    for _ in range(5):
        http.read_into(READ, "/k", {"Host": "h"}, buffer)
        http.request(READ, "GET", "/k", {"Host": "h"})
    assert bytes(buffer) == b"abcd"
    assert scripted.connections == 1


def test_a_connection_the_server_closed_is_replaced(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(200, {}, b"one", hang_up=True), reply(200, {}, b"two"))
    http = pool(scripted.url)
    assert http.request(WRITE, "GET", "/k", {"Host": "h"}).body == b"one"
    assert http.request(WRITE, "GET", "/k", {"Host": "h"}).body == b"two"
    assert len(scripted.seen) == 2


def test_a_conditional_write_is_not_sent_twice_over_a_connection_that_was_closed(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(200, {}, b"one"), reply(silent=True), reply(200, {}, b"two"))
    http = pool(scripted.url)
    http.request(READ, "GET", "/k", {"Host": "h"})
    with pytest.raises(StoreUnavailable) as raised:
        http.request(WRITE, "PUT", "/k", {"Host": "h", "If-None-Match": "*"}, b"x")
    assert raised.value.outcome_unknown
    assert len(scripted.seen) == 2
    scripted.answers(reply(200, {}, b"one"), reply(silent=True), reply(200, {}, b"two"))
    http.request(READ, "GET", "/k", {"Host": "h"})
    assert http.request(WRITE, "PUT", "/k", {"Host": "h"}, b"x").body == b"two"


def test_what_nobody_asked_for_is_no_answer() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as connections:

        def serve() -> None:
            for number in range(2):
                connection = connections.enter_context(server.accept()[0])
                connection.recv(65536)
                connection.sendall(answer + b"r%d" % number)
                if not number:
                    connection.sendall(answer + b"XX")

        thread = threading.Thread(target=serve)
        thread.start()
        http = pool(f"http://127.0.0.1:{server.getsockname()[1]}")
        assert http.request(READ, "GET", "/a", {"Host": "h"}).body == b"r0"
        for connection in http._idle:
            select.select([connection.socket], [], [], 10)
        assert http.request(READ, "GET", "/b", {"Host": "h"}).body == b"r1"
        thread.join()


def test_a_connection_that_took_half_a_request_is_not_used_again() -> None:
    class Half(Connection):
        """The server answers and closes before it has taken the whole body."""

        def has_news(self) -> bool:
            return False  # its answer comes after the request began

        def send(self, *_: Any) -> None:
            raise BrokenPipeError

    here, there = socket.socketpair()
    connected = http.client.HTTPConnection("127.0.0.1")
    connected.sock = here
    there.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n")
    half = pool("http://127.0.0.1:1")
    half._idle.append(Half(connected))
    assert half.request(WRITE, "PUT", "/k", {"Host": "h"}, b"body").status == 503
    assert half._idle == []
    there.close()


def test_a_lost_answer_to_a_write_is_an_unknown_outcome(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(silent=True))
    with pytest.raises(StoreUnavailable) as raised:
        pool(scripted.url).request(WRITE, "PUT", "/k", {"Host": "h"}, b"x")
    assert raised.value.outcome_unknown
    with pytest.raises(StoreUnavailable) as raised:
        pool(scripted.url).request(READ, "GET", "/k", {"Host": "h"})
    assert not raised.value.outcome_unknown


def test_nobody_listening_wrote_nothing(free_port: Any) -> None:
    with pytest.raises(StoreUnavailable) as raised:
        pool(f"http://127.0.0.1:{free_port()}").request(WRITE, "PUT", "/k", {"Host": "h"}, b"x")
    assert not raised.value.outcome_unknown


def test_a_server_that_never_answers_is_given_up(free_port: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        http = pool(f"http://127.0.0.1:{silent.getsockname()[1]}", request_seconds=0.2)
        with pytest.raises(StoreUnavailable) as raised:
            http.request(WRITE, "PUT", "/k", {"Host": "h"}, b"x")
        assert raised.value.outcome_unknown
        assert "in time" in raised.value.what


@pytest.mark.parametrize("body", [b"abc", b"abcde"])
def test_an_answer_of_another_length_fills_no_buffer(scripted: Any, reply: Any, body: bytes) -> None:
    scripted.answers(reply(206, {}, body))
    with pytest.raises(StoreUnavailable, match="not as long"):
        pool(scripted.url).read_into(READ, "/k", {"Host": "h"}, memoryview(bytearray(4)))


def test_an_answer_that_breaks_off_is_told(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(206, {"Content-Length": "4"}, b"ab", hang_up=True))
    with pytest.raises(StoreUnavailable):
        pool(scripted.url).read_into(READ, "/k", {"Host": "h"}, memoryview(bytearray(4)))


def test_another_status_comes_back_with_its_body(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(412, {}, b"<Error><Code>PreconditionFailed</Code></Error>"))
    answer = pool(scripted.url).read_into(READ, "/k", {"Host": "h"}, memoryview(bytearray(4)))
    root = answer.xml()
    assert answer.status == 412
    assert root is not None
    assert root.tag == "Error"


def test_a_document_with_entities_is_not_read(scripted: Any, reply: Any) -> None:
    scripted.answers(reply(200, {}, b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'))
    assert pool(scripted.url).request(READ, "GET", "/k", {"Host": "h"}).xml() is None


def test_the_environments_proxy_is_used(scripted: Any, reply: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", scripted.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    scripted.answers(reply(200, {}, b"through"))
    assert pool("http://store.example:8080").request(READ, "GET", "/k?x=1", {"Host": "h"}).body == b"through"
    assert scripted.seen[0].target == "http://store.example:8080/k?x=1"
    assert pool(scripted.url).request(READ, "GET", "/direct", {"Host": "h"}).body == b"through"
    assert scripted.seen[1].target == "/direct"


@pytest.mark.parametrize("url", ["store.example", "ftp://store.example", "http://"])
def test_an_endpoint_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        pool(url)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path, list[int]]]:
    """A server over TLS: its URL, the certificate to trust, and the ports its connections came from."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, both = tmp_path / "trusted.pem", tmp_path / "both.pem"
    trusted.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    both.write_bytes(trusted.read_bytes() + private)
    ports: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            ports.append(self.client_address[1])
            self.send_response(206)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"abcd")

        def log_message(self, *_: Any) -> None:
            return

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}", trusted, ports
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_tls_is_checked_and_its_connections_are_used_again(
    secure: tuple[str, Path, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, trusted, ports = secure
    with pytest.raises(ObjectStoreError, match="certificate"):
        pool(url).request(READ, "GET", "/k", {"Host": "h"})
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    http, buffer = pool(url), memoryview(bytearray(4))
    for _ in range(4):
        http.read_into(READ, "/k", {"Host": "h"}, buffer)
    assert bytes(buffer) == b"abcd"
    assert len(ports) == 4
    assert len(set(ports)) <= 2  # a session ticket that comes late looks like the end of a connection, once
