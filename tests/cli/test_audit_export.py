"""`holdfast audit export`: what a seal is not, and what is refused before anything is sealed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from audit_world import add_audit
from folders import make_folders
from holdfast.cli.main import app


class Desk:
    """A topology in folders with a ledger at some of its sites."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.topology = add_audit(make_folders(folder), sites=["site-a", "site-b", "site-c"])

    def export(self, *words: str | Path) -> Result:
        return CliRunner().invoke(app, ["audit", "export", "--topology", str(self.topology), *map(str, words)])

    def away(self, *sites: str) -> None:
        """These do not answer."""
        for site in sites:
            (self.folder / site).rename(self.folder / f"{site}-away")
            (self.folder / site).write_text("no folder")

    def back(self, *sites: str) -> None:
        for site in sites:
            (self.folder / site).unlink()
            (self.folder / f"{site}-away").rename(self.folder / site)

    def seals(self, site: str = "site-a") -> list[str]:
        return sorted(path.name for path in (self.folder / site / "ledger" / "seals").glob("*"))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("HOLDFAST_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("AIRFLOW_CONN_NONE", json.dumps({"conn_type": "generic"}))
    monkeypatch.delenv("HOLDFAST_SIGNING_KEY", raising=False)
    return Desk(tmp_path)


def codes(done: Result) -> list[tuple[str, str]]:
    told: Any = json.loads(done.stdout)
    return [(one["code"], one["where"]) for one in told["problems"]]


def test_a_lock_that_was_asked_for_and_is_not_set_is_told(desk: Desk) -> None:
    add_audit(desk.topology, sites=["site-a", "site-b"], lock_mode="compliance", retention=["dora"])
    done = desk.export("--json")
    assert (done.exit_code, codes(done)) == (0, [("not-locked", "site-a"), ("not-locked", "site-b")])
    assert "site-b: not locked, though that was asked for: seal 0; expected a compliance lock; found a l" in done.stderr


@pytest.mark.parametrize(
    ("away", "code", "found"),
    [
        ((), 0, []),
        (("site-c",), 0, [("site-lacks-seal", "site-c")]),
        (
            ("site-b", "site-c"),
            6,
            [("site-lacks-seal", "site-b"), ("site-lacks-seal", "site-c"), ("one-cloud", "site-a")],
        ),
    ],
)
def test_a_seal_that_is_not_everywhere_says_so(
    desk: Desk, away: tuple[str, ...], code: int, found: list[tuple[str, str]]
) -> None:
    desk.away(*away)
    done = desk.export("--json")
    assert (done.exit_code, codes(done), json.loads(done.stdout)["exit_code"]) == (code, found, code)
    assert [site in done.stderr for site in ("site-b", "site-c")] == [site in away for site in ("site-b", "site-c")]
    assert ("one cloud alone" in done.stderr) == (code == 6)
    desk.back(*away)
    again = desk.export()
    assert (again.exit_code, "holdfast:" in again.stderr) == (0, False)
    assert desk.seals("site-c") == desk.seals() == ["00000000.json", "00000001.json"]


def refuses(desk: Desk, *words: str | Path) -> str:
    """One clear error, before anything is sealed and with nothing left behind."""
    before = set(desk.folder.rglob("*"))
    done = desk.export(*words)
    assert (done.exit_code, type(done.exception)) == (2, SystemExit), done.output
    assert desk.seals() == []
    assert not {path for path in set(desk.folder.rglob("*")) - before if "state" not in path.parts}
    return done.stderr


def test_documents_that_cannot_be_sealed_are_refused(desk: Desk) -> None:
    inner = desk.folder / "inner"
    inner.mkdir()
    named = [desk.folder / "a b é.txt", desk.folder / "report.txt", inner / "Report.txt"]
    for file in named:
        file.write_text("found")
    os.mkfifo(desk.folder / "pipe")
    output = ("--output", desk.folder / "out")
    assert "a document's name cannot be one of an export" in refuses(desk, *output, "--document", named[0])
    told = refuses(desk, *output, "--document", named[1], "--document", named[2])
    assert "attached/Report.txt: two documents have the same name" in told
    assert "the document is no file" in refuses(desk, *output, "--document", desk.folder / "pipe")
    assert "the document is no file" in refuses(desk, *output, "--document", inner)
    assert "the document cannot be read" in refuses(desk, *output, "--document", desk.folder / "none")


def test_a_place_that_cannot_take_the_copy_is_refused(desk: Desk) -> None:
    file = desk.folder / "file"
    file.write_text("mine")
    for place in (file, file / "x", Path("/proc/x"), Path("/proc/self"), desk.folder / ("n" * 300), desk.folder):
        assert str(place) in refuses(desk, "--output", place)
    assert file.read_text() == "mine"


def test_a_refused_export_leaves_no_folder(desk: Desk) -> None:
    kept = desk.folder / "kept"
    kept.mkdir()
    for place in (desk.folder / "new" / "out", kept):
        refuses(desk, "--output", place, "--until", "2140-01-01")
    assert kept.is_dir()


def test_a_copy_that_fails_after_the_seal_names_the_sealed_export(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    copyfile, out, copied = shutil.copyfile, desk.folder / "out", list[Any]()

    def full(source: Path, target: Path) -> Any:
        if str(target).startswith(str(out)):
            copied.append(target)
            if len(copied) == 3:
                target.write_bytes(b"half")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copyfile(source, target)

    monkeypatch.setattr("holdfast.engine.audit.handing.shutil.copyfile", full)
    done = desk.export("--output", out)
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert "the export is sealed, but its copy could not be written" in done.stderr
    assert "No space left" in done.stderr
    (folder,) = (desk.folder / "site-a" / "ledger" / "exports").iterdir()
    assert f"exports/{folder.name}" in done.stderr
    assert not [path for path in out.rglob("*") if path.is_file()]
    assert desk.seals() == ["00000000.json"]
    assert desk.export("--output", desk.folder / "next").exit_code == 0
    assert desk.seals("site-c") == desk.seals() == ["00000000.json", "00000001.json"]


def test_the_command_to_verify_a_copy_is_told_with_the_keys(desk: Desk) -> None:
    out = desk.folder / "out"
    done = desk.export("--output", out)
    assert f"holdfast audit verify {out} --key KEYS" in done.stdout


def test_the_help_of_all_commands_lists_the_exit_codes_of_audit() -> None:
    told = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    assert "5 damaged or tampered with, 6 incomplete, 7 unknown" in told
