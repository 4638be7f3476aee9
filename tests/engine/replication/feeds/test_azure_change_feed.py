"""Azure's change feed: read in pieces and whole, only what is final, from where the cursor says."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import fastavro
import pytest

from holdfast.engine.config import Connection, Site
from holdfast.engine.objectstore import ObjectStore, memory_store, open_store
from holdfast.engine.replication.feeds import FeedDamaged, FeedRewound, Scope, open_feed
from holdfast.engine.replication.feeds.azure_change_feed import AzureChangeFeed
from holdfast.engine.replication.feeds.azure_events import NotUnderstood, parse
from holdfast.errors import ConfigError
from holdfast.sandbox.azurite import ACCOUNT, KEY

SCOPE = Scope("container", "site", "data/d/")
START = datetime(2026, 1, 1, tzinfo=UTC)
_TEXT = ["null", "string"]
SCHEMA = fastavro.parse_schema(
    {
        "type": "record",
        "name": "BlobChangeEvent",
        "fields": [
            {"name": "schemaVersion", "type": "int"},
            *({"name": name, "type": "string"} for name in ("topic", "subject", "eventType", "eventTime", "id")),
            {
                "name": "data",
                "type": {
                    "type": "record",
                    "name": "BlobChangeEventData",
                    "fields": [
                        *({"name": name, "type": "string"} for name in ("api", "etag", "blobType", "sequencer")),
                        {"name": "contentLength", "type": "long"},
                        {"name": "blobVersion", "type": _TEXT},
                    ],
                },
            },
        ],
    }
)


def record(blob: str, event: str = "BlobCreated", number: int = 1, *, container: str = "container") -> dict[str, Any]:
    return {
        "schemaVersion": 1,
        "topic": "/subscriptions/1/providers/Microsoft.Storage/storageAccounts/account",
        "subject": f"/blobServices/default/containers/{container}/blobs/{blob}",
        "eventType": event,
        "eventTime": "2026-01-01T00:10:00.4003102Z",
        "id": f"id-{number}",
        "data": {
            "api": "PutBlob",
            "etag": f"0x8D{number:06d}",
            "blobType": "BlockBlob",
            "sequencer": f"{number:032d}",
            "contentLength": number,
            "blobVersion": None,
        },
    }


def avro(records: list[dict[str, Any]]) -> bytes:
    data = io.BytesIO()
    fastavro.writer(data, SCHEMA, records, codec="deflate", sync_interval=300)
    return data.getvalue()


class Log:
    """A change feed that grows, as the service writes it."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.store.put("idx/segments/1601/01/01/0000/meta.json", b"{}")

    def segment(self, hour: int, shards: list[list[list[dict[str, Any]]]], *, status: str = "Finalized") -> None:
        at = (START + timedelta(hours=hour)).strftime("%Y/%m/%d/%H%M")
        paths = []
        for number, chunks in enumerate(shards):
            path = f"log/{number:02d}/{at}/"
            paths.append(f"$blobchangefeed/{path}")
            for index, chunk in enumerate(chunks):
                self.store.put(f"{path}{index:05d}.avro", avro(chunk))
        meta = {"version": 0, "intervalSecs": 3600, "status": status, "chunkFilePaths": paths}
        self.store.put(f"idx/segments/{at}/meta.json", json.dumps(meta).encode())

    def consumable(self, hour: int) -> None:
        at = (START + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self.store.put("meta/segments.json", json.dumps({"version": 0, "lastConsumable": at}).encode())


@pytest.fixture
def store() -> ObjectStore:
    return memory_store()


@pytest.fixture
def log(store: ObjectStore) -> Log:
    return Log(store)


@pytest.fixture
def feed(store: ObjectStore) -> AzureChangeFeed:
    return AzureChangeFeed(store, "account", SCOPE)


def read(feed: AzureChangeFeed, cursor: str, limit: int = 1000) -> tuple[list[str], str]:
    keys: list[str] = []
    while True:
        changes = feed.poll(cursor, limit)
        assert len(changes.changes) <= limit
        keys += [change.key for change in changes.changes]
        cursor = changes.cursor
        if changes.complete:
            return keys, cursor


def test_from_the_present_end_on_every_change_comes_once(log: Log, feed: AzureChangeFeed) -> None:
    log.segment(0, [[[record("site/data/d/before")]]])
    log.consumable(0)
    begun = feed.poll(None, 10)
    assert (begun.changes, begun.complete) == ((), True)  # a full listing shows what was before
    log.segment(1, [[[record("site/data/d/a")], [record("site/data/d/b")]], [[record("site/data/d/c")]], []])
    log.segment(2, [[[record("site/data/d/d"), record("site/data/d/a", "BlobDeleted", 2)]]])
    log.segment(3, [[[record("site/data/d/early")]]])
    log.consumable(2)
    keys, cursor = read(feed, begun.cursor)
    assert keys == ["data/d/a", "data/d/b", "data/d/c", "data/d/d", "data/d/a"]
    assert read(feed, cursor)[0] == []
    log.consumable(3)
    assert read(feed, cursor)[0] == ["data/d/early"]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 100])
def test_a_feed_read_in_pieces_loses_and_doubles_nothing(limit: int, log: Log, feed: AzureChangeFeed) -> None:
    log.consumable(0)
    cursor = feed.poll(None, 1).cursor  # before the first segment
    names = iter(range(1000))
    shards = [[[record(f"site/data/d/{next(names):03d}") for _ in range(5)] for _ in range(3)] for _ in range(2)]
    log.segment(1, shards)
    log.segment(2, [[[record(f"site/data/d/{next(names):03d}") for _ in range(4)]]])
    log.consumable(2)
    # A reader that is made anew for each piece: all it knows is in the cursor.
    assert sorted(read(feed, cursor, limit)[0]) == [f"data/d/{number:03d}" for number in range(34)]


def test_a_segment_that_is_not_final_is_left_for_later(log: Log, feed: AzureChangeFeed) -> None:
    log.consumable(0)
    cursor = feed.poll(None, 1).cursor
    log.segment(1, [[[record("site/data/d/a")]]], status="Publishing")
    log.segment(2, [[[record("site/data/d/b")]]])
    log.consumable(2)
    keys, cursor = read(feed, cursor)
    assert keys == []
    log.segment(1, [[[record("site/data/d/a"), record("site/data/d/c")]]])
    assert read(feed, cursor)[0] == ["data/d/a", "data/d/c", "data/d/b"]


def test_a_cursor_whose_segment_is_gone_needs_a_full_listing(log: Log, feed: AzureChangeFeed) -> None:
    for hour in (0, 1, 2):
        log.segment(hour, [[[record(f"site/data/d/{hour}")]]])
    log.consumable(0)
    cursor = feed.poll(None, 1).cursor
    log.consumable(2)
    log.store.delete("idx/segments/2026/01/01/0000/meta.json")
    with pytest.raises(FeedRewound, match="no longer holds"):
        feed.poll(cursor, 10)
    with pytest.raises(FeedRewound, match="none of this feed's"):
        feed.poll("sqs", 10)


def test_an_account_without_a_feed_is_bad_input(feed: AzureChangeFeed) -> None:
    with pytest.raises(ConfigError, match="no change feed"):
        feed.poll(None, 1)


@pytest.mark.parametrize("damage", ["cut", "other", "index"])
def test_a_damaged_log_is_said(damage: str, log: Log, feed: AzureChangeFeed) -> None:
    log.consumable(0)
    cursor = feed.poll(None, 1).cursor
    log.segment(1, [[[record(f"site/data/d/{number}") for number in range(50)]]])
    log.consumable(1)
    (chunk,) = (info.key for info in log.store.list("log/"))
    if damage == "cut":
        log.store.put(chunk, log.store.get(chunk)[:-40])
    elif damage == "other":
        log.store.put(chunk, b"not avro")
    else:
        log.store.put("idx/segments/2026/01/01/0100/meta.json", b"{}")
    with pytest.raises(FeedDamaged):
        feed.poll(cursor, 1000)


@pytest.mark.parametrize(
    ("event", "kinds"),
    [
        ("BlobCreated", ["put"]),
        ("BlobPropertiesUpdated", ["put"]),
        ("BlobMetadataUpdated", ["put"]),
        ("BlobDeleted", ["delete"]),
        ("SomethingNew", ["put"]),
        ("BlobTierChanged", []),
        ("BlobSnapshotCreated", []),
        ("Control", []),
    ],
)
def test_what_a_record_means(event: str, kinds: list[str]) -> None:
    changes = parse(record("site/data/d/k", event, 7), SCOPE)
    assert [change.kind for change in changes] == kinds
    if kinds:
        (change,) = changes
        assert (change.key, change.e_tag, change.sequence) == ("data/d/k", '"0x8D000007"', f"{7:032d}")
        assert change.at == datetime(2026, 1, 1, 0, 10, 0, 400310, tzinfo=UTC)


def test_names_are_kept_and_where_their_spelling_is_open_both_are_looked_at() -> None:
    (plain,) = parse(record("site/data/d/a b+ü/blobs/x"), SCOPE)
    assert plain.key == "data/d/a b+ü/blobs/x"
    assert [change.key for change in parse(record("site/data/d/a%20b"), SCOPE)] == ["data/d/a%20b", "data/d/a b"]


def test_what_is_elsewhere_is_of_no_concern() -> None:
    assert parse(record("site/data/d/k", container="other"), SCOPE) == ()
    assert parse(record("site/data/dx"), SCOPE) == ()


def test_a_renamed_blob_is_gone_there_and_new_here() -> None:
    url = "https://account.dfs.core.windows.net/container/site/data/d"
    event = record("site/data/d/new", "BlobRenamed") | {
        "data": {"sourceUrl": f"{url}/old", "destinationUrl": f"{url}/new"}
    }
    assert [change.key for change in parse(event, SCOPE)] == ["data/d/old", "data/d/new"]


@pytest.mark.parametrize(
    "broken",
    [
        {"eventType": "DirectoryRenamed"},
        {"eventTime": "then"},
        {"subject": "container/blob"},
        {"subject": None},
        {"data": {"contentLength": "many"}},
        {"eventType": "BlobRenamed", "data": {}},
    ],
)
def test_what_cannot_be_understood_is_said(broken: dict[str, Any]) -> None:
    with pytest.raises(NotUnderstood):
        parse(record("site/data/d/k") | broken, SCOPE)


def test_a_record_that_cannot_be_understood_is_reported_and_the_rest_read(log: Log, feed: AzureChangeFeed) -> None:
    log.consumable(0)
    cursor = feed.poll(None, 1).cursor
    log.segment(1, [[[record("site/data/d/k", "DirectoryDeleted"), record("site/data/d/a")]]])
    log.consumable(1)
    changes = feed.poll(cursor, 10)
    assert [change.key for change in changes.changes] == ["data/d/a"]
    (rejected,) = changes.rejected
    assert "full listing" in rejected.reason
    assert rejected.id.endswith(".avro#0")


@pytest.mark.sandbox
def test_the_feed_of_an_account_is_read_from_its_own_container(azure_site: Site, azure: Connection) -> None:
    from azure.storage.blob import BlobServiceClient

    service = BlobServiceClient(azure.host, credential={"account_name": ACCOUNT, "account_key": KEY})
    service.create_container("$blobchangefeed")
    own = azure_site.model_copy(update={"bucket": "$blobchangefeed", "prefix": ""})
    log = Log(open_store("azure", own, azure))
    log.consumable(0)
    feed = open_feed(f"azure-changefeed://{ACCOUNT}/container", azure, site_name="azure", site=azure_site, folder="d")
    cursor = feed.poll(None, 1).cursor
    log.segment(1, [[[record(f"site/data/d/{number}") for number in range(3)]], [[record("site/data/d/x")]]])
    log.consumable(1)
    changes = feed.poll(cursor, 100)
    assert sorted(change.key for change in changes.changes) == ["data/d/0", "data/d/1", "data/d/2", "data/d/x"]
    assert changes.complete
