"""Real processes, killed at a write of theirs by SIGKILL, on a vault in a folder."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.engine.vault.forget import Keep, forget
from holdfast.engine.vault.mirror import mirror_vault
from vault_faults import AT_ONCE, Sites, folder_sites, some_files

OPERATIONS = ("backup", "forget", "collect", "mirror")
MOST_WRITES = 60


def base(folder: Path, operation: str) -> Sites:
    sites = folder_sites(folder).make()
    sites.back_up(some_files(), state="first")
    sites.back_up({**some_files(), "part-1/01": b"x" * 900}, state="second")
    sites.states["changed"] = {**some_files(), "part-0/00": b"changed", "new": b"new" * 300}
    if operation == "collect":
        files = some_files()
        sites.back_up({path: files[path] for path in sorted(files)[::3]}, state="third")
        forget(sites.open("admin"), Keep(last=1))
    return sites


def run(folder: Path, operation: str, nth: int, how: str) -> int:
    """The return code of the process."""
    command = [sys.executable, str(Path(__file__).with_name("dying_process.py")), str(folder)]
    return subprocess.run([*command, operation, str(nth), how], timeout=120, check=False).returncode


def check_after(sites: Sites, operation: str, at_least: set[str]) -> None:
    sites.check_live(at_least=at_least)
    sites.back_up(sites.states["changed"], state="changed")
    backups = sites.check_live(at_least=at_least)
    assert backups[-1].labels["state"] == "changed"
    for _ in range(3):
        sites.collect(AT_ONCE)
    if operation == "mirror":
        mirror_vault(sites.vault, sites.mirror)
        sites.check_live(store=sites.mirror)
    sites.check_live(at_least=at_least)
    sites.check_verifies()


@pytest.mark.parametrize(
    ("operation", "nth", "how"),
    [("backup", 0, "middle"), ("backup", 4, "after"), ("collect", 3, "middle"), ("mirror", 7, "middle")],
)
def test_a_killed_process_leaves_nothing_to_unlock(operation: str, nth: int, how: str, tmp_path: Path) -> None:
    sites = base(tmp_path, operation)
    was = {backup.backup_id for backup in sites.live()}
    assert run(tmp_path, operation, nth, how) == -signal.SIGKILL
    check_after(sites, operation, was)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", ["before", "middle", "after"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_process_killed_at_every_write_leaves_nothing_to_unlock(operation: str, how: str, tmp_path: Path) -> None:
    for nth in range(MOST_WRITES):
        folder = tmp_path / f"{nth}"
        sites = base(folder, operation)
        was = {backup.backup_id for backup in sites.live()}
        code = run(folder, operation, nth, how)
        check_after(sites, operation, was if operation != "forget" else {sites.live()[-1].backup_id})
        if code == 0:  # it had no such write any more
            assert nth >= 4
            return
        assert code == -signal.SIGKILL
    raise AssertionError("an operation of more writes than this tries")


def test_what_a_killed_write_left_in_a_folder_is_no_object(tmp_path: Path) -> None:
    sites = base(tmp_path, "backup")
    assert run(tmp_path, "backup", 0, "middle") == -signal.SIGKILL
    assert any((tmp_path / "vault").rglob("*#1"))  # more than one where another thread was writing too
    assert not [info.key for info in sites.vault.list() if "#" in info.key]
    sites.collect()
    sites.check_live()
