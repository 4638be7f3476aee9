"""Iceberg tables that pyiceberg wrote: what makes a whole version, and the replica read back with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from holdfast.clock import FakeClock
from holdfast.engine import snapshot
from holdfast.engine.objectstore import memory_store
from holdfast.engine.snapshot import take_and_publish
from holdfast.engine.snapshot.tables import TableDamaged, table_order, table_states

pytest.importorskip("pyiceberg")
pytest.importorskip("fastavro")
pytest.importorskip("sqlalchemy")


def batch(*values: int) -> pa.Table:
    return pa.table({"x": pa.array(values, pa.int64())})


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def table(tmp_path):
    """A table of three commits: created, two appends, one overwrite by filter."""
    from pyiceberg.catalog.sql import SqlCatalog

    warehouse = tmp_path / "warehouse"
    warehouse.mkdir()
    catalog = SqlCatalog("test", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{warehouse}")
    catalog.create_namespace("lake")
    made = catalog.create_table("lake.t", schema=batch(1).schema)
    made.append(batch(1, 2))
    made.append(batch(3))
    made.delete("x = 2")
    yield made
    catalog.engine.dispose()


def root_of(table) -> Path:
    return Path(table.location().removeprefix("file://"))


def one(found: dict[str, bytes]):
    (state,) = table_states("iceberg", found, found.__getitem__)
    return state


def test_the_newest_version_names_the_files_the_library_names(table):
    root = root_of(table)
    state = one(files(root))
    named = {task.file.file_path.removeprefix(f"file://{root}/") for task in table.scan().plan_files()}
    assert state.data == named
    assert state.version >= 3
    assert state.is_whole
    assert state.missing_history == ()


def test_absolute_locations_are_reported_as_not_readable_elsewhere(table):
    state = one(files(root_of(table)))
    assert not state.readable_elsewhere
    assert state.absolute == (table.location(),)
    assert "not readable at the target without rewrite" in state.problem


def test_the_order_is_data_manifests_lists_metadata_then_the_pointer(table):
    found = files(root_of(table)) | {"metadata/version-hint.text": b"3"}
    groups = table_order("iceberg", found)
    kinds = [
        "data"
        if group[0].startswith("data/")
        else "list"
        if "snap-" in group[0]
        else "manifest"
        if group[0].endswith(".avro")
        else "metadata"
        if group[0].endswith(".json")
        else "pointer"
        for group in groups
    ]
    assert kinds == ["data", "manifest", "list", *["metadata"] * (len(groups) - 4), "pointer"]
    numbers = [int(group[0].rpartition("/")[2][:5]) for group in groups[3:-1]]
    assert numbers == sorted(numbers)
    assert sum(map(len, groups)) == len(found)


def test_a_torn_version_is_noticed_and_the_last_whole_one_chosen(table):
    found = files(root_of(table))
    newest = one(found)
    before = one({name: data for name, data in found.items() if not name.startswith(f"metadata/{newest.version:05d}")})
    lost = sorted(newest.data - before.data)[0]
    del found[lost]
    state = one(found)
    assert (state.version, state.torn_version, state.missing) == (newest.version - 1, newest.version, (lost,))
    assert state.data == before.data
    assert f"metadata/{newest.version:05d}" not in " ".join(state.consistent(found))


def test_a_lost_manifest_is_torn_too(table):
    found = files(root_of(table))
    newest = one(found)
    metadata = next(name for name in found if name.startswith(f"metadata/{newest.version:05d}"))
    content = json.loads(found[metadata])
    current = next(s for s in content["snapshots"] if s["snapshot-id"] == content["current-snapshot-id"])
    del found[current["manifest-list"].removeprefix(content["location"] + "/")]
    assert one(found).version == newest.version - 1


def test_lost_history_does_not_make_the_newest_version_torn(table):
    found = files(root_of(table))
    newest = one(found)
    gone = sorted(name for name in found if name.startswith("data/") and name not in newest.data)
    assert gone
    for name in gone:
        del found[name]
    state = one(found)
    assert state.version == newest.version
    assert state.missing_history == tuple(gone)


def test_metadata_that_is_no_json_is_an_error(table):
    found = files(root_of(table))
    for name in list(found):
        if name.endswith(".metadata.json"):
            found[name] = b"{"
    with pytest.raises(TableDamaged):
        one(found)


def test_the_library_reads_a_snapshot_laid_out_at_the_location_its_metadata_names(table):
    from pyiceberg.table import StaticTable

    root, store = root_of(table), memory_store()
    for name, data in files(root).items():
        store.put(f"data/lake/{name}", data)
    take_and_publish(store, dataset="lake", path="lake", epoch=1, site="aws", clock=FakeClock())
    opened = snapshot.open(store, "lake", epoch=1)
    pytest.importorskip("fsspec")
    assert sorted(opened.dataset().to_table()["x"].to_pylist()) == [1, 3]
    shutil.rmtree(root)
    for path in opened.manifest.paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(opened.read(path))
    (state,) = table_states("iceberg", opened.manifest.paths, opened.read)
    newest = next(name for name in state.metadata if name.startswith(f"metadata/{state.version:05d}-"))
    replica = StaticTable.from_metadata(f"file://{root}/{newest}")
    assert sorted(replica.scan().to_arrow()["x"].to_pylist()) == [1, 3]
