"""A dataset brought to another site from moto's own notifications: what changed, and nothing else, is asked for."""

from __future__ import annotations

import uuid
from typing import Any

import boto3

from holdfast.clock import SystemClock
from holdfast.engine.config import Connection, Site
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import memory_store, open_store
from holdfast.engine.objectstore._decorator import StoreDecorator
from holdfast.engine.objectstore.pages import list_pages
from holdfast.engine.replication import SyncSite, sync_dataset
from holdfast.engine.replication.feeds import load_state, observe, open_feed, settle
from holdfast.engine.snapshot import latest, new_fork, open_snapshot, root, write_fork


class Watched(StoreDecorator):
    """A store that notes what is listed."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.listed: list[str] = []

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Any:
        self.listed.append(prefix)
        return self.inner.list(prefix, start_after=start_after)

    def list_pages(self, prefix: str = "", *, start_after: str | None = None, shallow: bool = False) -> Any:
        self.listed.append(prefix)
        return list_pages(self.inner, prefix, start_after=start_after, shallow=shallow)


POLICY, CLOCK = Sync(), SystemClock()


def test_an_incremental_sync_costs_what_changed(aws: Connection, aws_site: Site) -> None:
    how: Any = {
        "endpoint_url": aws.extra["endpoint_url"],
        "region_name": aws_site.region,
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
    }
    sqs, s3 = boto3.client("sqs", **how), boto3.client("s3", **how)
    name = f"q-{uuid.uuid4().hex}"
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    s3.create_bucket(Bucket=aws_site.bucket, CreateBucketConfiguration={"LocationConstraint": aws_site.region})
    queues = [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}]
    s3.put_bucket_notification_configuration(
        Bucket=aws_site.bucket, NotificationConfiguration={"QueueConfigurations": queues}
    )
    source, target = Watched(open_store("aws", aws_site, aws)), memory_store()

    def opened() -> Any:
        return open_feed(f"sqs://{name}?wait_seconds=0", aws, site_name="aws", site=aws_site, folder="d")

    def run() -> Any:
        feed = opened()
        state = load_state(source, dataset="d", site="aws", feed=feed.identity)
        seen = observe(feed, state, source=source, folder="d", policy=POLICY, clock=CLOCK)
        report = sync_dataset(
            SyncSite("aws", source),
            [SyncSite("gcp", target)],
            dataset="d",
            folder="d",
            policy=POLICY,
            epoch=1,
            residency=None,
            topology_sites=dict.fromkeys(("aws", "gcp"), aws_site),
            clock=CLOCK,
            changes=seen.as_changes(),
        )
        settle(source, feed, state, seen, snapshot_id=report.snapshot_id, clock=CLOCK)
        return report

    def fork(site: str, store: Any) -> None:
        told = {"epoch": 1, "parent_epoch": 0, "forked_from": None, "plan_id": "p", "holder": "test", "reason": "test"}
        write_fork(store, root("d"), new_fork("d", site=site, created_at=CLOCK.now(), **told))

    fork("aws", source)
    fork("gcp", target)
    for number in range(40):
        source.put(f"data/d/{number:02d}", bytes([number]))
    first = run()
    assert first.changed_objects == 40
    source.put("data/d/07", b"changed")
    source.put("data/d/new", b"new")
    source.delete("data/d/03")
    source.listed.clear()
    second = run()
    assert (second.changed_objects, second.targets[0].copied_objects) == (2, 2)
    state = load_state(source, dataset="d", site="aws", feed=opened().identity)
    assert state.last_full_at is not None
    assert (first.planned_from, second.planned_from) == ("listing", "feed")
    assert second.last_full_look == state.last_full_at.isoformat()
    assert {one for one in source.listed if one.startswith("data/")} == {"data/d/03", "data/d/07", "data/d/new"}
    record = latest(target, "d", epoch=1)
    assert record is not None
    replica = open_snapshot(target, record)
    assert {path: replica.read(path) for path in ("07", "new")} == {"07": b"changed", "new": b"new"}
    assert sorted(replica.manifest.paths) == sorted(["new", *(f"{n:02d}" for n in range(40) if n != 3)])
    third = run()
    assert (third.record, third.changed_objects) == (None, 0)
