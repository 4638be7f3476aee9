"""Iceberg tables on the command line: where each is read from now, or that it cannot be, which is no success."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pytest

from folders import SITES, add_vault, folder_runtime, make_folders
from holdfast.engine.pipeline import replicas
from holdfast.engine.pipeline.datasets import publish_dataset
from holdfast.engine.pipeline.vaults import restoring
from vault_command import Vaults
from vault_world import read_tree, write_tree

pytest.importorskip("pyiceberg")
pytest.importorskip("fastavro")
pytest.importorskip("sqlalchemy")


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vaults:
    """A table written elsewhere lies in the dataset's folder, and is backed up."""
    from pyiceberg.catalog.sql import SqlCatalog

    (tmp_path / "warehouse").mkdir()
    catalog = SqlCatalog("test", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/warehouse")
    catalog.create_namespace("lake")
    numbers = pa.table({"x": pa.array([1, 2, 3], pa.int64())})
    table = catalog.create_table("lake.t", schema=numbers.schema)
    table.append(numbers)
    catalog.engine.dispose()
    topology = add_vault(make_folders(tmp_path, prices={"sync": {"table": "iceberg"}}))
    write_tree(tmp_path / SITES[0] / "data" / "prices", read_tree(Path(table.location().removeprefix("file://"))))
    publish_dataset(folder_runtime(topology), "desk", "prices")
    made = Vaults(topology).here(monkeypatch)
    made("init")
    made("backup", "group")
    return made


def numbers_at(metadata_location: str) -> list[int]:
    from pyiceberg.table import StaticTable

    return sorted(StaticTable.from_metadata(metadata_location).scan().to_arrow()["x"].to_pylist())


def test_a_restore_says_where_the_table_is_read_from(lake: Vaults, tmp_path: Path) -> None:
    (table,) = lake.json("restore", "--to", str(tmp_path / "out"))["tables"]
    assert numbers_at(table["metadata_location"]) == [1, 2, 3]
    assert table["metadata_location"] in lake("restore", "--to", str(tmp_path / "out")).stdout


def test_a_table_that_cannot_be_moved_is_said_and_is_no_success(
    lake: Vaults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "fastavro", None)
        done = lake.json("restore", "--to", str(tmp_path / "out"), code=1)
        assert "fastavro" in done["tables"][0]["not_moved"]
        assert done["damaged"] == {}
        assert "cannot be read here" in lake("restore", "--to", str(tmp_path / "again"), code=1).stdout
    assert read_tree(tmp_path / "out")  # its files are there, as they were
    lake("restore", "--to", str(tmp_path / "out"), code=3)  # and are not overwritten with others
    (table,) = lake.json("restore", "--overwrite", "--to", str(tmp_path / "out"))["tables"]
    assert numbers_at(table["metadata_location"]) == [1, 2, 3]


@pytest.fixture
def nowhere(lake: Vaults, monkeypatch: pytest.MonkeyPatch) -> Vaults:
    monkeypatch.setattr(restoring, "location_of", lambda *_arguments: None)
    return lake


def test_at_a_place_nobody_knows_the_name_of_no_table_is_taken_for_moved(nowhere: Vaults) -> None:
    done = nowhere.json("restore", "--to-site", f"{SITES[1]}:restored", code=1)
    assert "nobody knows where the table would be" in done["tables"][0]["not_moved"]


def test_nothing_is_published_where_a_table_would_name_its_old_place(nowhere: Vaults) -> None:
    before = replicas.snapshots(folder_runtime(nowhere.topology), "desk", "prices")
    said = nowhere("restore", "--live", "--reason", "x", "--yes", code=2).stderr
    assert "nobody knows where the table would be" in said
    assert replicas.snapshots(folder_runtime(nowhere.topology), "desk", "prices") == before


def test_a_live_restore_says_where_the_table_is_read_from(lake: Vaults) -> None:
    done = lake.json("restore", "--live", "--reason", "x", "--yes")
    (table,) = done["tables"]
    assert table["location"] == f"file://{lake.topology.parent}/{SITES[0]}/data/prices"
    assert done["rewritten"]
    assert all(one["path"].startswith("metadata/") for one in done["rewritten"])
