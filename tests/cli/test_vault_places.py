"""Where in a site's bucket a backup may be restored: nowhere that something alive reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from folders import SITES, add_vault, make_folders
from holdfast.engine.config.references import TAKEN
from holdfast.engine.vault.layout import WITNESS
from vault_command import Vaults
from vault_world import read_tree


@pytest.fixture
def vaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vaults:
    """The vault lies in ``backups/eu`` at the second and the third site."""
    made = Vaults(add_vault(make_folders(tmp_path), prefix="backups/eu")).here(monkeypatch)
    made.put("one.bin", b"first")
    made("init")
    made("backup", "group")
    return made


@pytest.mark.parametrize("site", [SITES[1], SITES[2]], ids=["vault", "mirror"])
@pytest.mark.parametrize("prefix", ["backups/eu", "backups/eu/packs", "/backups/eu/", "backups"])
def test_a_vaults_own_folder_is_no_place_to_restore_to(vaults: Vaults, tmp_path: Path, site: str, prefix: str) -> None:
    before = read_tree(tmp_path / site)
    assert "the vault desk lies in backups/eu" in vaults("restore", "--to-site", f"{site}:{prefix}", code=2).stderr
    assert read_tree(tmp_path / site) == before


@pytest.mark.parametrize("prefix", ["backups", "backups/eu"])
def test_the_same_folder_where_no_vault_lies_is_one(vaults: Vaults, tmp_path: Path, prefix: str) -> None:
    vaults("restore", "--to-site", f"{SITES[0]}:{prefix}")
    assert (tmp_path / SITES[0] / prefix / "one.bin").read_bytes() == b"first"


@pytest.mark.parametrize("prefix", ["backups/europe", "restored", "runs/desk-volatility"])
def test_a_folder_of_its_own_is_a_place(vaults: Vaults, tmp_path: Path, prefix: str) -> None:
    vaults("restore", "--to-site", f"{SITES[1]}:{prefix}")
    assert (tmp_path / SITES[1] / prefix / "one.bin").read_bytes() == b"first"


@pytest.mark.parametrize(
    "prefix",
    ["", "data", "data/prices", "snapshots/prices", "feeds/prices", "vault-witness/x", "vault", "evidence/1", "plans"],
)
def test_what_is_alive_has_its_folders_for_itself(vaults: Vaults, prefix: str) -> None:
    assert "not restored to this prefix" in vaults("restore", "--to-site", f"{SITES[0]}:{prefix}", code=2).stderr


@pytest.mark.parametrize("prefix", ["./data/prices", "restored/../data/prices", "restored//x", "restore-drills/x"])
def test_no_spelling_leads_around_it(vaults: Vaults, tmp_path: Path, prefix: str) -> None:
    before = read_tree(tmp_path / SITES[0])
    assert "not restored to this prefix" in vaults("restore", "--to-site", f"{SITES[0]}:{prefix}", code=2).stderr
    assert read_tree(tmp_path / SITES[0]) == before


@pytest.mark.parametrize("prefix", ["recovery/airflow", "recovery/airflow/archive", "recovery"])
def test_the_repository_of_airflows_recovery_is_no_place_to_restore_to(vaults: Vaults, prefix: str) -> None:
    document = yaml.safe_load(vaults.topology.read_text())
    recovery = {"site": SITES[0], "prefix": "recovery/airflow", "passphrase": "env:X", "data_folder": "/data"}
    vaults.topology.write_text(yaml.safe_dump({**document, "airflow": {"recovery": recovery}}))
    told = vaults("restore", "--to-site", f"{SITES[0]}:{prefix}", code=2).stderr
    assert "Airflow's recovery lies in recovery/airflow" in told
    vaults("restore", "--to-site", f"{SITES[1]}:{prefix}")


def test_the_witness_folder_is_among_what_is_taken() -> None:
    assert WITNESS.rstrip("/") in TAKEN
