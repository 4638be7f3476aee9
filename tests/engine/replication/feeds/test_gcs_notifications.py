"""Cloud Storage's notifications from Pub/Sub: what each means, and a subscription that doubles and redelivers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from holdfast.engine.config import Connection
from holdfast.engine.objectstore import Credentials, StoreAccess, fixed
from holdfast.engine.replication.feeds import Changes, FeedUnavailable, Scope, collapse
from holdfast.engine.replication.feeds.gcs_notifications import (
    LEASE_SECONDS,
    NotUnderstood,
    PubSubFeed,
    _credentials,
    parse,
)
from holdfast.errors import ConfigError
from pubsub_server import SUBSCRIPTION, SubscriberServer

SCOPE = Scope("bucket", "site", "data/d/")


def attributes(key: str, event: str = "OBJECT_FINALIZE", generation: int = 1, **more: str) -> dict[str, str]:
    return {
        "notificationConfig": "projects/_/buckets/bucket/notificationConfigs/1",
        "eventType": event,
        "payloadFormat": "NONE",
        "bucketId": "bucket",
        "objectId": key,
        "objectGeneration": str(generation),
        "eventTime": "2026-01-02T03:04:05.678901Z",
        **more,
    }


def payload(**told: Any) -> bytes:
    return json.dumps({"kind": "storage#object", "metageneration": "1", **told}).encode()


@pytest.mark.parametrize("key", ["data/d/a b+c", "data/d/ü%20", "data/d/x"])
def test_a_new_object_is_a_put_of_its_generation(key: str) -> None:
    told = attributes(f"site/{key}", generation=1767323045678901, payloadFormat="JSON_API_V1")
    change = parse(told, payload(size="7", etag="CN..="), SCOPE)
    assert change is not None
    assert (change.key, change.kind, change.version, change.size_bytes) == (key, "put", "1767323045678901", 7)
    assert change.at == datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.mark.parametrize(
    ("event", "more", "kind"),
    [
        ("OBJECT_METADATA_UPDATE", {}, "put"),
        ("OBJECT_DELETE", {}, "delete"),
        ("OBJECT_ARCHIVE", {}, "delete"),
        ("OBJECT_DELETE", {"overwrittenByGeneration": "9"}, "put"),
        ("OBJECT_ARCHIVE", {"overwrittenByGeneration": "9"}, "put"),
        ("OBJECT_SOMETHING_NEW", {}, "put"),
    ],
)
def test_what_an_event_means(event: str, more: dict[str, str], kind: str) -> None:
    change = parse(attributes("site/data/d/k", event, 3, **more), b"", SCOPE)
    assert change is not None
    assert change.kind == kind
    if "overwrittenByGeneration" in more:
        assert change.version == "9"


def test_the_generation_decides_in_whatever_order_events_come() -> None:
    events = [
        attributes("site/data/d/k", "OBJECT_FINALIZE", 9),
        attributes("site/data/d/k", "OBJECT_DELETE", 9, overwrittenByGeneration="10"),
        attributes("site/data/d/k", "OBJECT_FINALIZE", 10, overwroteGeneration="9"),
        attributes("site/data/d/k", "OBJECT_METADATA_UPDATE", 10),
        attributes("site/data/d/k", "OBJECT_DELETE", 10),
    ]
    for count, last in ((4, "put"), (5, "delete")):
        for order in itertools.permutations(events[:count]):
            (newest,) = collapse(change for one in order if (change := parse(one, b"", SCOPE)))
            assert newest.kind == last


def test_what_is_elsewhere_is_of_no_concern() -> None:
    for told in (
        attributes("site/data/d/k", bucketId="other"),
        attributes("site/data/dx"),
        attributes("data/d/k"),
    ):
        assert parse(told, b"", SCOPE) is None


@pytest.mark.parametrize(
    "broken",
    [
        {"eventType": None},
        {"objectGeneration": "many"},
        {"eventTime": "yesterday"},
        {"bucketId": None},
        {"eventType": "OBJECT_DELETE", "overwrittenByGeneration": "x"},
        {"payloadFormat": "JSON_API_V1", "data": b"{"},
        {"payloadFormat": "JSON_API_V1", "data": b"[1]"},
    ],
)
def test_what_cannot_be_understood_is_said(broken: dict[str, Any]) -> None:
    data = broken.pop("data", b"")
    told = {name: value for name, value in {**attributes("site/data/d/k"), **broken}.items() if value is not None}
    with pytest.raises(NotUnderstood):
        parse(told, data, SCOPE)


@pytest.fixture
def server() -> Iterator[SubscriberServer]:
    running = SubscriberServer()
    try:
        yield running
    finally:
        running.stop()


def reader(port: int, subscription: str = SUBSCRIPTION, **how: Any) -> PubSubFeed:
    connection = Connection(
        conn_id="gcp", conn_type="google_cloud_platform", extra={"pubsub_endpoint": f"127.0.0.1:{port}"}
    )
    return PubSubFeed(subscription, connection, SCOPE, **{"wait_seconds": 1, **how})


@pytest.fixture
def feed(server: SubscriberServer) -> PubSubFeed:
    return reader(server.port)


def keys(changes: Changes) -> list[str]:
    return sorted({change.key for change in changes.changes})


def patiently(feed: PubSubFeed) -> Changes:
    """The first poll in which something comes: one that ends at its deadline may miss what comes just then."""
    for _ in range(100):
        changes = feed.poll(None, 10)
        if changes.changes or changes.rejected:
            return changes
    pytest.fail("nothing came")


def test_doubled_messages_come_and_go(server: SubscriberServer, feed: PubSubFeed) -> None:
    for number in range(20):
        server.publish(attributes(f"site/data/d/{number:02d}", generation=number + 1))
    server.publish(attributes("elsewhere"))
    server.publish_again()
    changes = feed.poll(None, 1000)
    assert (len(changes.changes), changes.ignored, changes.complete) == (40, 2, True)
    assert keys(changes) == [f"data/d/{number:02d}" for number in range(20)]
    assert set(server.leases) == {LEASE_SECONDS}
    feed.acknowledge(changes)
    assert server.waiting == 0


def test_what_was_not_acknowledged_comes_again(server: SubscriberServer, feed: PubSubFeed) -> None:
    server.publish(attributes("site/data/d/k"))
    first = feed.poll(None, 10)
    assert feed.poll(None, 10).changes == ()  # leased
    server.expire()
    again = patiently(feed)
    assert again.changes == first.changes
    feed.acknowledge(again)
    assert server.waiting == 0
    feed.acknowledge(first)  # its lease is over: no error


def test_a_long_sync_renews_its_leases(server: SubscriberServer, feed: PubSubFeed) -> None:
    server.publish(attributes("site/data/d/k"))
    changes = feed.poll(None, 10)
    server.expire()
    feed.renew(changes)
    assert feed.poll(None, 10).changes == ()


def test_a_poll_ends_at_its_limit(server: SubscriberServer, feed: PubSubFeed) -> None:
    for number in range(7):
        server.publish(attributes(f"site/data/d/{number}", generation=number + 1))
    first = feed.poll(None, 5)
    assert (len(first.changes), first.complete) == (5, False)
    rest = feed.poll(None, 5)
    assert (len(rest.changes), rest.complete) == (2, True)


def test_a_poison_message_is_reported_and_not_acknowledged(server: SubscriberServer, feed: PubSubFeed) -> None:
    server.publish({"eventType": "OBJECT_FINALIZE"}, b"what?")
    server.publish(attributes("site/data/d/k"))
    changes = feed.poll(None, 10)
    (rejected,) = changes.rejected
    assert "objectGeneration" in rejected.reason
    assert rejected.deliveries == 1
    assert rejected.at is not None
    feed.acknowledge(changes)
    assert server.waiting == 1
    server.expire()
    assert patiently(feed).rejected[0].deliveries == 2


def test_a_short_outage_is_bridged_and_a_long_one_said(server: SubscriberServer, feed: PubSubFeed) -> None:
    server.publish(attributes("site/data/d/k"))
    server.failures = [grpc.StatusCode.UNAVAILABLE]
    assert keys(feed.poll(None, 10)) == ["data/d/k"]
    server.failures = [grpc.StatusCode.UNAVAILABLE] * 1000
    with pytest.raises(FeedUnavailable):
        feed.poll(None, 10)


def test_a_service_that_is_away_is_not_taken_for_an_empty_one(free_port: Callable[[], int]) -> None:
    with pytest.raises(FeedUnavailable, match="not reached"):
        reader(free_port(), timeout_seconds=0.3).poll(None, 10)


def test_a_subscription_that_is_not_there_is_bad_input(server: SubscriberServer) -> None:
    with pytest.raises(ConfigError, match="existing subscription"):
        reader(server.port, "projects/p/subscriptions/none").poll(None, 10)


def test_a_bad_key_is_never_shown() -> None:
    bad = Connection(conn_id="c", conn_type="x", extra={"keyfile_dict": '{"private_key": "S3CRET"}'})
    with pytest.raises(ConfigError, match="credentials") as caught:
        PubSubFeed(SUBSCRIPTION, bad, SCOPE).poll(None, 1)
    assert "S3CRET" not in str(caught.value)


def test_a_token_that_is_renewed_is_used() -> None:
    tokens = iter(["first", "second"])
    ends = datetime(2026, 1, 1, tzinfo=UTC)  # long over
    access = StoreAccess(credentials=lambda: Credentials({"token": next(tokens)}, expires_at=ends))
    found = _credentials(Connection(conn_id="c", conn_type="x", extra={"impersonation_chain": "a"}), access)
    assert (found.token, found.expired) == ("first", True)
    access_for_good = StoreAccess(credentials=fixed(token="kept"))
    kept = _credentials(Connection(conn_id="c", conn_type="x"), access_for_good)
    kept.refresh(None)
    assert (kept.token, kept.expired) == ("kept", False)
