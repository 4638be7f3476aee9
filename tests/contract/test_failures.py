"""Every way a store can be wrong or gone is one typed error, in time, that says what to do."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from holdfast.engine.objectstore import CREATE, ObjectStore, StoreAccess, Timeouts, fixed, local_store, open_store
from holdfast.engine.objectstore.errors import (
    BucketNotFound,
    ObjectNotFound,
    ObjectStoreError,
    PermissionRefused,
    PreconditionFailed,
    StoreUnavailable,
)
from holdfast.engine.objectstore.interface import IfMatch, ObjectVersion

CLOUDS = ("s3", "gcs", "azure")
SITES = {"s3": "aws-eu-west-1", "gcs": "gcp-europe-west1", "azure": "azure-westeurope"}
QUICK = Timeouts(connect_seconds=1, request_seconds=1.5)
LARGE = 9 * 1024 * 1024

READS: dict[str, Callable[[ObjectStore], Any]] = {
    "get": lambda store: store.get("key"),
    "open": lambda store: b"".join(store.open("key")),
    "head": lambda store: store.head("key"),
    "list": lambda store: list(store.list("folder/")),
}
WRITES: dict[str, Callable[[ObjectStore], Any]] = {
    "put": lambda store: store.put("key", b"x"),
    "create": lambda store: store.put("key", b"x", mode=CREATE),
    "swap": lambda store: store.put("key", b"x", mode=IfMatch(ObjectVersion('"0x1"', "1"))),
    "streamed put": lambda store: store.put("key", iter([b"x" * LARGE])),
    "copy": lambda store: store.copy("key", "other"),
    "delete": lambda store: store.delete("key"),
}
VERBS = READS | WRITES


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opened(sandbox: Any, contract: Any) -> Callable[..., ObjectStore]:
    """Opens a cloud of the sandbox through its proxy, with something about it changed."""

    def open_it(
        name: str, *, timeouts: Timeouts = QUICK, site: dict[str, Any] | None = None, **changes: Any
    ) -> ObjectStore:
        environ = sandbox.environment()
        settings = contract.fresh(contract.site_of(name, environ)).model_copy(update=site or {})
        connection = contract.connection(environ, name, **changes)
        return open_store(SITES[name], settings, connection, timeouts=timeouts, retry=None)

    return open_it


def at(endpoint: str, name: str, contract: Any, environ: dict[str, str]) -> ObjectStore:
    """A cloud's store at another endpoint, with credentials of the right shape."""
    credentials = {
        "s3": fixed(access_key_id="AKIAWRONG", secret_access_key="wrong"),
        "gcs": fixed(token="wrong"),
        "azure": fixed(access_key="d3Jvbmc="),
    }[name]
    options = {"azure": {"account_name": "devstoreaccount1"}, "s3": {"region": "eu-west-1"}, "gcs": {}}[name]
    path = "/devstoreaccount1" if name == "azure" else ""
    access = StoreAccess(endpoint=endpoint + path, options=options, credentials=credentials)
    return open_store(SITES[name], contract.site_of(name, environ), access, timeouts=QUICK, retry=None)


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_bucket_is_named(cloud: str, verb: str, opened: Any) -> None:
    store = opened(cloud, site={"bucket": "no-such-bucket-here"})
    with pytest.raises(BucketNotFound, match="no-such-bucket-here") as caught:
        VERBS[verb](store)
    assert caught.value.fix
    assert SITES[cloud] in str(caught.value)
    assert not caught.value.transient


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "swap"])
def test_a_missing_folder_is_a_missing_bucket(verb: str, tmp_path: Any) -> None:
    with pytest.raises(BucketNotFound, match="missing"):
        VERBS[verb](local_store("local", tmp_path / "missing"))
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_wrong_credentials_are_refused_and_never_tried_again(
    cloud: str, verb: str, request: pytest.FixtureRequest, sandbox: Any, contract: Any
) -> None:
    environ = sandbox.environment()
    if cloud == "azure":
        endpoint = contract.connection(environ, cloud).host.rsplit("/", 1)[0]
    else:
        endpoint = request.getfixturevalue("strict_moto" if cloud == "s3" else "strict_gcs")
    store = at(endpoint, cloud, contract, environ)
    with pytest.raises(PermissionRefused, match="credentials") as caught:
        VERBS[verb](store)
    assert SITES[cloud] in str(caught.value)
    assert caught.value.fix
    assert not caught.value.transient


@pytest.mark.parametrize("verb", VERBS)
def test_an_endpoint_nobody_listens_on_is_unavailable_and_nothing_was_written(
    cloud: str, verb: str, sandbox: Any, contract: Any, free_port: Callable[[], int]
) -> None:
    store = at(f"http://127.0.0.1:{free_port()}", cloud, contract, sandbox.environment())
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="no connection") as caught:
        VERBS[verb](store)
    assert time.monotonic() - started < 2
    assert not caught.value.outcome_unknown


@pytest.mark.parametrize("verb", ["get", "put"])
def test_a_host_that_has_no_address_is_unavailable(cloud: str, verb: str, sandbox: Any, contract: Any) -> None:
    with pytest.raises(StoreUnavailable):
        VERBS[verb](at("http://store.invalid", cloud, contract, sandbox.environment()))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("mode", ["blackhole", "http503", "down"])
def test_a_fault_of_the_network_is_one_error_within_the_timeout(
    cloud: str, verb: str, mode: str, opened: Any, sandbox: Any
) -> None:
    # What a put carries gives it more time; a read of any size may not be silent for longer than a small one.
    rate = 64 * 1024 * 1024 if verb in WRITES else 64 * 1024
    store = opened(cloud, timeouts=Timeouts(connect_seconds=1, request_seconds=1.0, minimum_bytes_per_second=rate))
    sandbox.fault(SITES[cloud], mode)
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        VERBS[verb](store)
    assert time.monotonic() - started < 4
    # Of a write that was cut off one cannot know; a connection that was refused carried nothing.
    if mode != "down":
        assert caught.value.outcome_unknown == (verb in WRITES)


@pytest.mark.parametrize("mode", ["truncate", "half-open"])
def test_an_answer_that_does_not_come_whole_is_never_taken_for_one(
    cloud: str, mode: str, opened: Any, sandbox: Any
) -> None:
    store = opened(cloud, timeouts=Timeouts(connect_seconds=1, request_seconds=1.5))
    data = bytes(range(256)) * 1024
    store.put("key", data)
    sandbox.fault(SITES[cloud], mode)
    with suppress(StoreUnavailable):
        assert store.get("key") == data
    sandbox.clear(SITES[cloud], drop=True)
    assert store.get("key") == data


def test_what_was_acknowledged_is_there_after_the_fault(cloud: str, opened: Any, sandbox: Any) -> None:
    store = opened(cloud)
    store.put("key", b"before")
    sandbox.fault(SITES[cloud], "down", drop=True)
    with pytest.raises(StoreUnavailable):
        store.put("key", b"during")
    sandbox.clear(SITES[cloud])
    assert store.get("key") == b"before"


def test_a_wiped_bucket_is_not_taken_for_a_missing_object(cloud: str, opened: Any) -> None:
    store = opened(cloud)
    with pytest.raises(ObjectNotFound):
        store.head("key")


def answering(answer: bytes) -> Iterator[str]:
    """A server that gives one answer to everything and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def http(status: str, body: bytes = b"", *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = f'HTTP/1.1 {status}\r\nContent-Length: {size}\r\nETag: "x"\r\nConnection: close\r\n'
    return head.encode() + b"Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\r\n" + body


def refusal(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()


#: answer, the error of a read, the error of a create, whether the create may have happened
ANSWERS: dict[str, tuple[bytes, type[ObjectStoreError], type[ObjectStoreError], bool]] = {
    "nothing": (b"", StoreUnavailable, StoreUnavailable, True),
    "not HTTP": (b"hello\r\n\r\n", StoreUnavailable, StoreUnavailable, True),
    "500": (http("500 Internal Server Error"), StoreUnavailable, StoreUnavailable, True),
    "503": (http("503 Slow Down", refusal("SlowDown")), StoreUnavailable, StoreUnavailable, True),
    "429": (http("429 Too Many Requests"), StoreUnavailable, StoreUnavailable, False),
    "400": (http("400 Bad Request", refusal("InvalidRequest")), ObjectStoreError, ObjectStoreError, False),
    "301": (http("301 Moved Permanently"), ObjectStoreError, ObjectStoreError, False),
    "401": (http("401 Unauthorized"), PermissionRefused, PermissionRefused, False),
    "403": (http("403 Forbidden", refusal("AccessDenied")), PermissionRefused, PermissionRefused, False),
    "an expired session": (
        http("400 Bad Request", refusal("ExpiredToken")),
        PermissionRefused,
        PermissionRefused,
        False,
    ),
    "too slow": (http("400 Bad Request", refusal("RequestTimeout")), StoreUnavailable, StoreUnavailable, True),
    "a lost upload": (http("404 Not Found", refusal("NoSuchUpload")), StoreUnavailable, StoreUnavailable, True),
    "412": (http("412 Precondition Failed"), PreconditionFailed, ObjectStoreError, False),
    "conflict": (
        http("409 Conflict", refusal("ConditionalRequestConflict")),
        StoreUnavailable,
        StoreUnavailable,
        False,
    ),
    "cut short": (
        http("206 Partial Content\r\nContent-Range: bytes 0-99/100", b"abc", length=100),
        StoreUnavailable,
        ObjectStoreError,
        False,
    ),
    "a login page": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n<ht>",
        StoreUnavailable,
        StoreUnavailable,
        True,
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_each_answer_is_the_error_it_means(cloud: str, answer: str, sandbox: Any, contract: Any) -> None:
    sent, read, created, unknown = ANSWERS[answer]
    for endpoint in answering(sent):
        store = at(endpoint, cloud, contract, sandbox.environment())
        with pytest.raises(read) as caught:
            store.get("key")
        assert type(caught.value) is read
        if answer == "cut short":  # as the answer to a put it is a whole one
            return
        with pytest.raises(created) as failed:
            store.put("key", b"x", mode=CREATE)
        assert getattr(failed.value, "outcome_unknown", False) == unknown


def test_an_error_never_shows_a_signature(sandbox: Any, contract: Any, free_port: Callable[[], int]) -> None:
    access = StoreAccess(
        endpoint=f"http://127.0.0.1:{free_port()}/devstoreaccount1",
        options={"account_name": "devstoreaccount1"},
        credentials=fixed(sas_token="sv=2024-11-04&sig=c2VjcmV0c2ln"),
    )
    store = open_store("azure", contract.site_of("azure", sandbox.environment()), access, timeouts=QUICK, retry=None)
    with pytest.raises(StoreUnavailable) as caught:
        store.head("key")
    error: BaseException | None = caught.value
    while error is not None:
        assert "c2VjcmV0c2ln" not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
