"""Event Grid's events from a storage queue, against Azurite's queue service."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.engine.config import Connection, Site
from holdfast.engine.objectstore import StoreAccess, fixed
from holdfast.engine.objectstore.connect import access_from_connection
from holdfast.engine.replication.feeds import Changes, FeedUnavailable, Scope, collapse
from holdfast.engine.replication.feeds.azure_queue import AzureQueueFeed, queue_endpoint
from holdfast.errors import ConfigError
from holdfast.sandbox.azurite import ACCOUNT, KEY

SCOPE = Scope("container", "site", "data/d/")
pytestmark = pytest.mark.sandbox


def event(blob: str, kind: str = "BlobCreated", sequencer: str = "01", **more: Any) -> dict[str, Any]:
    """As in Event Grid's own schema."""
    return {
        "topic": "/subscriptions/1/providers/Microsoft.Storage/storageAccounts/account",
        "subject": f"/blobServices/default/containers/container/blobs/{blob}",
        "eventType": f"Microsoft.Storage.{kind}",
        "id": "831e1650-001e-001b-66ab-eeb76e069631",
        "eventTime": "2026-01-02T03:04:05.1234567Z",
        "data": {"api": "PutBlockList", "eTag": "0x8D4BCC2E4835CD0", "contentLength": 7, "sequencer": sequencer},
        "dataVersion": "",
        "metadataVersion": "1",
    } | more


def cloud_event(blob: str, kind: str = "BlobCreated") -> dict[str, Any]:
    told = event(blob, kind)
    return {
        "specversion": "1.0",
        "source": told["topic"],
        "type": told["eventType"],
        "time": told["eventTime"],
        "id": told["id"],
        "subject": told["subject"],
        "data": told["data"],
    }


def coded(told: Any) -> str:
    return base64.b64encode(json.dumps(told).encode()).decode()


class Queue:
    """A queue of Azurite and the feed that reads it."""

    def __init__(self, site: Site, connection: Connection) -> None:
        from azure.storage.queue import QueueServiceClient

        self.name = f"q{uuid.uuid4().hex[:20]}"
        url = str(connection.extra["queue_endpoint"])
        self.service = QueueServiceClient(url, credential={"account_name": ACCOUNT, "account_key": KEY})
        self.client = self.service.create_queue(self.name)
        self._site, self._connection = site, connection
        self.feed = self.reader()

    def reader(self, **how: Any) -> AzureQueueFeed:
        return AzureQueueFeed(ACCOUNT, self.name, self._site, self._connection, SCOPE, **how)

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.client.send_message(body)

    @property
    def waiting(self) -> int:
        return int(self.client.get_queue_properties().approximate_message_count)


@pytest.fixture
def queue(azure_site: Site, azure: Connection) -> Queue:
    return Queue(azure_site, azure)


def kinds(changes: Changes) -> dict[str, str]:
    return {change.key: change.kind for change in collapse(changes.changes)}


def test_events_of_both_schemas_come_doubled_and_out_of_order(queue: Queue) -> None:
    queue.send(
        coded(event("site/data/d/a b+ü", sequencer="02")),
        coded(cloud_event("site/data/d/c")),
        coded(event("site/data/d/gone", "BlobDeleted", "0A")),
        coded(event("site/data/d/gone", "BlobCreated", "09")),
        coded([event("site/data/d/x"), event("site/data/d/y")]),
        json.dumps(event("site/data/d/plain")),
        coded(event("elsewhere")),
        coded(event("site/data/d/a b+ü", sequencer="02")),
    )
    changes = queue.feed.poll(None, 100)
    assert kinds(changes) == {
        "data/d/a b+ü": "put",
        "data/d/c": "put",
        "data/d/gone": "delete",
        "data/d/plain": "put",
        "data/d/x": "put",
        "data/d/y": "put",
    }
    assert (changes.complete, changes.ignored, changes.rejected) == (True, 1, ())
    assert {change.size_bytes for change in changes.changes if change.kind == "put"} == {7}
    queue.feed.acknowledge(changes)
    assert queue.waiting == 0


def test_what_was_not_acknowledged_comes_again(queue: Queue) -> None:
    queue.send(coded(event("site/data/d/k")))
    hasty = queue.reader(visibility_seconds=1)
    first = hasty.poll(None, 10)
    assert len(first.changes) == 1
    deadline = time.monotonic() + 30
    while not (again := queue.feed.poll(None, 10)).changes:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    hasty.acknowledge(first)  # its receipt is void: the message is the other reader's now
    assert queue.waiting == 1
    queue.feed.acknowledge(again)
    assert queue.waiting == 0


def test_a_long_sync_renews_what_it_holds(queue: Queue) -> None:
    queue.send(coded(event("site/data/d/k")))
    feed = queue.reader(visibility_seconds=2)
    changes = feed.poll(None, 10)
    for _ in range(2):  # each renewal gives the message a new receipt
        feed.renew(changes)
    feed.acknowledge(changes)
    assert queue.waiting == 0
    feed.renew(Changes((), "", complete=True))


def test_a_poll_ends_at_its_limit_and_the_next_goes_on(queue: Queue) -> None:
    queue.send(*(coded(event(f"site/data/d/{number:02d}")) for number in range(40)))
    first = queue.feed.poll(None, 5)
    rest = queue.feed.poll(None, 100)
    assert not first.complete
    assert rest.complete
    assert len(kinds(first) | kinds(rest)) == 40
    queue.feed.acknowledge(first)
    queue.feed.acknowledge(rest)
    assert queue.waiting == 0


POISON = {
    "no base64": "no base64!",
    "no object": coded("text"),
    "no event": coded([]),
    "another event": coded({"a": 1}),
    "a whole folder": coded(event("k", "DirectoryRenamed")),
}


@pytest.mark.parametrize("body", POISON.values(), ids=POISON)
def test_a_poison_message_is_reported_until_it_is_moved_aside(queue: Queue, body: str) -> None:
    queue.send(body)
    feed = queue.reader(visibility_seconds=1, most_deliveries=2)
    for delivery in (1, 2):
        deadline = time.monotonic() + 30
        while not (changes := feed.poll(None, 1)).rejected:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (rejected,) = changes.rejected
        assert (rejected.deliveries, rejected.excerpt) == (delivery, body[:200])
        assert rejected.at is not None
        assert queue.waiting == 1
        feed.acknowledge(changes)
    assert queue.waiting == 0
    aside = queue.service.get_queue_client(f"{queue.name}-poison")
    assert [message.content for message in aside.receive_messages()] == [body]


def test_a_queue_or_account_that_is_not_there_is_bad_input(queue: Queue, azure_site: Site, azure: Connection) -> None:
    queue.client.delete_queue()
    with pytest.raises(ConfigError, match="existing queue"):
        queue.feed.poll(None, 1)
    with pytest.raises(ConfigError, match="another than the connection's"):
        AzureQueueFeed("somebody", "q", azure_site, azure, SCOPE).poll(None, 1)
    wrong = azure.model_copy(update={"password": base64.b64encode(b"wrong").decode()})
    with pytest.raises(ConfigError):
        AzureQueueFeed(ACCOUNT, "q", azure_site, wrong, SCOPE).poll(None, 1)


def test_a_service_that_is_away_is_said(azure_site: Site, azure: Connection, free_port: Callable[[], int]) -> None:
    away = azure.model_copy(update={"extra": {"queue_endpoint": f"http://127.0.0.1:{free_port()}/{ACCOUNT}"}})
    with pytest.raises(FeedUnavailable):
        AzureQueueFeed(ACCOUNT, "q", azure_site, away, SCOPE, timeout_seconds=0.3).poll(None, 1)


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"login": "acc", "password": "a2V5"}, "https://acc.queue.core.windows.net"),
        ({"login": "acc", "host": "https://acc.blob.core.chinacloudapi.cn"}, "https://acc.queue.core.chinacloudapi.cn"),
        (
            {"extra": {"connection_string": "AccountName=acc;AccountKey=a2V5;QueueEndpoint=http://q/acc"}},
            "http://q/acc",
        ),
        ({"login": "acc", "host": "http://127.0.0.1:10000"}, None),
    ],
)
def test_where_the_queue_service_is(fields: dict[str, Any], url: str | None, azure_site: Site) -> None:
    connection = Connection(conn_id="c", conn_type="wasb", **fields)
    access: StoreAccess = access_from_connection(azure_site, connection)
    if url is None:
        with pytest.raises(ConfigError, match="queue_endpoint"):
            queue_endpoint("acc", connection, access)
    else:
        assert queue_endpoint("acc", connection, access) == url


def test_another_login_than_the_connections_is_used(queue: Queue, azure_site: Site, azure: Connection) -> None:
    queue.send(coded(event("site/data/d/k")))
    bare = azure.model_copy(update={"login": None, "password": None})
    for access, works in (
        (StoreAccess(options={"account_name": ACCOUNT}, credentials=fixed(access_key=KEY)), True),
        (StoreAccess(options={"account_name": ACCOUNT}, credentials=fixed(token="t")), False),
    ):
        feed = AzureQueueFeed(ACCOUNT, queue.name, azure_site, bare, SCOPE, access=access)
        if works:
            assert len(feed.poll(None, 1).changes) == 1
        else:  # a token is not sent over plain HTTP
            with pytest.raises(ConfigError, match="HTTPS"):
                feed.poll(None, 1)
