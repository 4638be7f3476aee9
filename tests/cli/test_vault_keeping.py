"""`holdfast vault` beside backups that a wrong clock, a broken writer or a thief of its key made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from folders import SITES, add_vault, folder_runtime, make_folders
from holdfast.cli.main import app
from holdfast.engine.objectstore.errors import NotSupported, ObjectStoreError, PermissionRefused
from holdfast.engine.objectstore.interface import OVERWRITE, ObjectStore
from holdfast.engine.objectstore.prefixed import PrefixedStore
from holdfast.engine.pipeline.datasets import publish_dataset
from holdfast.engine.pipeline.vaults import keeping, locking, restoring
from holdfast.engine.pipeline.vaults.opening import opened
from holdfast.engine.runtime import Runtime
from holdfast.engine.vault.append import append
from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.locks import LockedObject, NoLocks
from holdfast.engine.vault.sources import TreeSource


@dataclass
class Desk:
    """A vault with backups of the dataset ``prices``, and the command over it."""

    topology: Path

    @property
    def folder(self) -> Path:
        return self.topology.parent / SITES[0] / "data" / "prices"

    def back_up(self, data: bytes) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "one.bin").write_bytes(data)
        publish_dataset(folder_runtime(self.topology), "desk", "prices")
        return int(self.json("backup", "group")["backups"][0]["entry"])

    def lie(self, backup_id: str | None = None, **body: Any) -> int:
        """A backup entry that says whatever it likes; the number of it."""
        vault = opened(folder_runtime(self.topology), "desk", "writer")
        said = next(iter(vault.history.backups.values())).open_body(vault.secrets)
        public = {"backup": backup_id or os.urandom(16).hex(), "tier": "daily", "indexes": []}
        return append(
            vault.store,
            vault.secrets,
            "backup",
            clock=vault.clock,
            tip=vault.history.tip,
            signers=vault.history.keys.signers,
            describe=lambda _tip: (public, {**said, **body}),
        ).sequence

    def __call__(self, *words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(app, ["vault", *words])
        assert done.exit_code == code, done.output + done.stderr
        assert "Traceback" not in done.output + done.stderr
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code).stdout)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    topology = add_vault(make_folders(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(Runtime, "from_environment", lambda *_args, **_kwargs: folder_runtime(topology))
    desk = Desk(topology)
    desk("init")
    return desk


def entries(found: list[dict[str, Any]]) -> list[int]:
    return [one["entry"] for one in found]


def test_a_clock_that_ran_ahead_makes_no_old_backup_the_newest(desk: Desk, tmp_path: Path) -> None:
    ahead = datetime.now(UTC) + timedelta(days=365)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a").write_text("old")
    old = back_up(opened(folder_runtime(desk.topology), "desk", "writer"), TreeSource("notes", notes, ahead)).backup
    shown = desk.json("list")["backups"][0]
    assert shown["claimed_at"] is not None
    assert shown["taken_at"] < (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert "clock ahead" in desk("list").stdout
    (notes / "a").write_text("new")
    new = desk.json("backup", "tree", str(notes), "--name", "notes")["entry"]
    assert entries(desk.json("list")["backups"]) == [new, old.sequence]
    desk("restore", "--source", "notes", "--to", str(tmp_path / "out"))
    assert (tmp_path / "out" / "a").read_text() == "new"
    would = desk.json("forget", "--dry-run")
    done = desk.json("forget")
    assert entries(would["forgotten"]) == entries(done["forgotten"])
    assert [(one["entry"], one["reason"]) for one in would["kept"]] == [
        (one["entry"], one["reason"]) for one in done["kept"]
    ]


def test_a_clock_that_ran_ahead_hides_no_stale_recovery_point(desk: Desk) -> None:
    """The age of the newest backup is counted from when it came at the latest."""
    ahead = datetime.now(UTC) + timedelta(days=365)
    runtime = folder_runtime(desk.topology)
    desk.back_up(b"one")
    vault = opened(runtime, "desk", "writer")
    said = next(iter(vault.history.backups.values())).open_body(vault.secrets)
    desk.lie(taken_at=ahead.isoformat().replace("+00:00", "Z"), segments=said["segments"])
    desk("verify")
    (point,) = desk.json("status")["points"]
    assert point["met"] is True
    assert abs(point["age_seconds"]) < 300, "not a year from now"


def test_a_backup_that_cannot_be_read_stops_no_command(desk: Desk, tmp_path: Path) -> None:
    good = desk.back_up(b"one")
    bad = desk.lie(segments="nonsense")
    listed = desk("list")
    assert "unreadable" in listed.stdout
    assert f"the backup of entry {bad} cannot be read" in listed.stderr
    assert {one["entry"]: one["unreadable"] is None for one in desk.json("list", "--source", "prices")["backups"]} == {
        good: True,
        bad: False,
    }
    assert [one["reason"] for one in desk.json("forget", "--dry-run")["kept"] if one["entry"] == bad] == [
        "cannot be read"
    ]
    assert f"entry {bad}" in desk("forget").stderr
    assert list(desk.json("gc")["unreadable"]) == [str(bad)]
    assert list(desk.json("status")["points"][0]["unreadable"]) == [str(bad)]
    assert f"entry {bad}" in desk("status").stderr
    assert any(f"entry {bad}" in line for line in desk.json("verify", "--repair", code=4)["verified"]["problems"])
    desk("restore", "--to", str(tmp_path / "out"))
    assert "cannot be read" in desk("show", f"entry:{bad}", code=4).stderr
    assert desk.json("hold", f"entry:{bad}")["backups"][0]["held"] is True
    assert "legal hold" in desk("forget", f"entry:{bad}", code=3).stderr
    desk("hold", f"entry:{bad}", "--release")
    assert entries(desk.json("forget", f"entry:{bad}")["forgotten"]) == [bad]
    assert desk("list").stderr == ""
    assert desk.json("verify")["good"] is True


def test_an_id_that_a_thief_took_names_the_older_and_forgets_neither(desk: Desk, tmp_path: Path) -> None:
    good = desk.back_up(b"one")
    name = desk.json("list")["backups"][0]["backup"]
    false = desk.lie(name, source="evil", segments=[], objects=0, size_bytes=0)
    assert f"entry {good} has the same id as entry {false}" in desk("list").stdout
    for words in (("forget", name), ("forget", name, "--dry-run"), ("hold", name)):
        refused = desk(*words, code=2).stderr
        assert f"entry:{good} (prices), entry:{false} (evil)" in refused
    restored = desk("restore", name, "--to", str(tmp_path / "out"))
    assert f"entry:{good} is meant; of the same id there is also entry:{false}" in restored.stderr
    assert (tmp_path / "out" / "one.bin").read_bytes() == b"one"
    assert desk.json("show", f"entry:{false}")["source"] == "evil"
    desk("forget", f"entry:{false}", "--last-too")
    assert entries(desk.json("list")["backups"]) == [good]


def test_what_is_restored_live_is_what_a_person_agreed_to(desk: Desk) -> None:
    """Also where the newest has the id of an older one: an id alone would mean the older."""
    good = desk.back_up(b"one")
    name = desk.json("list")["backups"][0]["backup"]
    runtime = folder_runtime(desk.topology)

    def asked() -> str:
        return restoring.question(
            runtime, "desk", "desk", backup=None, source="prices", at=None, reason="a test"
        ).backup

    assert asked() == name
    false = desk.lie(name)
    assert asked() == f"entry:{false}"
    done = desk.json("restore", f"entry:{good}", "--live", "--reason", "it was asked for", "--yes")
    assert done["entry"] == good


def test_the_last_backup_of_a_dataset_is_forgotten_only_where_that_is_said(desk: Desk) -> None:
    entry = desk.back_up(b"one")
    for words in (("forget", f"entry:{entry}"), ("forget", f"entry:{entry}", "--dry-run")):
        assert "nothing would be left of a source" in desk(*words, code=3).stderr
    assert entries(desk.json("forget", f"entry:{entry}", "--last-too", "--dry-run")["forgotten"]) == [entry]
    desk("forget", f"entry:{entry}", "--last-too")
    assert desk.json("list")["backups"] == []


def test_a_recovery_point_may_have_to_be_verified_deeper(desk: Desk) -> None:
    """A backup is looked at when it is made; that its bytes are right is another thing."""
    first = desk.back_up(b"one")
    (point,) = desk.json("status")["points"]
    assert (point["depth"], point["met"]) == ("structure", True)
    assert desk.json("status", "--verified", "full", code=1)["points"][0]["verified"] is None
    desk("verify", "--depth", "sample")
    assert desk.json("status", "--verified", "sample")["points"][0]["met"] is True
    desk("status", "--verified", "full", code=1)
    desk("verify", "--depth", "full")
    desk.back_up(b"two")
    (point,) = desk.json("status", "--verified", "full")["points"]
    assert point["verified"] == desk.json("show", f"entry:{first}")["backup"] != point["newest"]
    document = yaml.safe_load(desk.topology.read_text())
    document["vaults"]["desk"]["rpo_depth"] = "full"
    desk.topology.write_text(yaml.safe_dump(document))
    assert desk.json("status")["points"][0]["verified"] == point["verified"]
    assert desk.json("status", "--verified", "structure")["points"][0]["verified"] == point["newest"]


class Versions(NoLocks):
    """The locks of a site in a folder, beside which a folder keeps what was deleted."""

    def __init__(self, store: ObjectStore, hidden: Path) -> None:
        super().__init__(store)
        self.kept, self.hidden = store, hidden

    def objects(self, prefix: str) -> Iterator[LockedObject]:
        yield from super().objects(prefix)
        for file in sorted(self.hidden.rglob("*.hidden")):
            key = str(file.relative_to(self.hidden)).removesuffix(".hidden")
            if key.startswith(prefix):
                yield LockedObject(key, datetime.now(UTC) - timedelta(days=1), hidden=True)

    def reveal(self, found: LockedObject) -> None:
        self.kept.put(found.key, (self.hidden / f"{found.key}.hidden").read_bytes(), mode=OVERWRITE)


def test_what_was_deleted_from_a_bucket_with_locks_is_made_visible_by_a_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies over an older version is left alone: an earlier repair may have put it there."""
    topology = add_vault(make_folders(tmp_path), mirrors=[])
    monkeypatch.setattr(Runtime, "from_environment", lambda *_args, **_kwargs: folder_runtime(topology))
    desk = Desk(topology)
    desk("init")
    desk.back_up(b"one" * 1000)
    vault, hidden = tmp_path / SITES[1] / "vault" / "desk", tmp_path / "hidden"
    packs = [file for file in (vault / "packs").rglob("*") if file.is_file()]
    assert len(packs) > 1
    for file in packs:
        kept = hidden / f"{file.relative_to(vault)}.hidden"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(file.read_bytes() if file != packs[0] else b"an older, damaged version")
        if file != packs[0]:
            file.unlink()
    desk("verify", code=4)
    desk("verify", "--repair", code=4)
    document = yaml.safe_load(topology.read_text())
    document["vaults"]["desk"]["lock_days"] = {"daily": 30}
    topology.write_text(yaml.safe_dump(document))
    monkeypatch.setattr(
        keeping,
        "locks_at",
        lambda runtime, site, *, below: Versions(PrefixedStore(runtime.store(site), below), hidden),
    )
    done = desk.json("verify", "--repair")
    assert done["whole"] is True
    assert done["healed"] == {str(file.relative_to(vault)): "a hidden version of it" for file in packs[1:]}


@pytest.mark.parametrize("error", [PermissionRefused, NotSupported])
def test_what_stays_hidden_is_told_and_keeps_nothing_else_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[ObjectStoreError]
) -> None:
    """One pack, the first of all that is hidden; and as on Azure all of it, which is one sentence."""
    topology = add_vault(make_folders(tmp_path), mirrors=[], lock_days={"daily": 30})
    monkeypatch.setattr(Runtime, "from_environment", lambda *_args, **_kwargs: folder_runtime(topology))
    monkeypatch.setattr(locking, "lock_policy", lambda *_args: None)
    desk = Desk(topology)
    desk("init")
    desk.back_up(b"one" * 1000)
    vault, hidden = tmp_path / SITES[1] / "vault" / "desk", tmp_path / "hidden"
    keys = sorted(
        str(file.relative_to(vault))
        for kind in ("packs", "log-copies")
        for file in (vault / kind).rglob("*")
        if file.is_file()
    )
    for key in keys:
        (hidden / key).parent.mkdir(parents=True, exist_ok=True)
        (vault / key).rename(hidden / f"{key}.hidden")
    refused = [key for key in keys if error is NotSupported or key == next(key for key in keys if "packs" in key)]

    class Refusing(Versions):
        def reveal(self, found: LockedObject) -> None:
            if found.key in refused:
                raise error("not this one", where=found.key)
            super().reveal(found)

    monkeypatch.setattr(
        keeping,
        "locks_at",
        lambda runtime, site, *, below: Refusing(PrefixedStore(runtime.store(site), below), hidden),
    )
    done = desk.json("verify", "--repair", code=4)
    by_version = [key for key, source in done["healed"].items() if source == "a hidden version of it"]
    assert sorted(by_version) == sorted(set(keys) - set(refused))
    (told,) = done["hidden"]
    assert any(key in told for key in refused)
    assert (f"{len(keys)} objects stay hidden" in told) is (error is NotSupported)
    assert "not this one" in desk("verify", "--repair", code=4).stdout
    for kind in ("keys", "log"):
        shutil.rmtree(vault / kind)
    assert "stays hidden" in desk("verify", "--repair", code=4).stderr


def test_a_collection_and_no_repair_removes_shares_of_a_write_that_was_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of a backup that may be running."""
    settings = {"site": SITES[0], "mirrors": [], "witnesses": [SITES[1], SITES[2]]}
    topology = add_vault(make_folders(tmp_path), **settings, shares={"sites": list(SITES), "needed": 2})
    monkeypatch.setattr(Runtime, "from_environment", lambda *_args, **_kwargs: folder_runtime(topology))
    desk = Desk(topology)
    desk("init")
    desk.back_up(os.urandom(20_000))
    shares = [file for file in (tmp_path / SITES[0] / "vault" / "desk" / "packs").rglob("*") if file.is_file()]
    lone: list[Path] = []
    for number, age in enumerate((timedelta(hours=1), timedelta(days=3))):
        name = f"{number:02x}{os.urandom(15).hex()}"
        file = tmp_path / SITES[0] / "vault" / "desk" / "packs" / "daily" / name[:2] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(shares[0].read_bytes())
        at = (datetime.now(UTC) - age).timestamp()
        os.utime(file, (at, at))
        lone.append(file)
    assert "2 packs have too few shares" in desk("verify", "--repair").stdout
    assert [file.exists() for file in lone] == [True, True]
    desk("gc")
    assert [file.exists() for file in lone] == [True, False]


@pytest.mark.parametrize(("below", "depth"), [("vault/desk/packs", "full"), ("vault/desk", "structure")])
def test_a_repair_leaves_the_last_shares_of_what_may_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str, depth: str
) -> None:
    """What two sites had was moved away, days after the backups."""
    settings = {"site": SITES[0], "mirrors": [], "witnesses": [SITES[1], SITES[2]]}
    topology = add_vault(make_folders(tmp_path), **settings, shares={"sites": list(SITES), "needed": 2})
    monkeypatch.setattr(Runtime, "from_environment", lambda *_args, **_kwargs: folder_runtime(topology))
    desk = Desk(topology)
    desk("init")
    desk.back_up(os.urandom(20_000))
    at = (datetime.now(UTC) - timedelta(days=3)).timestamp()
    for site in SITES:
        for file in (tmp_path / site / "vault").rglob("*"):
            if file.is_file():
                os.utime(file, (at, at))
    for site in SITES[1:]:
        (tmp_path / site / below).rename(tmp_path / f"aside-{site}")
    packs = {
        file: file.read_bytes()
        for file in (tmp_path / SITES[0] / below).rglob("*")
        if "packs" in file.parts and file.is_file()
    }
    assert packs
    for _ in range(2):
        desk("verify", "--repair", "--depth", depth, code=4)
        desk("gc", code=4)
    assert {file: file.read_bytes() for file in packs} == packs
    shutil.copytree(tmp_path / f"aside-{SITES[1]}", tmp_path / SITES[1] / below, dirs_exist_ok=True)
    desk("verify", "--repair")
    restored = desk.json("restore", "--source", "prices", "--to", str(tmp_path / "out"))
    assert restored


@pytest.mark.parametrize("named", [(), ("--from", SITES[0])], ids=["all-mirrors", "the-lagging-one-named"])
def test_a_loss_is_accepted_only_of_what_no_mirror_has(
    named: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first mirror was away during the last backup."""
    topology = add_vault(make_folders(tmp_path), mirrors=[SITES[0], SITES[2]], witnesses=[SITES[0], SITES[2]])
    monkeypatch.setattr(Runtime, "from_environment", lambda *_args, **_kwargs: folder_runtime(topology))
    desk = Desk(topology)
    desk("init")
    desk.back_up(b"one" * 1000)
    lagging, vault = (tmp_path / site / "vault" / "desk" for site in SITES[:2])
    before = tmp_path / "before"
    shutil.copytree(lagging, before)
    last = desk.back_up(b"two" * 1000)
    shutil.rmtree(lagging)
    shutil.copytree(before, lagging)
    for file in vault.rglob(f"*{last:012}.json"):
        file.unlink()
    desk("verify", code=4)
    done = desk.json("verify", "--repair", "--accept-loss", *named)
    assert done["whole"] is True
    assert last in entries(desk.json("list")["backups"])
    pack = max((vault / "packs").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    pack.unlink()
    (lagging / pack.relative_to(vault)).unlink(missing_ok=True)
    healed = desk.json("verify", "--repair")["healed"]
    assert list(healed) == [str(pack.relative_to(vault))]
    assert SITES[2] in healed[str(pack.relative_to(vault))]
    shutil.rmtree(tmp_path / SITES[2] / "vault" / "desk")
    desk("verify", "--repair", "--accept-loss", *named, code=3)


def test_what_is_rotten_at_a_mirror_is_written_anew_by_the_command_its_finding_names(
    desk: Desk, tmp_path: Path
) -> None:
    last = desk.back_up(os.urandom(30_000))
    mirror = tmp_path / SITES[2] / "vault" / "desk"
    pack = max((file for file in (mirror / "packs").rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    entry = mirror / "log" / f"{last:012}.json"
    right = {file: file.read_bytes() for file in (pack, entry)}
    for file, data in right.items():
        file.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    found = desk.json("verify", "--from", SITES[2], "--depth", "full", code=4)
    repair = ("mirror", "--repair", "--to", SITES[2])
    assert ["holdfast vault " + " ".join(repair) in warning for warning in found["warnings"]] == [True]
    assert desk.json("mirror")["mirrors"][SITES[2]]["copied"] == 0
    desk("verify", "--from", SITES[2], "--depth", "full", code=4)
    done = desk.json(*repair)["mirrors"][SITES[2]]
    assert (done["whole"], done["lost"]) == (True, [])
    assert set(done["healed"]) == {str(file.relative_to(mirror)) for file in right}
    assert {file: file.read_bytes() for file in right} == right
    desk("verify", "--from", SITES[2], "--depth", "full")
    assert desk.json("mirror", "--repair")["mirrors"][SITES[2]]["healed"] == {}
    assert "0 objects put back" in desk("mirror", "--repair").stdout
    desk("mirror", "--to", SITES[1], code=2)
    own = tmp_path / SITES[1] / "vault" / "desk" / pack.relative_to(mirror)
    own.unlink()
    pack.unlink()
    assert desk.json("mirror", "--repair", code=4)["mirrors"][SITES[2]]["lost"]
