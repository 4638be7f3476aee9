"""A sync that is told to keep storage class and tags: on every cloud's emulator, for small and for large objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.config import Cloud, Site
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import ObjectStore, RetryingStore, memory_store
from holdfast.engine.objectstore.attribute_reading import read_attributes, tells_class_and_tags
from holdfast.engine.objectstore.attributes import Attributes
from holdfast.engine.objectstore.meter import Meter, MeteredStore
from holdfast.engine.replication import SyncSite, rounds, sync_dataset
from holdfast.engine.replication.reports import SyncReport
from without_parts import WithoutParts

SITES = {
    cloud.value: Site(cloud=cloud, region="r", jurisdiction="EU", connection="c", bucket="b")
    for cloud in (Cloud.AWS, Cloud.GCP, Cloud.AZURE)
}
TAGS = {"owner": "desk", "x": ""}
CLASSES = {"s3-direct": "STANDARD_IA", "azure-direct": "Cool"}


def sync(source: ObjectStore, cloud: str, target: ObjectStore, there: str, **policy: Any) -> SyncReport:
    return sync_dataset(
        SyncSite("source", source),
        [SyncSite("target", target)],
        dataset="d",
        folder="d",
        policy=Sync(**policy),
        epoch=1,
        residency=None,
        topology_sites={"source": SITES[cloud], "target": SITES[there]},
        clock=SystemClock(),
    )


@pytest.mark.parametrize("backend", CLASSES)
def test_class_and_tags_go_with_small_and_large_objects(
    backend: str, open_backend: Callable[[str], ObjectStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "PARTS_ABOVE_BYTES", 1024 * 1024)
    cloud = backend.removesuffix("-direct").replace("s3", "aws")
    source = RetryingStore(open_backend(backend))
    said = Attributes(content_type="text/csv", storage_class=CLASSES[backend], tags=TAGS)
    for name, data in (("small", b"x"), ("large", bytes(range(256)) * 12 * 1024)):
        source.put(f"data/d/{name}", data, attributes=said)
    target = memory_store()
    report = sync(source, cloud, target, "gcp", preserve=("storage-class", "tags"))
    assert report.targets[0].ok
    for name in ("small", "large"):
        found = target.open(f"data/d/{name}").attributes
        assert found.storage_class == "NEARLINE"
        assert found.metadata["holdfast_tags"] == "owner=desk&x="
    assert "tags: this cloud has none, kept as metadata holdfast_tags" in report.targets[0].losses


def test_tags_alone_leave_the_class_to_the_bucket(open_backend: Callable[[str], ObjectStore]) -> None:
    source, target = RetryingStore(open_backend("s3-direct")), RetryingStore(open_backend("azure-direct"))
    source.put("data/d/x", b"x", attributes=Attributes(storage_class="STANDARD_IA", tags=TAGS))
    sync(source, "aws", target, "azure", preserve=("tags",))
    found = read_attributes(target, "data/d/x")
    assert (dict(found.tags), found.storage_class) == (TAGS, "Hot")


def test_class_and_tags_arrive_at_a_cloud(open_backend: Callable[[str], ObjectStore]) -> None:
    source, target = RetryingStore(open_backend("s3-direct")), RetryingStore(open_backend("azure-direct"))
    source.put("data/d/x", b"x", attributes=Attributes(storage_class="GLACIER_IR", tags=TAGS))
    report = sync(source, "aws", target, "azure", preserve=("storage-class", "tags"))
    assert report.targets[0].ok
    found = read_attributes(target, "data/d/x")
    assert (found.storage_class, dict(found.tags)) == ("Cold", TAGS)


def test_nothing_is_asked_for_what_is_not_to_be_kept(open_backend: Callable[[str], ObjectStore]) -> None:
    meter, target = Meter(), memory_store()
    source = MeteredStore(RetryingStore(open_backend("s3-direct")), meter)
    source.put("data/d/x", b"x", attributes=Attributes(storage_class="STANDARD_IA", tags=TAGS))
    sync(source, "aws", target, "aws")
    assert "placed" not in meter.counts()
    sync(source, "aws", memory_store(), "aws", preserve=("tags",))
    assert meter.counts()["placed"].calls == 1


def test_a_store_that_cannot_tell_them_is_said(open_backend: Callable[[str], ObjectStore]) -> None:
    source = open_backend("azure-encrypted")
    assert not tells_class_and_tags(source)
    source.put("data/d/x", b"x")
    report = sync(source, "azure", memory_store(), "aws", preserve=("tags",))
    assert any("does not tell them" in loss for loss in report.targets[0].losses)


def test_what_goes_as_a_stream_keeps_what_it_says_too(
    open_backend: Callable[[str], ObjectStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "PARTS_ABOVE_BYTES", 1000)
    source, target = RetryingStore(open_backend("s3-direct")), memory_store()
    said = Attributes(content_type="text/csv", storage_class="STANDARD_IA", metadata={"colour": "blue"})
    source.put("data/d/x", b"x" * 2000, attributes=said)
    sync(source, "aws", WithoutParts(target), "azure", preserve=("storage-class",))
    (key,) = [info.key for info in target.list("data/d/.versions/")]
    found = target.open(key).attributes
    assert (found.content_type, found.storage_class, dict(found.metadata)) == ("text/csv", "Cool", {"colour": "blue"})


def test_a_folder_has_none_to_lose() -> None:
    store = memory_store()
    store.put("data/d/x", b"x")
    assert sync(store, "aws", memory_store(), "aws", preserve=("storage-class", "tags")).targets[0].losses == ()
