"""Keys that other tools put into a bucket: a sync takes everything else and says which it left out, and why."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.engine.config import EnvironmentConnections, load_topology
from holdfast.engine.config.sync import Sync
from holdfast.engine.objectstore import access_from_connection, open_store
from holdfast.engine.replication.sync import SyncSite, sync_dataset
from holdfast.engine.snapshot import latest, take_and_publish, verify
from sync_world import see

TOPOLOGY = Path(__file__).resolve().parents[3] / "include" / "holdfast.yaml"
SOURCE, TARGETS = "aws-eu-west-1", ("gcp-europe-west1", "azure-westeurope")
MARKERS = ["", "sub/", "sub/deep/", "empty-folder/"]
REFUSED = ["a//b", "back\\slash", "dots/../x", "tab\there", "trail/x/"]
GOOD = {"plain": b"1", "sub/x": b"2", "sub-1": b"3", "trail/x-1": b"4", "empty": b"", "z": b"5"}


class Clouds:
    """Three emulated clouds; odd keys come to the source by S3's own client."""

    def __init__(self, box) -> None:
        import boto3

        environ = box.environment()
        self.topology, self.clock = load_topology(TOPOLOGY, environ), SystemClock()
        connections, prefix = EnvironmentConnections(environ), f"odd/{uuid.uuid4().hex}"
        self.sites = {
            name: self.topology.site(name).model_copy(update={"prefix": prefix}) for name in (SOURCE, *TARGETS)
        }
        self.stores = {
            name: open_store(name, site, connections.get(site.connection)) for name, site in self.sites.items()
        }
        site = self.sites[SOURCE]
        connection = connections.get(site.connection)
        keys = {"aws_access_key_id": connection.login or "x", "aws_secret_access_key": connection.password or "x"}
        endpoint = access_from_connection(site, connection).endpoint
        self._client = boto3.client("s3", endpoint_url=endpoint, region_name=site.region, **keys)

    def put(self, path: str, data: bytes) -> None:
        site = self.sites[SOURCE]
        self._client.put_object(Bucket=site.bucket, Key=f"{site.prefix}/data/market/{path}", Body=data)

    def sync(self, **kwargs):
        return sync_dataset(
            SyncSite(SOURCE, self.stores[SOURCE]),
            [SyncSite(name, self.stores[name]) for name in TARGETS],
            dataset="market",
            folder="market",
            policy=Sync(**kwargs),
            epoch=1,
            residency=None,
            topology_sites=self.topology.sites,
            clock=self.clock,
        )


@pytest.fixture
def clouds(sandbox):
    return Clouds(sandbox)


def test_what_cannot_be_kept_is_named_and_the_rest_is_synced(clouds):
    for path, data in GOOD.items():
        clouds.put(path, data)
    for path in MARKERS:
        clouds.put(path, b"")
    for path in REFUSED:
        clouds.put(path, b"odd")
    report = clouds.sync()
    assert [target.error or target.refused for target in report.targets] == [None, None]
    assert sorted(refusal.path for refusal in report.refused_objects) == sorted(REFUSED)
    for refusal in report.refused_objects:
        assert "slash" in refusal.reason
        assert "sync.filters.exclude" in refusal.reason
    for name in (SOURCE, *TARGETS):
        store = clouds.stores[name]
        record = latest(store, "market", epoch=1)
        assert see(store, record) == GOOD
        found = verify(store, record)
        assert (found.missing, found.corrupt) == ((), ())
    again = clouds.sync()
    assert again.record is None, "what is refused is no change"
    assert sorted(refusal.path for refusal in again.refused_objects) == sorted(REFUSED)
    clouds.put("plain", b"changed")
    assert clouds.sync().changed_objects == 1


def test_a_key_is_left_out_by_a_filter_without_a_word(clouds):
    clouds.put("plain", b"1")
    clouds.put("a//b", b"odd")
    clouds.put("trail/x/", b"odd")
    report = clouds.sync(filters={"exclude": ["a//*", "trail/**"]})
    assert report.refused_objects == ()
    assert see(clouds.stores[TARGETS[0]], latest(clouds.stores[TARGETS[0]], "market", epoch=1)) == {"plain": b"1"}


def test_a_snapshot_taken_alone_says_which_key_it_cannot_hold(clouds):
    """`take` has no report to put it in: it ends, and names the key."""
    clouds.put("plain", b"1")
    clouds.put("a//b", b"odd")
    with pytest.raises(Exception, match="a//b"):
        take_and_publish(
            clouds.stores[SOURCE], dataset="market", path="market", epoch=1, site=SOURCE, clock=clouds.clock
        )


def test_what_no_key_can_be_is_left_out_by_globs_too(clouds):
    for path in ("plain", "x/a//b", "x/trail/"):
        clouds.put(path, b"1")
    assert clouds.sync(filters={"exclude": ["**//**", "**/"]}).refused_objects == ()
