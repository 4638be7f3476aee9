"""The residency proof finds every copy, and never takes what it does not know for lawful."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from folders import SITES, add_vault, folder_runtime, make_folders
from holdfast.cli.main import app
from holdfast.clock import SystemClock
from holdfast.engine.audit.residency import Copy, CopyKind, ResidencyReport, Verdict, prove
from holdfast.engine.drill.phases import new_drill_id
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.pipeline import sync
from holdfast.engine.pipeline.datasets import publish_dataset
from holdfast.engine.pipeline.failover import identifier
from holdfast.engine.pipeline.vaults.residency import data_of
from holdfast.engine.policy import residency_for
from holdfast.engine.recovery.subjects import job_of_run
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot import take_and_publish

HOME, AWAY, ABROAD = SITES
NOW = datetime(2026, 11, 30, 1, 2, 3, tzinfo=UTC)


class World:
    """Two sites in the Union and one abroad; `prices` may not leave, `free` may."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.topology = make_folders(folder, prices={"residency": "eu-only"}, free={})

    def change(self, **parts: Any) -> None:
        document = yaml.safe_load(self.topology.read_text())
        document.update(parts)
        self.topology.write_text(yaml.safe_dump(document))

    def runtime(self) -> Runtime:
        return folder_runtime(self.topology)

    def put(self, site: str, key: str, data: bytes = b"some bytes") -> Path:
        file = self.folder / site / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    def sync(self, *datasets: str) -> None:
        runtime = self.runtime()
        for name in datasets:
            self.put(HOME, f"data/{name}/one.bin", name.encode())
            sync.run(runtime, "desk", name)
        runtime.decisions.ship()

    def prove(self, **kwargs: Any) -> ResidencyReport:
        return prove(self.runtime(), **kwargs)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("HOLDFAST_STATE", str(tmp_path / "state"))
    return World(tmp_path)


def at(report: ResidencyReport, site: str, subject: str | None = None, kind: CopyKind | None = None) -> list[Copy]:
    return [
        one for one in report.copies if one.site == site and subject in (None, one.subject) and kind in (None, one.kind)
    ]


def test_every_copy_is_there_with_what_allowed_it(world: World) -> None:
    world.sync("prices", "free")
    report = world.prove()
    assert report.verdict is Verdict.LAWFUL
    (replica,) = at(report, AWAY, "prices")
    assert (replica.kind, replica.residency_class, replica.objects, replica.size_bytes) == ("snapshot", "eu-only", 1, 6)
    assert replica.decision is not None
    logged = [
        json.loads(line)
        for file in (world.folder / AWAY / "decisions").rglob("*.jsonl")
        for line in file.read_bytes().splitlines()
    ]
    (allowed,) = (one for one in logged if one["id"] == replica.decision)
    assert (allowed["target"]["site"], allowed["action"], allowed["allowed"]) == (AWAY, "copy", True)
    assert allowed["policy_sha256"] == replica.decision_policy_sha256 == replica.policy_sha256
    assert [one["target"]["site"] for one in logged if not one["allowed"]] == [ABROAD]
    assert at(report, ABROAD, "prices") == []
    assert {one.subject for one in at(report, ABROAD)} == {"free"}
    (taken,) = at(report, HOME, "prices")
    assert taken.undecided  # its writers brought it there, and asked nobody
    assert taken.verdict is Verdict.LAWFUL


def test_a_copy_that_may_not_be_there_is_a_breach(world: World) -> None:
    world.sync("prices")
    shutil.copytree(world.folder / AWAY / "data", world.folder / ABROAD / "data", dirs_exist_ok=True)
    shutil.copytree(world.folder / AWAY / "snapshots", world.folder / ABROAD / "snapshots", dirs_exist_ok=True)
    report = world.prove()
    assert report.verdict is Verdict.BREACH
    (breach,) = report.of(Verdict.BREACH)
    assert (breach.site, breach.kind, breach.jurisdiction, breach.decision) == (ABROAD, "snapshot", "US", None)
    assert "nothing in residency.eu-only permits it" in breach.why


def test_objects_no_snapshot_names_are_found_where_they_may_not_be(world: World) -> None:
    world.sync("prices")
    world.put(ABROAD, "data/prices/copied-by-hand.bin", b"123")
    world.put(HOME, "data/prices/not-yet-published.bin")
    report = world.prove()
    (breach,) = report.of(Verdict.BREACH)
    assert (breach.kind, breach.subject, breach.objects, breach.size_bytes) == ("stray", "prices", 1, 3)
    assert "copied-by-hand.bin" in breach.item
    (fresh,) = at(report, HOME, "prices", CopyKind.STRAY)
    assert (fresh.objects, fresh.verdict) == (1, Verdict.LAWFUL)


@pytest.mark.parametrize(
    "key",
    [
        "data/nobody/x",
        "data/loose",
        "restored-by-somebody/x",
        "loose-at-the-root",
        "runs/loose",
        "vault/one-that-was/packs/x",
        "restore-drills/20260101T000000Z-a/x",
        "data/a b/'",
    ],
)
def test_what_nobody_names_is_unknown(world: World, key: str) -> None:
    world.sync("prices")
    world.put(ABROAD, key)
    report = world.prove()
    assert report.verdict is Verdict.UNKNOWN
    (stray,) = report.of(Verdict.UNKNOWN)
    assert (stray.kind, stray.site, stray.objects) == ("stray", ABROAD, 1)


def test_what_another_snapshot_says_of_a_folder_does_not_make_it_anothers(world: World) -> None:
    world.sync("prices", "free")
    world.put(ABROAD, "data/prices/taken-along.bin")
    # Somebody publishes the bound folder under the free name, abroad.
    take_and_publish(
        world.runtime().store(ABROAD), dataset="elsewhere", path="prices", epoch=1, site=ABROAD, clock=SystemClock()
    )
    (breach,) = world.prove().of(Verdict.BREACH)
    assert (breach.kind, breach.subject, breach.objects) == ("stray", "prices", 1)


def test_a_class_that_was_tightened_makes_what_was_allowed_a_breach(world: World) -> None:
    world.change(residency={"eu-only": {"jurisdictions": ["EU", "US"]}})
    world.sync("prices")
    assert world.prove().verdict is Verdict.LAWFUL
    world.change(residency={"eu-only": {"jurisdictions": ["EU"]}})
    (breach,) = world.prove().of(Verdict.BREACH)
    assert breach.site == ABROAD
    assert breach.decision is not None
    assert breach.decision_policy_sha256 != breach.policy_sha256


def test_a_decision_after_the_copy_came_did_not_let_it_in(world: World) -> None:
    world.sync("prices")
    (replica,) = at(world.prove(), AWAY, "prices")
    later = world.runtime()
    later.clock = later.decisions._clock = _Later(later.clock)  # type: ignore[union-attr]
    from holdfast.engine.policy import check_hop

    topology = later.topology
    made = check_hop("prices", residency_for(topology, "prices"), AWAY, topology.sites)
    assert made is not None
    assert made.ids
    later.decisions.ship()
    (again,) = at(world.prove(), AWAY, "prices")
    assert again.decision == replica.decision
    assert made.ids != (replica.decision,)


class _Later:
    def __init__(self, clock: Any) -> None:
        self._clock = clock

    def now(self) -> Any:
        return self._clock.now() + timedelta(hours=1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)


def test_a_site_that_cannot_be_reached_is_unknown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.sync("prices")
    runtime = world.runtime()
    store = type(runtime).store

    def away(self: Runtime, site: str, **kwargs: Any) -> Any:
        if site == AWAY:
            raise StoreUnavailable("no answer", where=site)
        return store(self, site, **kwargs)

    monkeypatch.setattr(type(runtime), "store", away)
    report = prove(runtime)
    assert report.verdict is Verdict.UNKNOWN
    (gone,) = at(report, AWAY)
    assert (gone.kind, gone.verdict, gone.subject) == ("unreadable", Verdict.UNKNOWN, "the whole site")
    assert at(report, HOME, "prices")[0].verdict is Verdict.LAWFUL
    # A breach elsewhere is a breach all the same.
    world.put(ABROAD, "data/prices/x")
    assert prove(runtime).verdict is Verdict.BREACH


def test_a_commit_record_that_cannot_be_read_makes_its_dataset_unknown(world: World) -> None:
    world.sync("prices")
    (record,) = (world.folder / AWAY / "snapshots/prices").glob("*.json")
    record.write_bytes(b"{}")
    report = world.prove()
    assert report.verdict is Verdict.UNKNOWN
    (bad,) = report.of(Verdict.UNKNOWN)
    assert (bad.kind, bad.subject, bad.site) == ("unreadable", "snapshots of prices", AWAY)


def test_a_hole_in_the_decision_log_is_not_passed_over(world: World) -> None:
    world.sync("prices")
    found = sorted(f for site in SITES for f in (world.folder / site / "decisions").rglob("*.jsonl"))
    assert len(found) == 3
    for file in found:
        file.write_bytes(file.read_bytes().split(b"\n", 1)[1])  # its first line is gone everywhere
    report = world.prove()
    assert report.verdict is Verdict.UNKNOWN
    assert any("lines are missing: 1" in finding for finding in report.log_findings)


def test_a_decision_changed_at_one_site_is_found(world: World) -> None:
    world.sync("prices")
    (file,) = (world.folder / ABROAD / "decisions").rglob("*.jsonl")
    file.write_bytes(file.read_bytes().replace(b'"allowed":false', b'"allowed":true'))
    report = world.prove()
    assert report.verdict is Verdict.UNKNOWN
    assert any("other bytes than another site" in finding for finding in report.log_findings)


def test_a_run_is_bound_by_the_data_it_is_trained_on(world: World) -> None:
    world.change(
        training={
            "fit": {"dataset": "prices", "model": "fitted", "command": ["x"], "steps": 1, "checkpoint_every_steps": 1}
        }
    )
    document = yaml.safe_load(world.topology.read_text())
    document["groups"]["desk"]["training"] = ["fit"]
    world.topology.write_text(yaml.safe_dump(document))
    for site, run in ((HOME, "desk-fit"), (ABROAD, "desk-fit.20260101T000000000000"), (HOME, "somebody-elses")):
        world.put(site, f"runs/{run}/blobs/x", b"1234")
    report = world.prove()
    (here,) = at(report, HOME, "desk-fit")
    assert (here.kind, here.verdict, here.residency_class, here.size_bytes) == ("run", "lawful", "eu-only", 4)
    (abroad,) = at(report, ABROAD)
    assert (abroad.verdict, abroad.subject) == (Verdict.BREACH, "desk-fit.20260101T000000000000")
    assert at(report, HOME, "somebody-elses")[0].verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("drill_id", [new_drill_id(NOW), identifier(NOW, "a DAG's run")], ids=["by hand", "of Airflow"])
def test_what_a_drill_s_reference_run_leaves_is_bound_by_the_data_it_is_trained_on(world: World, drill_id: str) -> None:
    job = {"model": "fitted", "command": ["x"], "steps": 1, "checkpoint_every_steps": 1}
    world.change(training={"fit": {"dataset": "prices", **job}, "fit-two": {"dataset": "free", **job}})
    document = yaml.safe_load(world.topology.read_text())
    document["groups"]["desk"]["training"] = ["fit", "fit-two"]
    world.topology.write_text(yaml.safe_dump(document))
    drill = f"reference-{drill_id}"
    for site, run in ((AWAY, f"{drill}-fit"), (ABROAD, f"{drill}-fit.2"), (ABROAD, f"{drill}-fit-two")):
        world.put(site, f"runs/{run}/jobs/000001.000001/log", b"1234")
    for run in (f"{drill}-other", "reference-of-somebody-fit"):
        world.put(HOME, f"runs/{run}/jobs/log")
    report = world.prove()
    (here,) = at(report, AWAY)
    assert (here.kind, here.verdict, here.residency_class) == ("run", "lawful", "eu-only")
    assert {one.subject: str(one.verdict) for one in at(report, ABROAD)} == {
        f"{drill}-fit.2": "breach",
        f"{drill}-fit-two": "lawful",
    }
    assert {str(one.verdict) for one in at(report, HOME)} == {"unknown"}


def test_a_run_is_of_the_job_whose_whole_name_it_has(world: World) -> None:
    job = {"model": "fitted", "command": ["x"], "steps": 1, "checkpoint_every_steps": 1}
    world.change(training={"fit": {"dataset": "free", **job}, "fit-two": {"dataset": "prices", **job}})
    document = yaml.safe_load(world.topology.read_text())
    document["groups"]["desk"]["training"] = ["fit", "fit-two"]
    world.topology.write_text(yaml.safe_dump(document))
    topology = world.runtime().topology
    assert job_of_run(topology, "desk-fit-two.20260101T000000000000") == ("desk", "fit-two")
    assert job_of_run(topology, "desk-fit") == ("desk", "fit")
    assert job_of_run(topology, "else") is None
    assert data_of(topology, "runs/desk-fit-two") == "prices"
    assert data_of(topology, "runs/desk-fit") == "free"
    assert data_of(topology, "free") == "free"


def vaulted(world: World) -> None:
    add_vault(world.topology)
    world.change(residency={"eu-only": {"jurisdictions": ["EU", "US"]}})
    for name in ("prices", "free"):
        world.put(HOME, f"data/{name}/one.bin", b"x" * 5000)
        publish_dataset(world.runtime(), "desk", name)


def run(world: World, monkeypatch: pytest.MonkeyPatch, *words: str, code: int = 0) -> Any:
    monkeypatch.setattr(Runtime, "from_environment", lambda *_args, **_kwargs: world.runtime())
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output + done.stderr
    assert "Traceback" not in done.output + done.stderr
    return done


def test_backups_are_found_by_source_in_the_vault_and_its_mirror(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    vaulted(world)
    run(world, monkeypatch, "vault", "init")
    run(world, monkeypatch, "vault", "backup", "group")
    report = world.prove()
    for site in (AWAY, ABROAD):
        (backup,) = at(report, site, "prices", CopyKind.BACKUP)
        assert (backup.residency_class, backup.verdict) == ("eu-only", Verdict.LAWFUL)
        assert backup.decision is not None
        assert backup.size_bytes
    # Tightened: the mirror is in breach, its packs as well.
    world.change(residency={"eu-only": {"jurisdictions": ["EU"]}})
    breaches = list(world.prove().of(Verdict.BREACH))
    assert {(one.site, one.subject) for one in breaches} == {(ABROAD, "prices")}
    assert CopyKind.BACKUP in {one.kind for one in breaches}
    # And nothing more goes there.
    refused = run(world, monkeypatch, "vault", "mirror", code=3)
    assert "jurisdiction" in refused.stdout + refused.stderr
    # What is forgotten and not collected yet may be of what may not be here: nobody knows.
    listed = json.loads(run(world, monkeypatch, "vault", "list", "--json").stdout)["backups"]
    (prices,) = (one["backup"] for one in listed if one["source"] == "prices")
    run(world, monkeypatch, "vault", "forget", prices, "--last-too")
    report = world.prove()
    assert report.verdict is Verdict.UNKNOWN
    (rest,) = at(report, ABROAD, "desk", CopyKind.PACKS)
    assert (rest.verdict, at(report, AWAY, "desk")[0].verdict) == (Verdict.UNKNOWN, Verdict.LAWFUL)
    assert "may be of prices" in rest.why
    # Without the writer's key nobody can tell what lies there.
    (world.folder / "writer.key").write_text("00" * 32)
    report = world.prove()
    assert report.verdict is Verdict.UNKNOWN
    assert {one.kind for one in at(report, ABROAD) if one.verdict is Verdict.UNKNOWN} >= {CopyKind.PACKS}


def test_the_command_says_it_with_its_exit_code(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.sync("prices")
    found = json.loads(run(world, monkeypatch, "residency", "check", "--json").stdout)
    assert (found["verdict"], found["counts"]["breach"]) == ("lawful", 0)
    assert {one["site"] for one in found["copies"]} == {HOME, AWAY}
    world.put(ABROAD, "data/nobody/x[red]")
    assert "unknown" in run(world, monkeypatch, "residency", "check", code=7).stdout
    world.put(ABROAD, "data/prices/x")
    told = run(world, monkeypatch, "residency", "check", code=6).stdout
    assert "1 in breach" in told
    assert "x[red]" in told
    only_home = run(world, monkeypatch, "residency", "check", "--site", HOME, "--all")
    assert "snapshot" in only_home.stdout
    assert run(world, monkeypatch, "residency", "check", "--site", "moon", code=2)


def test_a_hypothetical_move_is_explained_and_not_logged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = json.loads(run(world, monkeypatch, "residency", "decide", "prices", AWAY, "--json").stdout)
    assert (allowed["allowed"], allowed["determining"]) == (True, ["residency.eu-only.jurisdictions"])
    denied = run(world, monkeypatch, "residency", "decide", "prices", ABROAD, "--from", HOME, code=3)
    assert "nothing in residency.eu-only permits it" in denied.stdout
    assert "no residency class" in run(world, monkeypatch, "residency", "decide", "free", ABROAD).stdout
    run(world, monkeypatch, "residency", "decide", "nothing", AWAY, code=2)
    run(world, monkeypatch, "residency", "decide", "prices", "moon", code=2)
    assert not (world.folder / "state").exists()


def test_a_hypothetical_backup_is_encrypted_as_backups_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.folder / "backups.cedar").write_text(
        'permit (principal, action == Holdfast::Action::"store", resource is Holdfast::Backup) '
        'when { context.encrypted && context.purpose == "backup" };'
    )
    world.change(residency={"eu-only": {"policy": "backups.cedar"}})
    backup = ("residency", "decide", "prices", ABROAD, "--service", "vault", "--action", "store")
    assert "allowed" in run(world, monkeypatch, *backup).stdout
    assert "denied" in run(world, monkeypatch, *backup, "--plain", code=3).stdout


def test_policies_are_listed_with_their_hashes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(run(world, monkeypatch, "residency", "policies", "--json").stdout)
    (policy,) = found["policies"]
    assert (policy["class"], policy["datasets"]) == ("eu-only", ["prices"])
    assert run(world, monkeypatch, "residency", "policies", "eu-only").stdout == policy["text"]
    assert policy["sha256"][:12] in run(world, monkeypatch, "residency", "policies").stdout
    run(world, monkeypatch, "residency", "policies", "none", code=2)


def test_a_wrong_policy_is_bad_input(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put("policies", "p.cedar", b"permit (principal, action, resource)\nwhen { nonsense };")
    world.change(residency={"eu-only": {"policy": "policies/p.cedar"}})
    told = run(world, monkeypatch, "residency", "check", code=2)
    assert "policies/p.cedar, line 2" in told.stderr


def test_the_worst_counts() -> None:
    lawful = Copy(CopyKind.RUN, "r", "", "s", "EU", None, 1, 1, None, None, None, Verdict.LAWFUL, "")
    report = ResidencyReport(made_at=None, copies=(lawful,), decisions=0)  # type: ignore[arg-type]
    assert report.verdict is Verdict.LAWFUL
    assert replace(report, log_findings=("a hole",)).verdict is Verdict.UNKNOWN
    unknown = replace(report, copies=(lawful, replace(lawful, verdict=Verdict.UNKNOWN)))
    assert unknown.verdict is Verdict.UNKNOWN
    assert replace(unknown, copies=(*unknown.copies, replace(lawful, verdict=Verdict.BREACH))).verdict is Verdict.BREACH
