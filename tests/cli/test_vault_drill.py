"""`holdfast vault drill run` that is stopped, or cannot write what it would sign."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from folders import SITES, add_vault, make_folders
from holdfast.cli.main import app
from holdfast.engine.vault.targets import PrefixTarget
from vault_command import Vaults


@pytest.fixture
def vaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vaults:
    made = Vaults(add_vault(make_folders(tmp_path))).here(monkeypatch)
    made.put("one.bin", b"first" * 1000)
    made.put("two.bin", b"second" * 1000)
    made("init")
    made("backup", "group")
    return made


def left_at(folder: Path) -> list[Path]:
    return [path for site in SITES for path in (folder / site / "restore-drills").rglob("*") if path.is_file()]


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("again", [1, 3], ids=["once", "impatient"])
def test_an_interrupted_drill_exits_as_one_and_is_in_no_later_ones_way(
    vaults: Vaults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: signal.Signals, again: int
) -> None:
    real = PrefixTarget.write
    there: list[Path] = []

    def write(self: PrefixTarget, *arguments: Any) -> None:
        real(self, *arguments)
        there.extend(left_at(tmp_path))
        for _ in range(again):
            os.kill(os.getpid(), which)

    with monkeypatch.context() as patched:
        patched.setattr(PrefixTarget, "write", write)
        done = vaults.json("drill", "run", "--output", str(tmp_path / "evidence"), code=130)
    assert there, "it was in the middle of its restore"
    assert (done["status"], done["verdict"]) == ("interrupted", "aborted")
    assert done["error"]["what"] == "the drill was interrupted"
    assert which.name in done["error"]["found"]
    assert left_at(tmp_path) == []
    assert CliRunner().invoke(app, ["drill", "verify", str(tmp_path / "evidence")]).exit_code == 0
    assert json.loads((tmp_path / "evidence" / "journal.json").read_text())["status"] == "interrupted"
    assert vaults.json("drill", "run", "--output", str(tmp_path / "next"))["verdict"] == "pass"


def test_evidence_that_cannot_be_written_is_told_before_anything_is_restored(vaults: Vaults, tmp_path: Path) -> None:
    (tmp_path / "evidence").write_bytes(b"in the way")
    for folder in ("evidence", "evidence/below"):
        said = vaults("drill", "run", "--output", str(tmp_path / folder), code=2).stderr
        assert "the evidence cannot be written here" in said
        assert "restore: begun" not in said
