"""A restore drill measures, cleans up and signs however it ends; it passes only when everything is known to hold."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.engine.drill.evidence import EvidenceInvalid, load_or_create_key, verify_evidence, write_evidence
from holdfast.engine.drill.golden import answers_to_record
from holdfast.engine.drill.phases import new_drill_id
from holdfast.engine.drill.restore_drill import run_restore_drill
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.recovery.interface import Progress
from holdfast.engine.snapshot import open_snapshot, put_snapshot, take_and_publish
from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.sources import SnapshotSource
from holdfast.engine.vault.tables import table_source
from holdfast.errors import UnknownName
from vault_world import SMALL, VaultWorld
from world import AWS, AZURE, DATASET, GCP, GROUP, MODEL, Killed, World, make_world

pytest.importorskip("great_expectations")
SUITE = {
    "name": "prices",
    "expectations": [
        {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 10, "max_value": 1000}},
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "price", "min_value": 0, "max_value": 99}},
    ],
}


def prices(rows: int = 50, *, low: float = 1.0, **more: Any) -> bytes:
    sink = pa.BufferOutputStream()
    columns = {"day": list(range(rows)), "price": [low + day % 90 for day in range(rows)], **more}
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


@dataclass
class Drills:
    """Three clouds in memory; the dataset and the model are at AWS, the vault at Azure, so drills go to Google."""

    world: World
    vault: VaultWorld
    output: Path
    seen: list[Progress] = field(default_factory=list)
    at_progress: Any = None

    def publish(self, files: dict[str, bytes]) -> Any:
        store = self.world.store(AWS)
        for name, data in files.items():
            store.put(f"data/market-data/{name}", data)
        return take_and_publish(store, dataset=DATASET, path="market-data", epoch=1, site=AWS, clock=self.world.clock)

    def publish_model(self, files: dict[str, bytes]) -> Any:
        return put_snapshot(
            self.world.store(AWS),
            dataset=MODEL,
            files=files,
            epoch=1,
            site=AWS,
            labels={},
            clock=self.world.clock,
        )

    def back_up(self, record: Any, **more: Any) -> Any:
        opened = open_snapshot(self.world.store(AWS), record)
        return back_up(self.vault.open(), SnapshotSource(record.dataset, AWS, opened, **more), SMALL).backup

    def run(self, subject: str = DATASET, **more: Any) -> Any:
        return run_restore_drill(
            self.world,
            subject,
            open_vault=self._open,
            vault_site=AZURE,
            output=self.output,
            progress=self._progress,
            **more,
        )

    def _open(self) -> Any:
        self.world.clock.advance(2)
        return self.vault.open("reader")

    def _progress(self, told: Progress) -> None:
        self.seen.append(told)
        self.world.clock.advance(0.25)
        if self.at_progress is not None:
            self.at_progress(told)

    def left(self, site: str = GCP) -> list[str]:
        return [info.key for info in self.world.bare(site).list("restore-drills/")]

    def verified(self) -> Any:
        key = load_or_create_key(self.world.environ).public_key()
        return verify_evidence(self.output, public_key=key)


@pytest.fixture
def drills(tmp_path: Path) -> Drills:
    world = make_world()
    world.environ["HOLDFAST_STATE"] = str(tmp_path / "state")
    (tmp_path / "prices.json").write_text(json.dumps(SUITE))
    dataset = world.topology.dataset(DATASET).model_copy(update={"expectations": str(tmp_path / "prices.json")})
    world.topology = world.topology.model_copy(update={"datasets": {DATASET: dataset}})
    for info in list(world.store(AWS).list("data/market-data/")):
        world.store(AWS).delete(info.key)
    vault = VaultWorld(clock=world.clock)
    return Drills(world, vault.make(), tmp_path / "evidence")


def claims(journal: Any) -> dict[str, bool | None]:
    return {claim.name: claim.holds for claim in journal.claims}


def model_files(seed: int = 1, features: int = 14) -> dict[str, bytes]:
    xgboost = pytest.importorskip("xgboost")
    rng = np.random.default_rng(seed)
    table = xgboost.DMatrix(rng.normal(size=(60, features)), label=rng.normal(size=60))
    booster = xgboost.train({"seed": seed, "nthread": 1}, table, num_boost_round=5)
    return {"model.ubj": bytes(booster.save_raw("ubj")), "notes.txt": b"a model"}


def test_a_drill_of_a_dataset_passes_and_its_evidence_verifies(drills: Drills) -> None:
    backup = drills.back_up(drills.publish({"a/1.parquet": prices(), "a/2.parquet": prices(30), "readme": b"x" * 99}))
    drills.world.clock.advance(20)
    journal = drills.run()
    assert journal.verdict == "pass", journal.as_document()
    assert set(claims(journal)) == {
        "another_cloud",
        "history_witnessed",
        "objects_verified",
        "rows_equal",
        "schema_equal",
        "expectations_met",
        "rto_met",
        "rpo_met",
        "cleaned_up",
    }
    assert (journal.source["cloud"], journal.vault["cloud"], journal.target["cloud"]) == ("aws", "azure", "gcp")
    assert journal.content["found"]["rows"] == 80
    assert journal.backup["backup"] == backup.backup_id
    assert journal.rpo_seconds == 20.0
    parts = {one["name"]: one["seconds"] for one in journal.phases}
    assert list(parts) == ["open_vault", "find_backup", "choose_target", "restore", "verify", "validate", "clean_up"]
    assert parts["open_vault"] == journal.rto_seconds["open_vault"] == 2.0
    assert journal.rto_seconds["total"] > 2.0
    assert drills.left() == []
    found = drills.verified()
    assert (found.status, found.verdict, found.pinned) == ("completed", "pass", True)
    folder = f"evidence/{journal.drill_id}/"
    for site in (AWS, GCP, AZURE):
        store = drills.world.bare(site)
        kept = {info.key.removeprefix(folder): store.get(info.key) for info in store.list(folder)}
        assert kept == {path.name: path.read_bytes() for path in drills.output.iterdir()}


def test_a_named_backup_and_a_point_in_time_are_restored(drills: Drills) -> None:
    first = drills.back_up(drills.publish({"1.parquet": prices(20)}))
    drills.world.clock.advance(60)
    second = drills.back_up(drills.publish({"2.parquet": prices(30)}))
    assert drills.run().backup["backup"] == second.backup_id
    assert drills.run(backup=first.backup_id[:8]).backup["backup"] == first.backup_id
    journal = drills.run(at=second.taken_at - timedelta(seconds=1))
    assert (journal.backup["backup"], journal.content["found"]["rows"]) == (first.backup_id, 20)


def test_a_damaged_backup_fails_and_is_signed_and_nothing_is_left(drills: Drills) -> None:
    drills.back_up(drills.publish({f"{n}.bin": os.urandom(40_000) for n in range(6)} | {"p.parquet": prices()}))
    for info in list(drills.vault.store.list("packs/")):
        if info.size_bytes > 60_000:
            data = bytearray(drills.vault.store.get(info.key))
            data[len(data) // 2] ^= 1
            drills.vault.store.put(info.key, bytes(data))
    journal = drills.run()
    assert (journal.status, journal.verdict) == ("failed", "fail")
    assert journal.error["error"] == "Damaged"
    assert claims(journal)["objects_verified"] is None
    assert claims(journal)["rto_met"] is None
    assert drills.left() == []
    assert drills.verified().verdict == "fail"


def test_an_object_that_reads_back_otherwise_fails(drills: Drills) -> None:
    drills.back_up(drills.publish({"1.parquet": prices(), "2.bin": b"2" * 1000}))
    store = drills.world.bare(GCP)

    def bend(told: Progress) -> None:
        if (told.step, told.phase) == ("verify", "begun"):
            (key,) = [one for one in drills.left() if one.endswith("2.bin")]
            store.put(key, b"3" * 1000)
            store.put(key + ".more", b"")

    drills.at_progress = bend
    journal = drills.run()
    assert claims(journal)["objects_verified"] is False
    assert (journal.verified["wrong"], journal.verified["unexpected"]) == (["2.bin"], ["2.bin.more"])
    assert (journal.status, journal.verdict) == ("completed", "fail")
    assert drills.left() == []


def test_wrong_data_fails_by_its_expectations_alone(drills: Drills) -> None:
    drills.back_up(drills.publish({"1.parquet": prices(low=60.0)}))
    journal = drills.run()
    assert [name for name, holds in claims(journal).items() if holds is not True] == ["expectations_met"]
    assert journal.expectations["unmet"][0]["column"] == "price"
    assert journal.verdict == "fail"


@pytest.mark.parametrize("table", ["delta", "iceberg"])
def test_a_lake_table_is_whole_at_its_new_place_or_the_drill_fails(drills: Drills, tmp_path: Path, table: Any) -> None:
    folder = _table_of(table, tmp_path)
    record = drills.publish({str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    opened = open_snapshot(drills.world.store(AWS), record)
    source = table_source(DATASET, AWS, opened, table=table)
    back_up(drills.vault.open(), source, SMALL)
    journal = drills.run()
    assert journal.verdict == "pass", journal.as_document()
    assert [(one["format"], one["whole"]) for one in journal.tables] == [(table, True)]
    assert bool(journal.restored["rewritten"]) is (table == "iceberg")

    torn = replace(source, only=source.only - {next(p for p in source.only if "/" in p and p.endswith(".parquet"))})
    drills.world.clock.advance(1)
    back_up(drills.vault.open(), torn, SMALL)
    journal = drills.run()
    assert journal.verdict == "fail"
    assert "TableDamaged" in (journal.error or {}).get("error", "") or claims(journal)["tables_whole"] is False


def _table_of(table: str, tmp_path: Path) -> Path:
    rows = pq.read_table(pa.BufferReader(prices(50)))
    if table == "delta":
        deltalake = pytest.importorskip("deltalake")
        deltalake.write_deltalake(
            str(tmp_path / "delta"), rows.append_column("part", [["a"] * 50]), partition_by=["part"]
        )
        return tmp_path / "delta"
    pytest.importorskip("fastavro")
    sql = pytest.importorskip("pyiceberg.catalog.sql")
    (tmp_path / "warehouse").mkdir()
    catalog = sql.SqlCatalog("t", uri=f"sqlite:///{tmp_path}/c.db", warehouse=f"file://{tmp_path}/warehouse")
    catalog.create_namespace("lake")
    made = catalog.create_table("lake.t", schema=rows.schema)
    made.append(rows)
    catalog.engine.dispose()
    return Path(made.location().removeprefix("file://"))


@pytest.mark.parametrize(
    ("other", "broken"),
    [(prices(49), {"rows_equal"}), (prices(50, volume=[1] * 50), {"rows_equal", "schema_equal"})],
)
def test_rows_and_columns_are_compared_with_what_the_backup_recorded(
    drills: Drills, other: bytes, broken: set[str]
) -> None:
    recorded = drills.back_up(drills.publish({"1.parquet": other})).origin["content"]
    drills.back_up(drills.publish({"1.parquet": prices(50)}), notes={"content": recorded})
    found = claims(drills.run())
    assert {name for name, holds in found.items() if holds is False} == broken


def test_what_a_backup_did_not_record_is_unknown_and_no_pass(drills: Drills) -> None:
    drills.back_up(drills.publish({"1.parquet": prices()}), describes=False)
    journal = drills.run()
    assert claims(journal)["rows_equal"] is None
    assert (journal.status, journal.verdict) == ("completed", "fail")
    assert "unknown" in (drills.output / "report.html").read_text()


@pytest.mark.parametrize("said", ["text", 7, [], {"format": "holdfast.content/1"}, {"rows": "many"}])
def test_what_somebody_with_a_writers_key_records_is_unknown_and_never_a_crash(drills: Drills, said: Any) -> None:
    notes = {"content": said, "tables": said, "labels": said, "answers": said}
    drills.back_up(drills.publish({"1.parquet": prices()}), notes=notes)
    journal = drills.run()
    assert (journal.status, journal.verdict, claims(journal)["rows_equal"]) == ("completed", "fail", None)
    drills.back_up(drills.publish_model(model_files()), notes=notes)
    assert drills.run(MODEL).verdict == "pass"  # by the snapshot a site still has


def test_a_model_is_loaded_and_answers_as_it_did(drills: Drills) -> None:
    record = drills.publish_model(model_files())
    opened = open_snapshot(drills.world.store(AWS), record)
    drills.back_up(record, notes=answers_to_record(drills.world, MODEL, opened))
    journal = drills.run(MODEL)
    assert journal.verdict == "pass", journal.as_document()
    assert (journal.model["largest_difference"], journal.model["questions"]) == (0.0, 8)
    assert journal.model["reference"] == "recorded with the backup"
    assert drills.left() == []


def test_a_model_that_answers_otherwise_fails(drills: Drills) -> None:
    other = drills.publish_model(model_files(seed=2))
    notes = answers_to_record(drills.world, MODEL, open_snapshot(drills.world.store(AWS), other))
    drills.back_up(drills.publish_model(model_files()), notes=notes)
    journal = drills.run(MODEL)
    assert [name for name, holds in claims(journal).items() if holds is not True] == ["answers_equal"]
    assert journal.verdict == "fail"


def test_answers_that_were_not_recorded_are_those_of_a_site_that_has_the_snapshot(drills: Drills) -> None:
    drills.back_up(drills.publish_model(model_files()))
    journal = drills.run(MODEL)
    assert journal.verdict == "pass"
    assert AWS in journal.model["reference"]
    drills.world.board.cut.add(AWS)
    journal = drills.run(MODEL)
    assert claims(journal)["answers_equal"] is None
    assert (journal.status, journal.verdict) == ("completed", "fail")


@pytest.mark.parametrize("files", [{"model.ubj": b"no model"}, {"other.bin": b""}, {"model.ubj": b"{}"}])
def test_a_model_that_does_not_load_fails(drills: Drills, files: dict[str, bytes]) -> None:
    drills.back_up(drills.publish_model(files))
    journal = drills.run(MODEL)
    assert claims(journal)["model_loads"] is False
    assert journal.verdict == "fail"


def test_a_model_of_other_features_does_not_answer(drills: Drills) -> None:
    drills.back_up(drills.publish_model(model_files(features=3)))
    journal = drills.run(MODEL)
    assert (claims(journal)["model_loads"], claims(journal)["answers_equal"]) == (True, False)
    assert journal.verdict == "fail"


@pytest.mark.parametrize("step", ["open_vault", "restore", "verify", "validate"])
def test_a_signal_aborts_and_everything_is_removed_and_signed(drills: Drills, step: str) -> None:
    drills.back_up(drills.publish({"1.parquet": prices(), "2.bin": b"2"}))

    def stop(told: Progress) -> None:
        if (told.step, told.phase) == (step, "begun"):
            os.kill(os.getpid(), signal.SIGTERM)

    drills.at_progress = stop
    journal = drills.run()
    assert (journal.status, journal.verdict) == ("interrupted", "aborted")
    assert claims(journal)["cleaned_up"] is True
    assert drills.left() == []
    assert drills.verified().verdict == "aborted"


def test_whatever_ends_the_process_everything_is_removed_and_signed(drills: Drills) -> None:
    drills.back_up(drills.publish({"1.parquet": prices()}))

    def die(told: Progress) -> None:
        if (told.step, told.phase) == ("validate", "begun"):
            raise Killed

    drills.at_progress = die
    with pytest.raises(Killed):
        drills.run()
    assert drills.left() == []
    assert (drills.verified().status, drills.verified().verdict) == ("interrupted", "aborted")


def test_an_error_of_its_own_is_a_signed_failure_and_is_raised(drills: Drills) -> None:
    def broken() -> Any:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        run_restore_drill(drills.world, DATASET, open_vault=broken, vault_site=AZURE, output=drills.output)
    assert drills.verified().verdict == "fail"


def test_a_vault_that_does_not_answer_and_a_backup_that_is_not_there_fail(drills: Drills) -> None:
    assert drills.run().error["error"] == "UnknownBackup"
    assert drills.verified().verdict == "fail"

    def away() -> Any:
        raise StoreUnavailable("the vault is away")

    journal = run_restore_drill(drills.world, DATASET, open_vault=away, vault_site=AZURE, output=drills.output)
    assert (journal.verdict, journal.vault["name"]) == ("fail", None)
    assert drills.verified().verdict == "fail"


def test_a_drill_never_goes_to_the_cloud_of_the_vault_or_the_source(drills: Drills) -> None:
    drills.back_up(drills.publish({"1.parquet": prices()}))
    for site in (AWS, AZURE):
        journal = drills.run(target_site=site)
        assert (journal.status, journal.verdict, journal.error["error"]) == ("aborted", "aborted", "NoPlaceForDrill")
        assert drills.verified().verdict == "aborted"
    assert not drills.left(AWS)
    assert not drills.left(AZURE)


def test_residency_keeps_a_drill_away(drills: Drills) -> None:
    drills.back_up(drills.publish({"1.parquet": prices()}))
    gcp = drills.world.topology.site(GCP).model_copy(update={"jurisdiction": "US"})
    sites = {**drills.world.topology.sites, GCP: gcp}
    drills.world.topology = drills.world.topology.model_copy(update={"sites": sites})
    journal = drills.run()
    assert (journal.verdict, journal.error["error"]) == ("aborted", "NoPlaceForDrill")
    assert "jurisdiction" in journal.error["found"]


def test_objectives_that_are_missed_fail(drills: Drills) -> None:
    drills.back_up(drills.publish({"1.parquet": prices()}))
    drills.world.clock.advance(121)
    journal = drills.run()
    assert (claims(journal)["rpo_met"], journal.verdict) == (False, "fail")

    drills.at_progress = lambda told: drills.world.clock.advance(15)
    assert claims(drills.run())["rto_met"] is False


def test_an_older_state_of_the_vault_is_told_by_its_witnesses(drills: Drills) -> None:
    record = drills.publish({"1.parquet": prices()})
    drills.back_up(record)
    newest = drills.back_up(record, describes=False)
    for folder in ("log", "log-copies"):
        drills.vault.store.delete(f"{folder}/{newest.sequence:012d}.json")
    journal = drills.run()
    assert [name for name, holds in claims(journal).items() if holds is not True] == ["history_witnessed"]
    assert journal.verdict == "fail"


class _Keeps:
    """A store that lets nothing be removed."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def delete(self, key: str) -> None:
        raise StoreUnavailable("not now", where=key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_what_cannot_be_removed_is_no_pass_and_a_later_drill_removes_it(drills: Drills) -> None:
    drills.back_up(drills.publish({"1.parquet": prices()}))
    stores = drills.world._stores
    whole, stores[GCP] = stores[GCP], _Keeps(stores[GCP])
    journal = drills.run()
    assert (claims(journal)["cleaned_up"], journal.verdict) == (None, "fail")
    stores[GCP] = whole
    assert drills.left()
    drills.world.clock.advance(6 * 86400)
    drills.run()
    assert drills.left(), "a drill that may still run was removed"
    drills.world.clock.advance(2 * 86400)
    later = drills.run()
    assert later.cleanup["left_by_earlier_drills"] == [journal.drill_id]
    assert drills.left() == []


def test_unknown_names_write_nothing(drills: Drills) -> None:
    for kwargs in ({"subject": "nothing"}, {"group": "nobody"}):
        with pytest.raises(UnknownName):
            drills.run(**kwargs)
    assert not drills.output.exists()


def test_a_verdict_its_claims_do_not_bear_out_is_no_evidence(drills: Drills, tmp_path: Path) -> None:
    drills.back_up(drills.publish({"1.parquet": prices(low=60.0)}))
    document = drills.run().as_document()
    key = load_or_create_key(drills.world.environ)
    for change in (
        {"verdict": "pass"},
        {"claims": document["claims"][:2]},
        {"format": "holdfast.restore-drill/9"},
        {"more": 1},
    ):
        write_evidence({**document, **change}, tmp_path / "forged", key)
        with pytest.raises(EvidenceInvalid):
            verify_evidence(tmp_path / "forged")
    write_evidence(document, tmp_path / "forged", key)
    assert verify_evidence(tmp_path / "forged").verdict == "fail"


def test_a_drill_id_that_would_remove_something_else_is_refused(drills: Drills) -> None:
    for drill_id in ("", "../x", "20260101T000000Z-a/b", "x"):
        with pytest.raises(Exception, match="restore drill's id"):
            drills.run(drill_id=drill_id or " ")
    assert drills.run(drill_id=new_drill_id(drills.world.clock.now())).group == GROUP
