"""Delta tables that the deltalake library wrote: what makes a whole version, and the replica read back with it."""

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
from holdfast.engine.snapshot.tables import (
    TableDamaged,
    live_data,
    require_whole,
    table_order,
    table_state,
    table_states,
    table_waves,
)

deltalake = pytest.importorskip("deltalake")


def batch(*values: int, day: str = "1") -> pa.Table:
    return pa.table({"x": pa.array(values, pa.int64()), "day": [day] * len(values)})


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def lay_out(folder: Path, found: dict[str, bytes]) -> str:
    for name, data in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return str(folder)


@pytest.fixture
def table(tmp_path):
    """Four versions: two appends, an overwrite of all, a delete of a row."""
    root = tmp_path / "origin"
    deltalake.write_deltalake(str(root), batch(1, 2, day="a b"), partition_by=["day"])
    deltalake.write_deltalake(str(root), batch(3), mode="append")
    deltalake.write_deltalake(str(root), batch(10, 11, 12), mode="overwrite")
    deltalake.DeltaTable(str(root)).delete("x = 11")
    return root


def one(found: dict[str, bytes]):
    (state,) = table_states("delta", found, found.__getitem__)
    return state


def of_library(root) -> set[str]:
    table = deltalake.DeltaTable(str(root))
    return {uri.removeprefix(str(root) + "/") for uri in table.file_uris()}


def test_the_newest_version_names_the_files_the_library_names(table):
    found = files(table)
    state = one(found)
    assert (state.version, state.is_whole, state.problem) == (3, True, None)
    assert state.data == of_library(table)
    assert state.data < set(found)
    assert state.readable_elsewhere


def test_a_checkpoint_gives_the_same_as_the_commits_it_stands_for(table):
    before = one(files(table))
    deltalake.DeltaTable(str(table)).create_checkpoint()
    found = files(table)
    assert any("checkpoint.parquet" in name for name in found)
    assert one(found).data == before.data
    for number in range(4):  # as log cleanup does
        found.pop(f"_delta_log/{number:020d}.json")
    assert one(found).data == before.data
    assert one(found).pointers == {"_delta_log/_last_checkpoint"}


def test_the_order_is_data_then_commits_then_the_pointer(table):
    deltalake.DeltaTable(str(table)).create_checkpoint()
    groups = table_order("delta", files(table))
    assert all("_delta_log" not in name for name in groups[0])
    assert groups[1:5] == [[f"_delta_log/{number:020d}.json"] for number in range(4)]
    assert groups[5] == ["_delta_log/00000000000000000003.checkpoint.parquet"]
    assert groups[-1] == ["_delta_log/_last_checkpoint"]


def test_at_every_cut_of_the_order_the_library_reads_a_whole_version(table, tmp_path):
    deltalake.DeltaTable(str(table)).create_checkpoint()
    found = files(table)
    there: dict[str, bytes] = {}
    versions = []
    for number, group in enumerate(table_order("delta", found)):
        there |= {name: found[name] for name in group}
        target = lay_out(tmp_path / f"cut-{number}", there)
        if number:
            versions.append(deltalake.DeltaTable(target).version())
            assert deltalake.DeltaTable(target).to_pyarrow_table().num_rows > 0
    assert versions == [0, 1, 2, 3, 3, 3]


def test_a_torn_version_is_noticed_and_the_last_whole_one_chosen(table, tmp_path):
    found = files(table)
    # A writer that died, or a listing taken in the wrong order: version 3's new file is not there.
    lost = sorted(one(found).data - one({k: v for k, v in found.items() if "003.json" not in k}).data)[0]
    del found[lost]
    state = one(found)
    assert (state.version, state.torn_version, state.missing) == (2, 3, (lost,))
    assert "version 3 names 1 files that are not there" in state.problem
    whole = {name: found[name] for name in state.consistent(found)}
    target = lay_out(tmp_path / "replica", whole)
    assert deltalake.DeltaTable(target).version() == 2
    assert sorted(deltalake.DeltaTable(target).to_pyarrow_table()["x"].to_pylist()) == [10, 11, 12]


def test_a_snapshot_of_a_torn_table_is_refused_and_of_a_whole_one_is_not(table):
    found = files(table)
    (state,) = require_whole("delta", found, found.__getitem__)
    assert state.version == 3
    del found[sorted(state.data)[0]]
    with pytest.raises(TableDamaged, match="names 1 files that are not there"):
        require_whole("delta", found, found.__getitem__)
    assert table_waves("delta", found)["_delta_log/00000000000000000000.json"] == 1
    assert table_waves("delta", found)["_delta_log/00000000000000000003.json"] == 4


def test_a_gap_in_the_log_is_torn_and_no_whole_version_is_an_error(table):
    found = files(table)
    del found["_delta_log/00000000000000000002.json"]
    assert (one(found).version, one(found).torn_version) == (1, 3)
    with pytest.raises(TableDamaged):
        one({name: data for name, data in found.items() if not name.endswith(".parquet")})


def test_a_commit_that_is_no_json_is_an_error(table):
    found = files(table)
    found["_delta_log/00000000000000000003.json"] = b'{"add": {'
    with pytest.raises(TableDamaged):
        one(found)


def test_absolute_paths_are_reported_as_not_readable_elsewhere(table):
    found = files(table)
    commit = {"add": {"path": "s3://elsewhere/t/part-0.parquet", "partitionValues": {}, "size": 1}}
    found["_delta_log/00000000000000000004.json"] = json.dumps(commit).encode()
    state = one(found)
    assert not state.readable_elsewhere
    assert "not readable at the target without rewrite" in state.problem


def test_a_deletion_vector_is_a_file_the_version_needs():
    # The protocol's own example: folder `ab`, Z85 of a UUID.
    add = {
        "path": "part-0.parquet",
        "deletionVector": {"storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^", "offset": 4},
    }
    found = {
        "_delta_log/00000000000000000000.json": json.dumps({"add": add}).encode(),
        "part-0.parquet": b"",
        "ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin": b"",
    }
    state = one(found)
    assert state.data == {"part-0.parquet", "ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin"}
    assert state.row_deletes == 1
    with pytest.raises(TableDamaged):
        live_data(found, found.__getitem__)


def test_a_new_deletion_vector_on_the_same_file_replaces_the_old_state():
    def line(**actions):
        return json.dumps(actions).encode()

    vector = {"storageType": "i", "pathOrInlineDv": "abc", "offset": None}
    found = {
        "_delta_log/00000000000000000000.json": line(add={"path": "p"}),
        "_delta_log/00000000000000000001.json": line(add={"path": "p", "deletionVector": vector})
        + b"\n"
        + line(remove={"path": "p"}),
        "p": b"",
    }
    assert one(found).data == {"p"}
    assert one(found).row_deletes == 1


def test_two_tables_in_one_dataset_are_told_apart(table, tmp_path):
    both = {f"one/{name}": data for name, data in files(table).items()}
    both |= {f"deep/two/{name}": data for name, data in files(table).items()}
    states = table_states("delta", both, both.__getitem__)
    assert [(state.root, state.version) for state in states] == [("deep/two", 3), ("one", 3)]
    assert all(path.startswith("one/") for path in states[1].data)


def test_a_live_table_is_looked_at_in_its_bucket_and_a_snapshot_reads_its_newest_version(table):
    store, clock = memory_store(), FakeClock()
    for name, data in files(table).items():
        store.put(f"data/lake/{name}", data)
    (state,) = table_state(store, "lake", table="delta")
    assert state.version == 3
    take_and_publish(store, dataset="lake", path="lake", epoch=1, site="aws", clock=clock)
    pytest.importorskip("fsspec")
    dataset = snapshot.open(store, "lake", epoch=1).dataset()
    assert sorted(dataset.to_table()["x"].to_pylist()) == [10, 12]


def test_the_library_reads_the_table_through_a_snapshot_laid_out_elsewhere(table, tmp_path):
    store, clock = memory_store(), FakeClock()
    for name, data in files(table).items():
        store.put(f"data/lake/{name}", data)
    take_and_publish(store, dataset="lake", path="lake", epoch=1, site="aws", clock=clock)
    opened = snapshot.open(store, "lake", epoch=1)
    shutil.rmtree(table)
    target = lay_out(tmp_path / "replica", {path: opened.read(path) for path in opened.manifest.paths})
    replica = deltalake.DeltaTable(target)
    assert sorted(replica.to_pyarrow_table()["x"].to_pylist()) == [10, 12]
    replica.load_as_version(1)
    assert sorted(replica.to_pyarrow_table()["x"].to_pylist()) == [1, 2, 3]
