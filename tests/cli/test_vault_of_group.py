"""Which vault a group's command means: one of the group's own, and no other of the topology."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from folders import SITES, add_vault, folder_runtime, make_folders
from holdfast.engine.pipeline.vaults import backing_up, restoring
from holdfast.engine.pipeline.vaults.backing_up import NotMirrored
from holdfast.engine.vault.sources import TreeSource
from holdfast.errors import ConfigError
from vault_command import Vaults


@pytest.fixture
def vaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vaults:
    """The group ``desk`` has the vault ``desk``; ``other`` is somebody else's."""
    topology = add_vault(make_folders(tmp_path))
    document = yaml.safe_load(topology.read_text())
    document["vaults"]["other"] = {**document["vaults"]["desk"], "mirrors": []}
    topology.write_text(yaml.safe_dump(document))
    made = Vaults(topology).here(monkeypatch)
    made.put("one.bin", b"first" * 1000)
    for name in ("desk", "other"):
        made("init", "--vault", name)
    return made


@pytest.mark.parametrize(
    "words",
    [
        ("backup", "group"),
        ("backup", "run", "desk-volatility"),
        ("restore", "--live", "--reason", "x", "--yes", "--source", "prices"),
        ("drill", "run"),
    ],
    ids=" ".join,
)
def test_a_vault_that_is_none_of_the_groups_is_refused(vaults: Vaults, words: tuple[str, ...]) -> None:
    said = vaults(*words, "--vault", "other", code=2).stderr
    assert "the vault is none of the group's; expected one of desk; found other" in said
    assert vaults.json("list", "--vault", "other")["backups"] == []


def test_nobody_is_asked_about_another_groups_backup(vaults: Vaults) -> None:
    runtime = folder_runtime(vaults.topology)
    with pytest.raises(ConfigError, match="none of the group's"):
        restoring.question(runtime, "desk", "other", backup=None, source="prices", at=None, reason="x")


def test_what_is_not_named_is_the_groups_own(vaults: Vaults, tmp_path: Path) -> None:
    vaults("backup", "group")
    assert [one["source"] for one in vaults.json("list", "--vault", "desk")["backups"]] == ["prices"]
    assert vaults.json("list", "--vault", "other")["backups"] == []
    assert vaults.json("restore", "--live", "--reason", "x", "--yes")["vault"] == "desk"
    assert (
        vaults.json("drill", "run", "--to-site", SITES[2], "--output", str(tmp_path / "ev"))["vault"]["name"] == "desk"
    )
    assert "which vault is not clear" in vaults("restore", "--to", "/nowhere", code=2).stderr


def test_what_is_nobodys_data_goes_into_any_vault_and_back(vaults: Vaults, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a").write_bytes(b"a")
    vaults("backup", "tree", str(tmp_path / "notes"), "--name", "notes", "--vault", "other")
    vaults("restore", "--vault", "other", "--to", str(tmp_path / "out"))
    assert (tmp_path / "out" / "a").read_bytes() == b"a"


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vaults = Vaults(add_vault(make_folders(tmp_path, bonds={}, prices={}, swaps={}))).here(monkeypatch)
    vaults("init")
    vaults.put("one.bin", b"first")  # of `prices` alone: the others have no snapshot
    tried = list(backing_up.back_up_group(folder_runtime(vaults.topology), "desk"))
    assert [(one.subject, one.made is not None) for one in tried] == [
        ("bonds", False),
        ("prices", True),
        ("swaps", False),
    ]
    assert [one.error is None for one in tried] == [False, True, False]
    done = vaults.json("backup", "group", code=tried[0].error.exit_code if tried[0].error else 0)
    assert ([one["source"] for one in done["backups"]], len(done["errors"])) == (["prices"], 2)


def test_a_backup_whose_mirror_is_away_is_made_and_told_of(vaults: Vaults, tmp_path: Path) -> None:
    (tmp_path / SITES[2] / "vault").write_bytes(b"in the way")
    (one,) = backing_up.back_up_group(folder_runtime(vaults.topology), "desk")
    assert one.made is not None
    assert isinstance(one.error, NotMirrored)


def test_a_time_is_utc_wherever_it_is_typed(vaults: Vaults, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    runtime = folder_runtime(vaults.topology)
    made = backing_up.back_up_source(runtime, "desk", TreeSource("notes", tmp_path / "notes", runtime.clock.now()))
    words = ("--vault", "desk", "--source", "notes")
    before, after = "2001-01-01T00:00:00", "2999-01-01T00:00:00"
    for command in (("show",), ("restore", "--to", str(tmp_path / "out"))):
        assert vaults.json(*command, *words, "--at", after)["backup"] == made.report.backup.backup_id
        vaults(*command, *words, "--at", before, code=2)
