"""`holdfast vault` as somebody types it: text and JSON, exit codes, and what is refused."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from folders import SITES, add_vault, folder_runtime, last_sample_of, make_folders
from holdfast.cli.main import app
from holdfast.engine.pipeline import replicas
from holdfast.engine.snapshot import open_snapshot
from holdfast.engine.vault import verifications
from holdfast.engine.vault.pack import PackClass
from vault_command import Vaults


@pytest.fixture
def vaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vaults:
    made = Vaults(add_vault(make_folders(tmp_path))).here(monkeypatch)
    made.put("one.bin", b"first" * 1000)
    made("init")
    return made


def test_a_backup_is_made_shown_and_restored(vaults: Vaults, tmp_path: Path) -> None:
    made = vaults.json("backup", "group")
    assert [one["source"] for one in made["backups"]] == ["prices"]
    assert made["backups"][0]["mirrors"][SITES[2]]["problems"] == []
    assert made["backups"][0]["witnesses"] == {SITES[0]: None, SITES[2]: None}
    listed = vaults.json("list")
    assert listed["alarm"] is None
    assert listed["backups"][0]["backup"] == made["backups"][0]["backup"]
    shown = vaults.json("show")
    assert [one["path"] for one in shown["paths"]] == ["one.bin"]
    done = vaults.json("restore", "--to", str(tmp_path / "out"))
    assert (done["restored"], done["damaged"]) == (1, {})
    assert (tmp_path / "out" / "one.bin").read_bytes() == b"first" * 1000
    assert vaults.json("restore", "--to", str(tmp_path / "out"))["kept"] == 1


def test_a_live_restore_is_the_newest_snapshot(vaults: Vaults) -> None:
    first = vaults.json("backup", "group")["backups"][0]["backup"]
    vaults.put("one.bin", b"spoiled")
    done = vaults.json("restore", first, "--live", "--reason", "spoiled by hand", "--yes")
    assert (done["dataset"], done["site"], done["published"]) == ("prices", SITES[0], True)
    runtime = folder_runtime(vaults.topology)
    newest = replicas.snapshots(runtime, "desk", "prices")[0]
    assert newest.labels["restored_because"] == "spoiled by hand"
    store = runtime.store(SITES[0])
    assert open_snapshot(store, newest).read("one.bin") == b"first" * 1000
    again = vaults.json("restore", first, "--live", "--reason", "spoiled by hand", "--yes")
    assert (again["published"], again["snapshot_id"]) == (False, done["snapshot_id"])
    assert "Snapshot" in vaults("restore", "--live", "--reason", "x", "--yes", "--source", "prices").stdout


def test_every_command_has_a_text_for_people(vaults: Vaults, tmp_path: Path) -> None:
    assert "Backup" in vaults("backup", "group").stdout
    assert "prices" in vaults("list").stdout
    assert "one.bin" in vaults("show").stdout
    assert "each verified" in vaults("restore", "--to", str(tmp_path / "out")).stdout
    assert "Nothing is wrong" in vaults("verify", "--depth", "full").stdout
    assert "stays" in vaults("forget", "--dry-run").stdout
    assert "nobody's" in vaults("gc", "--dry-run").stdout
    assert "met" in vaults("status").stdout
    assert "reader" in vaults("keys", "show").stdout
    assert "copied" in vaults("mirror").stdout


def test_the_vaults_site_is_lost_and_the_mirror_restores(vaults: Vaults, tmp_path: Path) -> None:
    vaults("backup", "group")
    shutil.rmtree(tmp_path / SITES[1])
    (tmp_path / SITES[1]).mkdir()
    assert "no vault" in vaults("list", code=2).stderr
    assert vaults.json("list", "--from", SITES[2])["backups"]
    vaults("restore", "--from", SITES[2], "--to", str(tmp_path / "out"))
    assert (tmp_path / "out" / "one.bin").read_bytes() == b"first" * 1000


def test_a_damaged_pack_is_found_named_and_makes_the_exit_code(vaults: Vaults, tmp_path: Path) -> None:
    vaults("backup", "group")
    (content,) = packs_of_content(tmp_path / SITES[1])
    data = bytearray(content.read_bytes())
    data[len(data) // 2] ^= 1
    content.write_bytes(data)
    assert vaults.json("verify")["good"] is True
    found = vaults.json("verify", "--depth", "full", code=4)
    assert found["damaged_packs"]
    assert vaults("restore", "--to", str(tmp_path / "out"), code=4).stderr.startswith("holdfast: ")


def test_a_command_that_fails_makes_no_backup(vaults: Vaults) -> None:
    assert (
        "exit code 3"
        in vaults("backup", "command", "--name", "dump", "--", "sh", "-c", "echo x; exit 3", code=1).stderr
    )
    assert vaults.json("list")["backups"] == []
    made = json.loads(vaults("backup", "command", "--json", "--name", "dump", "--", "sh", "-c", "echo x").stdout)
    assert made["origin"]["exit_code"] == 0


def test_a_folder_is_backed_up_under_a_name(vaults: Vaults, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.txt").write_text("a")
    (folder / "link").symlink_to("deep/a.txt")
    made = vaults.json("backup", "tree", str(folder), "--name", "notes")
    assert made["origin"]["skipped"] == ["link"]
    vaults("restore", "--source", "notes", "--to", str(tmp_path / "out"))
    assert (tmp_path / "out" / "deep" / "a.txt").read_text() == "a"


def test_retention_forgets_and_a_hold_keeps(vaults: Vaults) -> None:
    first = vaults.json("backup", "group")["backups"][0]["backup"]
    for number in range(4):
        vaults.put("one.bin", b"%d" % number)
        vaults("backup", "group")
    vaults("hold", first)
    assert "legal hold" in vaults("forget", first, code=3).stderr
    plan = vaults.json("forget", "--dry-run")
    assert first in {one["backup"] for one in plan["kept"]}
    vaults("hold", first, "--release")
    would = vaults.json("forget", first, "--dry-run")
    assert [one["backup"] for one in would["forgotten"]] == [first]
    assert vaults.json("forget", first)["forgotten"][0]["backup"] == first
    assert first not in {one["backup"] for one in vaults.json("list")["backups"]}
    collected = vaults.json("gc", "--dry-run")
    assert collected["dead_packs"] >= 1
    assert would["would_free_bytes"] == collected["dead_bytes"] > 0


def test_keys_are_rotated_and_old_backups_still_open(vaults: Vaults, tmp_path: Path) -> None:
    first = vaults.json("backup", "group")["backups"][0]["backup"]
    facts = vaults.json("keys", "rotate", "--new-generation", "--new-signer")
    assert (facts["generation"], facts["written"]) == (2, ["reader", "writer"])
    vaults.put("one.bin", b"second")
    vaults("backup", "group")
    vaults("restore", first, "--to", str(tmp_path / "old"))
    vaults("restore", "--to", str(tmp_path / "new"))
    assert (tmp_path / "old" / "one.bin").read_bytes() == b"first" * 1000
    assert (tmp_path / "new" / "one.bin").read_bytes() == b"second"


def test_the_mirror_follows_what_changes_the_vault(vaults: Vaults, tmp_path: Path) -> None:
    first = vaults.json("backup", "group")["backups"][0]["backup"]
    vaults("hold", first)
    (tmp_path / "reader-2.key").write_text("34" * 32)
    document = yaml.safe_load(vaults.topology.read_text())
    document["vaults"]["desk"]["keys"]["reader"] += [f"file:{tmp_path}/reader-2.key"]
    vaults.topology.write_text(yaml.safe_dump(document))
    vaults("keys", "rotate", "--role", "reader")
    document["vaults"]["desk"]["keys"]["reader"] = [f"file:{tmp_path}/reader-2.key"]
    vaults.topology.write_text(yaml.safe_dump(document))
    vaults("gc")
    shutil.rmtree(tmp_path / SITES[1])
    (tmp_path / SITES[1]).mkdir()
    listed = vaults.json("list", "--from", SITES[2])
    assert (listed["alarm"], [one["held"] for one in listed["backups"]]) == (None, [True])
    vaults("restore", "--from", SITES[2], "--to", str(tmp_path / "out"))
    assert (tmp_path / "out" / "one.bin").read_bytes() == b"first" * 1000


def test_a_key_that_was_replaced_opens_nothing(vaults: Vaults, tmp_path: Path) -> None:
    vaults("backup", "group")
    (tmp_path / "reader.key").write_text("00" * 32)
    assert "none of the keys" in vaults("restore", "--to", str(tmp_path / "out"), code=3).stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("restore",), 2, "where to is not clear"),
        (("restore", "--to-site", "nowhere:x"), 2, "unknown name"),
        (("restore", "--to-site", "site-b"), 2, "not restored to this prefix"),
        (("restore", "--to-site", "site-b:data/prices"), 2, "not restored to this prefix"),
        (("restore", "--live"), 2, "has a reason"),
        (("restore", "--live", "--reason", "x", "--path", "a", "--yes"), 2, "whole backup"),
        (("list", "--vault", "none"), 2, "unknown name"),
        (("list", "--from", "site-a"), 2, "does not lie at this site"),
        (("show", "ffff"), 2, "no live backup"),
        (("init",), 3, "already"),
        (("forget", "ffffffff"), 2, "no live backup"),
        (("backup", "group", "--subject", "nothing"), 2, "no such dataset or model"),
        (("backup", "group", "--tier", "secondly"), 2, "unknown retention tier"),
        (("backup", "tree", "/nowhere/at/all", "--name", "x"), 2, "no such folder"),
        (("keys", "rotate", "--role", "king"), 2, "unknown role"),
    ],
)
def test_bad_input_is_one_clear_error(vaults: Vaults, words: tuple[str, ...], code: int, says: str) -> None:
    assert says in vaults(*words, code=code).stderr
    assert vaults.json("list")["backups"] == []


def test_data_that_may_not_leave_is_refused_before_a_byte_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = add_vault(make_folders(tmp_path, prices={"residency": "eu-only"}))
    vaults = Vaults(topology).here(monkeypatch)
    vaults.put("one.bin", b"first")
    vaults("init")
    assert "jurisdiction" in vaults("backup", "group", code=3).stderr
    assert vaults.json("list")["backups"] == []


def test_a_new_key_is_its_owners_alone_and_overwrites_nothing(vaults: Vaults, tmp_path: Path) -> None:
    file = tmp_path / "offline.txt"
    made = vaults.json("keys", "new", str(file), "--offline")
    assert made["recipient"].startswith("age:age1")
    assert file.stat().st_mode & 0o777 == 0o600
    vaults("keys", "new", str(file), code=2)


def test_the_newest_backup_removed_at_the_store_is_an_alarm(vaults: Vaults, tmp_path: Path) -> None:
    vaults("backup", "group")
    log = tmp_path / SITES[1] / "vault" / "desk"
    newest = sorted((log / "log").iterdir())[-1].name
    for folder in ("log", "log-copies"):
        (log / folder / newest).unlink()
    assert "newest entries are gone" in vaults("list", code=4).stderr
    assert "newest entries are gone" in vaults("backup", "group", code=4).stderr
    assert vaults.json("status", code=1)["points"][0]["met"] is None
    refused = vaults("restore", "--source", "prices", "--to", str(tmp_path / "out"), code=4)
    assert "newest entries are gone" in refused.stderr, "what is left is not what somebody means by the newest"


def test_damage_is_repaired_from_the_mirror(vaults: Vaults, tmp_path: Path) -> None:
    vaults("backup", "group")
    for pack in (tmp_path / SITES[1] / "vault" / "desk" / "packs").rglob("*"):
        if pack.is_file():
            pack.unlink()
    assert vaults.json("verify", code=4)["missing_packs"]
    done = vaults.json("verify", "--repair")
    assert (done["whole"], done["lost"]) == (True, [])
    assert "Nothing is wrong" in vaults("verify", "--depth", "full").stdout


@pytest.mark.parametrize("left", ["nothing", "all but the log", "all but the keys"])
def test_a_vault_that_does_not_open_any_more_is_made_whole_from_the_mirror(
    vaults: Vaults, tmp_path: Path, left: str
) -> None:
    vaults("backup", "group")
    vault = tmp_path / SITES[1] / "vault" / "desk"
    gone = {"nothing": [""], "all but the log": ["log", "log-copies"], "all but the keys": ["keys"]}[left]
    for name in gone:
        shutil.rmtree(vault / name)
    assert vaults("list", code=2 if left != "all but the keys" else 4).stderr
    done = vaults.json("verify", "--repair")
    assert (done["whole"], done["lost"]) == (True, [])
    assert len(vaults.json("list")["backups"]) == 1
    assert vaults.json("restore", "--to", str(tmp_path / "out"))["restored"] == 1


def test_a_drill_restores_elsewhere_and_signs(vaults: Vaults, tmp_path: Path) -> None:
    vaults("backup", "group")
    done = vaults.json("drill", "run", "--output", str(tmp_path / "evidence"))
    assert (done["verdict"], done["target"]["site"] not in (SITES[0], SITES[1])) == ("pass", True)
    assert CliRunner().invoke(app, ["drill", "verify", str(tmp_path / "evidence")]).exit_code == 0
    left = [path for path in (tmp_path / SITES[2] / "restore-drills").rglob("*") if path.is_file()]
    assert left == [], "what was restored is removed"
    assert "pass" in vaults("drill", "run", "--output", str(tmp_path / "again")).stdout


def test_a_database_that_is_not_named_is_one_clear_error(vaults: Vaults) -> None:
    assert "not named" in vaults("backup", "airflow", "--url-variable", "NOT_SET_ANYWHERE", code=2).stderr


def test_a_sample_begins_where_the_last_one_began(vaults: Vaults, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many backups note that their structure was looked at, and however long the last one took."""
    vaults("backup", "group")
    began = datetime.now(UTC)
    vaults("verify", "--depth", "sample")
    monkeypatch.setattr(verifications, "KEPT", 2)
    for _ in range(3):
        vaults("backup", "group")
    last = last_sample_of(vaults.topology)
    assert last is not None
    assert began <= last <= datetime.now(UTC)
    # One that would leave out what was due since then is refused, and so is one of the future.
    for later in (last + timedelta(minutes=1), last + timedelta(days=365)):
        said = vaults("verify", "--depth", "sample", "--last", f"{later:%Y-%m-%dT%H:%M:%S}", code=2).stderr
        assert "or earlier" in said
    vaults("verify", "--depth", "sample", "--last", f"{last - timedelta(days=1):%Y-%m-%dT%H:%M:%S}")


def test_what_nobody_signed_hides_no_verification(vaults: Vaults, tmp_path: Path) -> None:
    vaults("backup", "group")
    vaults("verify", "--depth", "full")
    (folder,) = tmp_path.glob("*/vault/desk/verified")
    for number in range(verifications.KEPT + 1):
        (folder / f"99991231T000000.{number:06}Z-full-xxxxxxxx.json").write_text("{}")
    assert all(point["met"] for point in vaults.json("status", "--verified", "full")["points"])
    assert last_sample_of(vaults.topology) is not None


def test_a_mirror_has_a_schedule_of_its_own(vaults: Vaults, tmp_path: Path) -> None:
    vaults("backup", "group")
    vaults("verify", "--depth", "sample")
    assert last_sample_of(vaults.topology, site=SITES[2]) is None
    began = datetime.now(UTC)
    assert vaults.json("verify", "--from", SITES[2], "--depth", "sample")["warnings"] == []
    last = last_sample_of(vaults.topology, site=SITES[2])
    assert last is not None
    assert began <= last
    own = last_sample_of(vaults.topology)
    assert own is not None
    assert own < began, "what was read of the mirror is no proof of the vault"
    (content,) = packs_of_content(tmp_path / SITES[2])
    content.write_bytes(content.read_bytes()[:-1])
    assert vaults.json("verify", "--from", SITES[2], code=4)["problems"]
    assert vaults.json("verify")["good"] is True


def test_a_mirror_that_lags_is_no_rollback_and_one_of_another_history_is_wrong(vaults: Vaults, tmp_path: Path) -> None:
    vaults("backup", "group")
    mirror, away = tmp_path / SITES[2] / "vault", tmp_path / "away"
    shutil.copytree(mirror, away)
    vaults("backup", "group")
    shutil.rmtree(mirror)
    away.rename(mirror)
    told = vaults.json("verify", "--from", SITES[2])
    assert told["good"] is True
    assert told["warnings"][0].startswith("the mirror lies 1 entries behind the vault")
    site = tmp_path / SITES[1]
    (site / "vault").rename(tmp_path / "gone")
    told = vaults.json("verify", "--from", SITES[2], code=4)
    assert "newest entries are gone" in told["problems"][0], "the witnesses know better, while nobody can ask the vault"
    (tmp_path / "gone").rename(site / "vault")
    vaults("mirror")
    assert vaults.json("verify", "--from", SITES[2])["warnings"] == []


def test_a_vault_without_witnesses_is_made_with_a_warning_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vaults = Vaults(add_vault(make_folders(tmp_path), witnesses=[])).here(monkeypatch)
    vaults.put("one.bin", b"first")
    assert "has no witness" in vaults("init").stdout
    vaults("backup", "group")
    for words in (("status",), ("verify",)):
        assert "has no witness" in vaults.json(*words)["warnings"][0]
        assert "warning: vault desk has no witness" in " ".join(vaults(*words).stdout.split())


def test_two_witnesses_elsewhere_are_no_warning(vaults: Vaults) -> None:
    vaults("backup", "group")
    assert vaults.json("status")["warnings"] == []
    assert vaults.json("verify")["warnings"] == []


def test_whoever_cannot_sign_verifies_and_notes_nothing(vaults: Vaults, tmp_path: Path) -> None:
    vaults("backup", "group")
    (tmp_path / "writer.key").unlink()
    told = vaults.json("verify", "--depth", "full")
    assert told["good"] is True
    assert "is not noted" in told["warnings"][0]


def test_a_repair_reads_as_much_as_is_asked_for(vaults: Vaults, tmp_path: Path) -> None:
    """A flipped bit is found by reading only."""
    vaults("backup", "group")
    (content,) = packs_of_content(tmp_path / SITES[1])
    data = bytearray(content.read_bytes())
    data[len(data) // 2] ^= 1
    content.write_bytes(data)
    done = vaults.json("verify", "--repair", "--depth", "structure")
    assert (done["healed"], done["verified"]["packs_read"]) == ({}, 0)
    done = vaults.json("verify", "--repair")
    assert len(done["healed"]) == 1
    assert done["verified"]["depth"] == "full"
    last = ("--last", "2026-01-01T00:00:00")
    assert "--depth sample" in vaults("verify", *last, code=2).stderr
    assert "no --repair" in vaults("verify", "--depth", "sample", "--repair", *last, code=2).stderr


def packs_of_content(site: Path) -> list[Path]:
    files = (path for path in (site / "vault" / "desk" / "packs").rglob("*") if path.is_file())
    return [path for path in files if path.read_bytes()[5] == PackClass.DATA]


def test_a_backup_into_a_damaged_vault_says_how_it_is_repaired(vaults: Vaults, tmp_path: Path) -> None:
    """And not that a mirror has to be brought up: none lacks anything."""
    vaults("backup", "group")
    (tmp_path / SITES[1] / "vault" / "desk" / "log-copies" / "000000000001.json").unlink()
    done = vaults("backup", "group", code=4)
    assert "vault verify --repair --vault desk" in done.stderr
    assert "vault mirror" not in done.stderr
    assert "000000000001.json is missing" in done.stdout
    vaults("verify", "--repair")
    vaults("backup", "group")


def test_chunks_that_went_missing_are_stored_anew_by_the_next_backup(vaults: Vaults, tmp_path: Path) -> None:
    vaults("backup", "group")
    for site in SITES[1:]:
        (content,) = packs_of_content(tmp_path / site)
        content.unlink()
    assert vaults.json("verify", code=4)["affected"]
    vaults("backup", "group", code=0)
    assert vaults.json("verify")["affected"] == {}
    vaults("restore", "--source", "prices", "--to", str(tmp_path / "out"))


def test_a_loss_is_not_accepted_while_a_mirror_is_away(vaults: Vaults, tmp_path: Path) -> None:
    lost = vaults.json("backup", "group")["backups"][0]["backup"]
    log = tmp_path / SITES[1] / "vault" / "desk"
    newest = sorted((log / "log").iterdir())[-1].name
    for folder in ("log", "log-copies"):
        (log / folder / newest).unlink()
    mirror = tmp_path / SITES[2] / "vault"
    mirror.rename(tmp_path / "away")
    assert "--repair beside it" in vaults("verify", "--accept-loss", code=2).stderr
    assert "while a mirror cannot be read" in vaults("verify", "--repair", "--accept-loss", code=3).stderr
    (tmp_path / "away").rename(mirror)
    assert vaults.json("verify", "--repair")["whole"] is True
    assert lost in {one["backup"] for one in vaults.json("list")["backups"]}


def test_locks_are_asked_for_by_the_topology_only(vaults: Vaults) -> None:
    assert "asks for no locks" in vaults("locks", code=2).stderr


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vaults:
    """A vault of shares at all three sites, with one backup."""
    topology = add_vault(
        make_folders(tmp_path),
        site=SITES[0],
        mirrors=[],
        witnesses=[SITES[1], SITES[2]],
        shares={"sites": list(SITES), "needed": 2},
    )
    vaults = Vaults(topology).here(monkeypatch)
    vaults.put("one.bin", b"first" * 1000)
    vaults("init")
    vaults("backup", "group")
    return vaults


def test_shares_that_are_missing_make_the_exit_code_and_a_repair_says_what_it_wrote(
    shared: Vaults, tmp_path: Path
) -> None:
    assert shared.json("verify")["degraded"] == []
    shutil.rmtree(tmp_path / SITES[2] / "vault" / "desk" / "packs")
    told = shared.json("verify", code=1)
    assert told["good"] is True
    assert f"{SITES[2]}: the share of packs/" in told["degraded"][0]
    assert "would not survive" in shared("verify", code=1).stdout
    done = shared.json("verify", "--repair")
    assert done["whole"] is True
    assert {one["site"] for one in done["shares"]["repaired"]} == {SITES[2]}
    assert shared("verify").stdout.rstrip().endswith("Nothing is wrong")
    assert "0 shares and copies of" in shared("verify", "--repair").stdout


def test_a_vault_of_shares_survives_the_loss_of_any_site(shared: Vaults, tmp_path: Path) -> None:
    vaults = shared
    for number, site in enumerate(SITES):
        (tmp_path / site).rename(tmp_path / "away")
        (tmp_path / site).mkdir()
        vaults("restore", "--source", "prices", "--to", str(tmp_path / f"out-{number}"))
        assert (tmp_path / f"out-{number}" / "one.bin").read_bytes() == b"first" * 1000
        (tmp_path / site).rmdir() if not any((tmp_path / site).iterdir()) else shutil.rmtree(tmp_path / site)
        (tmp_path / "away").rename(tmp_path / site)
