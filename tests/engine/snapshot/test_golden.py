"""docs/formats.md: today's code reads what was written before, and writes the same."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.engine.objectstore import memory_store
from holdfast.engine.snapshot import EpochFork, Manifest, ManifestEntry, Receipt, digest_of, read_receipt
from holdfast.engine.snapshot.keys import placement_key
from holdfast.engine.snapshot.lineage import fork_key, read_fork, write_fork
from holdfast.engine.snapshot.placement import locate
from holdfast.engine.snapshot.records import CommitRecord, Line, parse_record
from holdfast.engine.snapshot.succession import Successor, successor_key

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "snapshot"


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def record() -> CommitRecord:
    return parse_record(golden("commit-record.json"), key=golden("commit-record.key").decode(), where="golden")


def entries() -> list[ManifestEntry]:
    return [
        ManifestEntry("2024/a.parquet", 3, digest_of(b"one"), None, '"e1"', datetime(2026, 3, 1, 12, 0, 1, tzinfo=UTC)),
        ManifestEntry(
            "2024/b é.parquet", 0, digest_of(b""), "1699", '"e2"', datetime(2026, 3, 1, 12, 0, 2, 123456, tzinfo=UTC)
        ),
        ManifestEntry("c.json", 12, digest_of(b"twelve bytes"), "v7", None, datetime(2026, 3, 1, 12, 0, 3, tzinfo=UTC)),
    ]


def test_a_commit_record_is_read_and_spelled_the_same():
    assert record().to_json() == golden("commit-record.json")
    assert record().labels == {"run": "r1", "é": "ü"}
    assert record().committed_at == datetime(2026, 3, 1, 12, 0, 5, 42, tzinfo=UTC)
    fields = record().model_dump(exclude={"snapshot_id", "format"})
    assert CommitRecord.seal(**fields) == record()


def test_a_manifest_is_read_and_written_the_same():
    data = golden("manifest.parquet")
    manifest = Manifest.from_bytes(data, digest=record().manifest_digest, where="golden")
    assert manifest.entries() == entries()
    # How Parquet encodes the values is Arrow's and its options' to say; what is written again reads the same.
    again = Manifest.build(entries())
    assert again.table.equals(manifest.table)
    assert again.data == Manifest.build(entries()).data
    assert _parquet(again.data).equals(_parquet(data), check_metadata=True)


def _parquet(data: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(data))


def test_a_fork_record_is_read_and_written_the_same():
    store = memory_store()
    fork = EpochFork.model_validate_json(golden("fork.json"))
    assert write_fork(store, "snapshots/market-data", fork) == fork
    assert store.get(fork_key("snapshots/market-data", 2)) == golden("fork.json")
    assert read_fork(store, "snapshots/market-data", 2) == fork
    assert (fork.subject, fork.epoch, fork.forked_from) == ("market-data", 2, "0123456789abcdef0123456789abcdef")


def test_a_receipt_is_read_and_spelled_the_same():
    store = memory_store()
    receipt = Receipt.model_validate_json(golden("receipt.json"))
    assert receipt.to_json() == golden("receipt.json")
    assert receipt.key == f"receipts/market-data/{record().snapshot_id}/azure-westeurope.json"
    store.put(receipt.key, golden("receipt.json"))
    assert read_receipt(store, "market-data", record().snapshot_id, "azure-westeurope") == receipt


def test_a_placement_is_read():
    store = memory_store()
    store.put(placement_key("market-data", record().snapshot_id, "azure-westeurope"), golden("placement.parquet"))
    placed = locate(store, record(), Manifest.build(entries()))
    assert placed["c.json"].key == "data/market-data/.versions/0011223344556677/c.json"
    assert placed["c.json"].other_e_tag == '"y"'
    assert placed["2024/a.parquet"].digest == digest_of(b"one")
    assert placed["old.parquet"].key is None


def test_a_successor_s_mark_is_read_and_spelled_the_same():
    mark = Successor(
        dataset="market-data",
        epoch=2,
        parent="1" * 32,
        child=record().snapshot_id,
        write_id="w-é",
        committed_at=datetime(2026, 3, 1, 12, 0, 5, 42, tzinfo=UTC),
    )
    assert mark.to_json() == golden("successor.json")
    assert Successor.model_validate_json(golden("successor.json")) == mark
    key = successor_key("market-data", 2, "1" * 32, 7)
    assert key == f"snapshots/market-data/{'1' * 32}/successor-000002-000007.json"


def test_a_line_of_missed_records_is_read_and_spelled_the_same():
    line = Line(dataset=record().dataset, snapshot_id="2" * 32, records=(record(),))
    assert line.to_json() == golden("line.json")
    assert Line.model_validate_json(golden("line.json")) == line
