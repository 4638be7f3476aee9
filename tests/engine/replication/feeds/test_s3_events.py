"""S3's notifications in SQS: every form a message takes, and a queue and a bucket of moto that talk to each other."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import boto3
import pytest

from holdfast.engine.config import Connection, Site
from holdfast.engine.objectstore import Credentials, StoreAccess, open_store
from holdfast.engine.replication.feeds import Changes, FeedUnavailable, Scope, apply_changes, as_listed, collapse
from holdfast.engine.replication.feeds.apply import listing_of
from holdfast.engine.replication.feeds.s3_events import SqsFeed
from holdfast.engine.replication.feeds.s3_messages import NotUnderstood, parse
from holdfast.errors import ConfigError

SCOPE = Scope("bucket", "site", "data/d/")


def record(key: str, name: str = "ObjectCreated:Put", *, bucket: str = "bucket", **told: Any) -> dict[str, Any]:
    return {
        "eventVersion": "2.3",
        "eventSource": "aws:s3",
        "eventTime": "2026-01-02T03:04:05.678Z",
        "eventName": name,
        "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key, safe="/"), **told}},
    }


def direct(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": list(records)})


def through_sns(body: str) -> str:
    return json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:eu-west-1:1:t", "Message": body})


def event_bridge(key: str, kind: str = "Object Created", **told: Any) -> str:
    return json.dumps(
        {
            "version": "0",
            "source": "aws.s3",
            "detail-type": kind,
            "time": "2026-01-02T03:04:05Z",
            "detail": {"version": "0", "bucket": {"name": "bucket"}, "object": {"key": key, **told}},
        }
    )


@pytest.mark.parametrize("key", ["data/d/a b+c", "data/d/ü/100%", "data/d/a=b&c", "data/d/x%2Fy"])
def test_a_key_comes_as_the_listing_spells_it_in_every_form(key: str) -> None:
    told = {"size": 3, "sequencer": "0055AED6DCD90281E5"}
    bodies = [
        direct(record(f"site/{key}", eTag="d41d8cd9", versionId="v1", **told)),
        through_sns(direct(record(f"site/{key}", eTag="d41d8cd9", versionId="v1", **told))),
        event_bridge(f"site/{key}", **{"etag": "d41d8cd9", "version-id": "v1"}, **told),
        through_sns(event_bridge(f"site/{key}", **{"etag": "d41d8cd9", "version-id": "v1"}, **told)),
    ]
    for body in bodies:
        (change,) = parse(body, SCOPE).changes
        assert (change.key, change.kind, change.size_bytes) == (key, "put", 3)
        assert (change.version, change.e_tag) == ("v1", '"d41d8cd9"')
        assert change.at.replace(microsecond=0) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ObjectCreated:CompleteMultipartUpload", "put"),
        ("ObjectRemoved:Delete", "delete"),
        ("ObjectRemoved:DeleteMarkerCreated", "delete"),
        ("LifecycleExpiration:Delete", "delete"),
        ("LifecycleExpiration:DeleteMarkerCreated", "delete"),
        ("SomethingNew:Thing", "put"),  # a look at the key costs one request, a change not seen costs the data
        ("ObjectTagging:Put", None),
        ("ObjectRestore:Completed", None),
        ("LifecycleTransition", None),
    ],
)
def test_what_a_notification_means(name: str, kind: str | None) -> None:
    said = parse(direct(record("site/data/d/k", name, versionId="v")), SCOPE)
    assert [change.kind for change in said.changes] == ([kind] if kind else [])
    assert said.ignored == (kind is None)


@pytest.mark.parametrize(
    ("kind", "meant"),
    [("Object Deleted", ["delete"]), ("Object Tags Added", []), ("Object Created", ["put"])],
)
def test_what_an_event_of_event_bridge_means(kind: str, meant: list[str]) -> None:
    assert [change.kind for change in parse(event_bridge("site/data/d/k", kind), SCOPE).changes] == meant


def test_what_is_elsewhere_is_of_no_concern() -> None:
    elsewhere = [
        record("site/data/d/k", bucket="other"),
        record("site/data/dx/k"),
        record("sitex/data/d/k"),
        record("data/d/k"),
    ]
    assert parse(direct(*elsewhere, record("site/data/d/k")), SCOPE).ignored == 4
    assert parse(json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "bucket"}), SCOPE).ignored == 1


def test_the_sequencer_decides_whatever_its_length() -> None:
    """The shorter of two sequencers counts as padded with zeros on the right."""
    bodies = [
        direct(record("site/data/d/k", "ObjectCreated:Put", sequencer="0055AED6DCD9")),
        direct(record("site/data/d/k", "ObjectRemoved:Delete", sequencer="0055AED6DCD90281E5")),
        direct(record("site/data/d/k", "ObjectCreated:Put", sequencer="0055AED6DCD8FFFFFFFF")),
    ]
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        (last,) = collapse(change for i in order for change in parse(bodies[i], SCOPE).changes)
        assert last.kind == "delete"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no json",
        "[]",
        "{}",
        '{"Type": "Notification", "Message": "no json"}',
        '{"Records": [{"eventName": "ObjectCreated:Put"}]}',
        '{"Records": [7]}',
        direct(record("site/data/d/k", size="many")),
        direct({**record("site/data/d/k"), "eventTime": "yesterday"}),
        direct({**record("k"), "s3": {"bucket": {"name": "bucket"}, "object": {"key": "%FF"}}}),
        json.dumps({"source": "aws.s3", "detail-type": "Object Created", "time": "2026-01-02T03:04:05Z", "detail": {}}),
        json.dumps({"source": "aws.ec2", "detail": {}}),
    ],
)
def test_what_cannot_be_understood_is_said(body: str) -> None:
    with pytest.raises(NotUnderstood):
        parse(body, SCOPE)


class Queue:
    """A queue of moto and the feed that reads it."""

    def __init__(self, connection: Connection, site: Site) -> None:
        self.name = f"q-{uuid.uuid4().hex}"
        how: Any = {
            "endpoint_url": connection.extra["endpoint_url"],
            "region_name": site.region,
            "aws_access_key_id": "key",
            "aws_secret_access_key": "secret",
        }
        self.sqs, self.s3 = boto3.client("sqs", **how), boto3.client("s3", **how)
        self.url = self.sqs.create_queue(QueueName=self.name)["QueueUrl"]
        self.scope = Scope(site.bucket, site.prefix, "data/d/")
        self.feed = self.reader(connection, site)

    def reader(self, connection: Connection, site: Site, **how: Any) -> SqsFeed:
        return SqsFeed(self.name, connection, self.scope, region=site.region, **{"wait_seconds": 0, **how})

    def send(self, body: str) -> None:
        self.sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def waiting(self) -> int:
        facts = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])["Attributes"]
        return int(facts["ApproximateNumberOfMessages"]) + int(facts["ApproximateNumberOfMessagesNotVisible"])


@pytest.fixture
def queue(aws: Connection, aws_site: Site) -> Queue:
    return Queue(aws, aws_site)


def event(queue: Queue, key: str, **told: Any) -> str:
    return direct(record(f"site/prefix/data/d/{key}", bucket=queue.scope.bucket, **told))


def drain(feed: SqsFeed) -> list[Changes]:
    found = [feed.poll(None, 1000)]
    while not found[-1].complete:
        found.append(feed.poll(None, 1000))
    return found


def test_a_bucket_that_changes_is_followed_by_its_events(queue: Queue, aws: Connection, aws_site: Site) -> None:
    queue.s3.create_bucket(Bucket=aws_site.bucket, CreateBucketConfiguration={"LocationConstraint": aws_site.region})
    arn = queue.sqs.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    queue.s3.put_bucket_notification_configuration(
        Bucket=aws_site.bucket,
        NotificationConfiguration={
            "QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}]
        },
    )
    store = open_store("aws", aws_site, aws)
    known = listing_of([])
    for step in (
        lambda: [store.put(f"data/d/{name}", b"1") for name in ("a", "b c", "ü+%", "gone")],
        lambda: [store.put("data/d/a", b"22"), store.delete("data/d/gone"), store.put("elsewhere/x", b"3")],
        lambda: [store.delete("data/d/a"), store.put("data/d/a", b"333")],
    ):
        step()
        for changes in drain(queue.feed):
            assert not changes.rejected
            known = apply_changes(known, changes, as_listed(store))
            queue.feed.acknowledge(changes)
        assert known.equals(listing_of(store.list("data/d/")))
    assert known["key"].to_pylist() == ["data/d/a", "data/d/b c", "data/d/ü+%"]
    assert queue.waiting() == 0


def test_what_was_not_acknowledged_comes_again(queue: Queue, aws: Connection, aws_site: Site) -> None:
    queue.send(event(queue, "k"))
    hasty = queue.reader(aws, aws_site, visibility_seconds=1)
    (first,) = drain(hasty)[0].changes
    assert drain(hasty)[-1].changes == ()  # hidden
    deadline = time.monotonic() + 30
    while not (again := drain(hasty)[0]).changes:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert again.changes == (first,)
    hasty.acknowledge(again)
    assert queue.waiting() == 0


def test_a_long_sync_keeps_its_messages_hidden(queue: Queue, aws: Connection, aws_site: Site) -> None:
    queue.send(event(queue, "k"))
    short = queue.reader(aws, aws_site, visibility_seconds=2)
    changes = short.poll(None, 1)
    queue.reader(aws, aws_site, visibility_seconds=600).renew(changes)
    facts = queue.sqs.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["All"])["Attributes"]
    assert facts["ApproximateNumberOfMessagesNotVisible"] == "1"
    short.acknowledge(changes)
    short.acknowledge(changes)  # once more is no error
    short.renew(changes)
    assert queue.waiting() == 0


def test_a_poll_ends_at_its_limit_and_the_next_goes_on(queue: Queue) -> None:
    for number in range(35):
        queue.send(event(queue, f"{number:02d}"))
    first = queue.feed.poll(None, 12)
    assert 12 <= len(first.changes) <= 21
    assert not first.complete
    rest = drain(queue.feed)
    assert len({change.key for changes in [first, *rest] for change in changes.changes}) == 35
    for changes in [first, *rest]:
        queue.feed.acknowledge(changes)
    assert queue.waiting() == 0


def test_a_poison_message_is_reported_and_left_in_the_queue(queue: Queue) -> None:
    queue.send("{not json")
    queue.send(json.dumps({"Event": "s3:TestEvent"}))
    queue.send(event(queue, "k"))
    (changes,) = drain(queue.feed)
    (rejected,) = changes.rejected
    assert (rejected.reason, rejected.deliveries, rejected.excerpt) == ("no JSON", 1, "{not json")
    assert rejected.at is not None
    assert [change.key for change in changes.changes] == ["data/d/k"]
    queue.feed.acknowledge(changes)
    assert queue.waiting() == 1


def test_a_queue_that_is_not_there_is_bad_input(queue: Queue, aws: Connection, aws_site: Site) -> None:
    with pytest.raises(ConfigError, match="existing queue"):
        SqsFeed("none", aws, queue.scope, region=aws_site.region, wait_seconds=0).poll(None, 1)
    role = aws.model_copy(update={"extra": {"role_arn": "arn"}})
    with pytest.raises(ConfigError, match="role_arn"):
        SqsFeed("none", role, queue.scope, region=aws_site.region).poll(None, 1)


def test_a_service_that_is_away_is_said(aws: Connection, free_port: Callable[[], int]) -> None:
    away = aws.model_copy(update={"extra": {"endpoint_url": f"http://127.0.0.1:{free_port()}"}})
    feed = SqsFeed("q", away, SCOPE, region="eu-west-1", wait_seconds=0, timeout_seconds=0.2)
    with pytest.raises(FeedUnavailable):
        feed.poll(None, 1)


def test_credentials_that_are_renewed_are_used(queue: Queue, aws: Connection, aws_site: Site) -> None:
    now = {"access_key_id": "first", "secret_access_key": "s", "token": "t"}
    access = StoreAccess(credentials=lambda: Credentials(dict(now)))
    role = aws.model_copy(update={"login": None, "password": None, "extra": {**aws.extra, "role_arn": "arn"}})
    feed = queue.reader(role, aws_site, access=access)
    for key in ("first", "second"):
        now["access_key_id"] = key
        assert feed.poll(None, 1).complete
        assert feed._client()._request_signer._credentials.access_key == key
