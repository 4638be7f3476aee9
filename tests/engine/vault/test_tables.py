"""Delta and Iceberg tables, backed up at one version and read with their own libraries where they were restored to."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.clock import FakeClock
from holdfast.engine.config import Site
from holdfast.engine.objectstore import memory_store
from holdfast.engine.snapshot import open_snapshot, take_and_publish
from holdfast.engine.snapshot.tables import TableDamaged, iceberg
from holdfast.engine.snapshot.tables.moving import move_iceberg
from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.backups import find_backup
from holdfast.engine.vault.published import restore_as_snapshot
from holdfast.engine.vault.tables import plan_moves, restore_tables, table_location, table_source
from holdfast.engine.vault.targets import FolderTarget
from holdfast.errors import ConfigError
from vault_world import SMALL, VaultWorld, read_tree

deltalake = pytest.importorskip("deltalake")
pytest.importorskip("pyiceberg")
fastavro = pytest.importorskip("fastavro")
pytest.importorskip("sqlalchemy")


def batch(*values: int) -> pa.Table:
    return pa.table({"x": pa.array(values, pa.int64()), "day": [str(value % 2) for value in values]})


class Lake:
    """A folder of a table, published and backed up."""

    def __init__(self, folder: Path, table: Any) -> None:
        self.clock, self.folder, self.table = FakeClock(), folder, table
        self.vault = VaultWorld(clock=self.clock).make()

    def back_up(self, versions: dict[str, int] | None = None, *, below: str = "") -> Any:
        store = memory_store("lake")
        for name, data in read_tree(self.folder).items():
            store.put(f"data/lake/{below}{name}", data)
        record = take_and_publish(store, dataset="lake", path="lake", epoch=1, site="here", clock=self.clock)
        source = table_source("lake", "here", open_snapshot(store, record), table=self.table, versions=versions)
        return back_up(self.vault.open(), source, SMALL).backup

    def restore(self, folder: Path) -> Any:
        vault = self.vault.open("reader")
        return restore_tables(vault, find_backup(vault), FolderTarget(folder), location=f"file://{folder}")


@pytest.fixture
def delta(tmp_path: Path) -> Lake:
    root = tmp_path / "origin"
    deltalake.write_deltalake(str(root), batch(1, 2), partition_by=["day"])
    deltalake.write_deltalake(str(root), batch(3), mode="append")
    deltalake.write_deltalake(str(root), batch(10, 11, 12), mode="overwrite")
    deltalake.DeltaTable(str(root)).delete("x = 11")
    return Lake(root, "delta")


def delta_rows(folder: Path) -> list[int]:
    return sorted(deltalake.DeltaTable(str(folder)).to_pyarrow_table()["x"].to_pylist())


@pytest.mark.parametrize(("version", "rows"), [(None, [10, 12]), (0, [1, 2]), (1, [1, 2, 3]), (2, [10, 11, 12])])
def test_a_delta_table_is_read_at_its_new_place_at_the_version_it_was_backed_up_at(
    delta: Lake, tmp_path: Path, version: int | None, rows: list[int]
) -> None:
    backup = delta.back_up(None if version is None else {"": version})
    done = delta.restore(tmp_path / "new")
    shutil.rmtree(delta.folder)
    assert delta_rows(tmp_path / "new") == rows
    assert done.rewritten == ()
    opened = deltalake.DeltaTable(str(tmp_path / "new"))
    there = {name for name in read_tree(tmp_path / "new") if not name.startswith("_delta_log/")}
    # Exactly what the version names, and nothing else.
    named = {name.removeprefix(f"{tmp_path}/new/") for name in opened.file_uris()}
    assert {name.replace("%3D", "=") for name in named} == there
    assert opened.version() == (3 if version is None else version)
    assert backup.origin["tables"][0]["version"] == opened.version()
    deltalake.write_deltalake(str(tmp_path / "new"), batch(99), mode="append")
    assert delta_rows(tmp_path / "new") == sorted([*rows, 99])


def test_a_checkpoint_of_the_log_comes_along(delta: Lake, tmp_path: Path) -> None:
    deltalake.DeltaTable(str(delta.folder)).create_checkpoint()
    deltalake.write_deltalake(str(delta.folder), batch(20), mode="append")
    delta.back_up()
    delta.restore(tmp_path / "new")
    assert delta_rows(tmp_path / "new") == [10, 12, 20]
    delta.back_up({"": 1})
    delta.restore(tmp_path / "older")
    assert not (tmp_path / "older/_delta_log/_last_checkpoint").exists()
    assert delta_rows(tmp_path / "older") == [1, 2, 3]


def test_a_version_whose_data_is_gone_is_refused(delta: Lake) -> None:
    for name in read_tree(delta.folder):
        if name.endswith(".parquet"):
            (delta.folder / name).unlink()
            break
    found = []
    for version in range(5):
        try:
            delta.back_up({"": version})
        except TableDamaged as error:
            found.append((version, str(error)))
    assert 4 in dict(found), "there is no such version"
    assert len(found) > 1
    with pytest.raises(TableDamaged):
        delta.back_up({"elsewhere": 0})


@pytest.fixture
def lake(tmp_path: Path) -> Any:
    from pyiceberg.catalog.sql import SqlCatalog

    warehouse = tmp_path / "warehouse"
    warehouse.mkdir()
    catalog = SqlCatalog("test", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{warehouse}")
    catalog.create_namespace("lake")
    made = catalog.create_table("lake.t", schema=batch(1).schema)
    made.append(batch(1, 2))
    made.append(batch(3))
    made.delete("x = 2")
    yield Lake(Path(made.location().removeprefix("file://")), "iceberg")
    catalog.engine.dispose()


def iceberg_rows(metadata_location: str) -> list[int]:
    from pyiceberg.table import StaticTable

    return sorted(StaticTable.from_metadata(metadata_location).scan().to_arrow()["x"].to_pylist())


def test_an_iceberg_table_is_read_at_its_new_place(lake: Lake, tmp_path: Path) -> None:
    backup = lake.back_up()
    done = lake.restore(tmp_path / "new")
    old = str(lake.folder)
    shutil.rmtree(lake.folder)
    (table,) = done.tables
    assert iceberg_rows(table["metadata_location"]) == [1, 3]
    assert (table["was"], table["location"]) == (f"file://{old}", f"file://{tmp_path}/new")
    assert table["dropped_snapshots"] > 0
    written = read_tree(tmp_path / "new")
    assert not [name for name, data in written.items() if old.encode() in data], "an old path is left somewhere"
    # What was written anew is named, with the digest it had and the one it has; everything else is as it was.
    from holdfast.engine.snapshot.digest import digest_of

    assert {one.path for one in done.rewritten} == {name for name in written if name.startswith("metadata/")}
    assert all(digest_of(written[one.path]) == one.new_digest != one.digest for one in done.rewritten)
    assert backup.origin["tables"][0]["metadata_file"] in written


def test_a_restored_iceberg_table_can_be_registered_and_written_to(lake: Lake, tmp_path: Path) -> None:
    from pyiceberg.catalog.sql import SqlCatalog

    lake.back_up()
    (table,) = lake.restore(tmp_path / "new").tables
    shutil.rmtree(lake.folder)
    catalog = SqlCatalog("new", uri=f"sqlite:///{tmp_path}/new.db", warehouse=f"file://{tmp_path}")
    catalog.create_namespace("lake")
    opened = catalog.register_table("lake.t", table["metadata_location"])
    opened.append(batch(7))
    opened.delete("x = 1")
    assert sorted(opened.scan().to_arrow()["x"].to_pylist()) == [3, 7]
    catalog.engine.dispose()


def test_an_older_version_of_an_iceberg_table(lake: Lake, tmp_path: Path) -> None:
    lake.back_up({"": 2})
    (table,) = lake.restore(tmp_path / "new").tables
    assert iceberg_rows(table["metadata_location"]) == [1, 2, 3]
    assert len([name for name in read_tree(tmp_path / "new") if name.endswith(".metadata.json")]) == 1
    with pytest.raises(TableDamaged):
        lake.back_up({"": 99})


def test_a_table_below_a_folder_beside_other_files(lake: Lake, tmp_path: Path) -> None:
    (lake.folder / "notes.txt").write_text("of the table's own folder, and in no version")
    backup = lake.back_up(below="tables/t/")
    assert backup.origin["tables"][0]["root"] == "tables/t"
    (table,) = lake.restore(tmp_path / "new").tables
    assert iceberg_rows(table["metadata_location"]) == [1, 3]
    assert "tables/t/notes.txt" not in read_tree(tmp_path / "new")


def test_a_broken_restore_of_a_table_goes_on(lake: Lake, tmp_path: Path) -> None:
    lake.back_up()
    first = lake.restore(tmp_path / "new")
    gone = next(one.path for one in first.rewritten if one.path.endswith(".avro"))
    (tmp_path / "new" / gone).unlink()
    second = lake.restore(tmp_path / "new")
    assert (second.restored, second.kept) == (1, first.restored - 1)
    assert second.rewritten == first.rewritten
    assert iceberg_rows(second.tables[0]["metadata_location"]) == [1, 3]


def test_a_table_at_its_own_place_is_not_written_anew(lake: Lake) -> None:
    lake.back_up()
    vault = lake.vault.open("reader")
    assert plan_moves(vault, find_backup(vault), f"file://{lake.folder}").files == {}


def test_a_table_is_published_at_another_site_with_its_new_paths(lake: Lake) -> None:
    lake.back_up()
    store, vault = memory_store("there"), lake.vault.open("reader")
    backup = find_backup(vault)
    moves = plan_moves(vault, backup, "s3://there/data/lake")
    done = restore_as_snapshot(vault, backup, store, site="there", epoch=1, clock=lake.clock, around=moves.around)
    opened = open_snapshot(store, done.record)
    prefix, there = "", frozenset(opened.manifest.paths)
    _, metadata = iceberg.metadata_of(prefix, iceberg.state("", there, opened.read).version, there, opened.read)
    assert metadata["location"] == "s3://there/data/lake"
    assert not iceberg.Files(prefix, metadata, there, opened.read).missing()


# -- deletes by position: pyiceberg reads them and does not write them, so they are put in by hand ---------------------


def add_deletes(folder: Path, how: str) -> None:
    """Delete the row at position 0 of the first data file, beside the data."""
    metadata_file = max(folder.glob("metadata/*.metadata.json"))
    metadata = json.loads(metadata_file.read_text())
    snapshot = next(s for s in metadata["snapshots"] if s["snapshot-id"] == metadata["current-snapshot-id"])
    list_file = Path(snapshot["manifest-list"].removeprefix("file://"))
    rows, header, _ = iceberg.read_avro(list_file.read_bytes(), "")
    manifest_file = Path(rows[0]["manifest_path"].removeprefix("file://"))
    entries, manifest_header, _ = iceberg.read_avro(manifest_file.read_bytes(), "")
    entry = next(one for one in entries if one["status"] != 2)
    victim = entry["data_file"]["file_path"]
    name = f"{folder}/data/deletes.{how}"
    Path(name).write_bytes(_parquet_deletes(victim) if how == "parquet" else _puffin_deletes(victim))
    file = {**entry["data_file"], "content": 1, "file_path": f"file://{name}", "record_count": 1}
    file |= {"file_format": how.upper(), "file_size_in_bytes": Path(name).stat().st_size, "split_offsets": None}
    for bound in ("lower_bounds", "upper_bounds"):
        file[bound] = [{"key": 2147483546, "value": victim.encode()}, {"key": 2147483545, "value": b"\0" * 8}]
    schema = json.loads(manifest_header["avro.schema"])
    if how == "puffin":
        file |= {"content_offset": 4, "content_size_in_bytes": 48, "referenced_data_file": victim}
        _add_fields(schema)
    own = {key: value for key, value in manifest_header.items() if not key.startswith("avro.")} | {"content": "deletes"}
    made = folder / "metadata" / "deletes-m0.avro"
    made.write_bytes(_avro(schema, [{**entry, "status": 1, "data_file": file}], own))
    new = {**rows[0], "manifest_path": f"file://{made}", "manifest_length": made.stat().st_size, "content": 1}
    own = {key: value for key, value in header.items() if not key.startswith("avro.")}
    list_file.write_bytes(_avro(json.loads(header["avro.schema"]), [*rows, new], own))
    if how == "puffin":
        metadata_file.write_text(json.dumps({**metadata, "format-version": 3, "next-row-id": 0}))


def _avro(schema: Any, rows: list[Any], own: dict[str, str]) -> bytes:
    sink = io.BytesIO()
    fastavro.writer(sink, schema, rows, metadata=own)
    return sink.getvalue()


def _add_fields(schema: Any) -> None:
    fields = next(field for field in schema["fields"] if field["name"] == "data_file")["type"]["fields"]
    fields += [
        {"name": "referenced_data_file", "type": ["null", "string"], "default": None, "field-id": 143},
        {"name": "content_offset", "type": ["null", "long"], "default": None, "field-id": 144},
        {"name": "content_size_in_bytes", "type": ["null", "long"], "default": None, "field-id": 145},
    ]


def _parquet_deletes(victim: str) -> bytes:
    fields = [
        pa.field("file_path", pa.string(), nullable=False, metadata={"PARQUET:field_id": "2147483546"}),
        pa.field("pos", pa.int64(), nullable=False, metadata={"PARQUET:field_id": "2147483545"}),
    ]
    sink = io.BytesIO()
    pq.write_table(pa.table([[victim], [0]], schema=pa.schema(fields)), sink)
    return sink.getvalue()


def _puffin_deletes(victim: str) -> bytes:
    """One deletion vector with position 0: a 64-bit roaring bitmap with one array container."""
    bitmap = (
        (1).to_bytes(8, "little")  # bitmaps
        + (0).to_bytes(4, "little")  # key
        + (12346).to_bytes(4, "little")
        + (1).to_bytes(4, "little")  # containers
        + (0).to_bytes(2, "little")
        + (0).to_bytes(2, "little")  # one value
        + (16).to_bytes(4, "little")  # offset
        + (0).to_bytes(2, "little")
    )
    import zlib

    magic = b"\xd1\xd3\x39\x64"
    body = (len(magic) + len(bitmap)).to_bytes(4, "big") + magic + bitmap
    blob = body + zlib.crc32(magic + bitmap).to_bytes(4, "big")
    footer = {
        "blobs": [
            {
                "type": "deletion-vector-v1",
                "fields": [2147483645],
                "snapshot-id": -1,
                "sequence-number": -1,
                "offset": 4,
                "length": len(blob),
                "properties": {"referenced-data-file": victim, "cardinality": "1"},
            }
        ],
        "properties": {},
    }
    payload = json.dumps(footer).encode()
    return b"PFA1" + blob + b"PFA1" + payload + len(payload).to_bytes(4, "little") + bytes(4) + b"PFA1"


@pytest.mark.parametrize("how", ["parquet", "puffin"])
def test_rows_deleted_beside_the_data_stay_deleted_at_the_new_place(lake: Lake, tmp_path: Path, how: str) -> None:
    add_deletes(lake.folder, how)
    newest = f"file://{max(lake.folder.glob('metadata/*.metadata.json'))}"
    before = iceberg_rows(newest)
    assert len(before) == 1, "the deletes put in by hand do not work"
    lake.back_up()
    done = lake.restore(tmp_path / "new")
    old = str(lake.folder).encode()
    shutil.rmtree(lake.folder)
    assert iceberg_rows(done.tables[0]["metadata_location"]) == before
    assert f"data/deletes.{how}" in {one.path for one in done.rewritten}
    assert not [name for name, data in read_tree(tmp_path / "new").items() if old in data]


def test_a_damaged_deletion_vector_is_refused_before_anything_is_written(lake: Lake, tmp_path: Path) -> None:
    add_deletes(lake.folder, "puffin")
    file = lake.folder / "data/deletes.puffin"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    lake.back_up()
    with pytest.raises(TableDamaged, match="Puffin"):
        lake.restore(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_is_written_anew_is_the_same_every_time(lake: Lake) -> None:
    found = read_tree(lake.folder)
    one, other = (move_iceberg("", found, found.__getitem__, "gs://b/x").files for _ in range(2))
    assert one == other != {}


def test_the_location_of_a_table_at_a_site() -> None:
    def site(cloud: str, bucket: str = "b", prefix: str = "") -> Site:
        return Site(cloud=cloud, region="r", jurisdiction="EU", connection="c", bucket=bucket, prefix=prefix)

    assert table_location(site("aws", prefix="p"), "data/x") == "s3://b/p/data/x"
    assert table_location(site("gcp"), "data/x/") == "gs://b/data/x"
    assert table_location(site("local", "/srv/b"), "data/x") == "file:///srv/b/data/x"
    assert table_location(site("azure"), "data/x", account="a") == "abfss://b@a.dfs.core.windows.net/data/x"
    with pytest.raises(ConfigError):
        table_location(site("azure"), "data/x")
