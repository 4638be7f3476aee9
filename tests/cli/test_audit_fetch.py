"""`holdfast audit fetch`: sealed exports brought from a site of the ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from audit_world import add_audit
from folders import make_folders
from holdfast.cli.main import app
from holdfast.engine.audit.chain import exports_below


class Desk:
    """A ledger with three seals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.topology = add_audit(make_folders(folder), sites=["site-a", "site-b"])
        for _ in range(3):
            assert self("export").exit_code == 0

    def __call__(self, command: str, *words: str | Path) -> Result:
        return CliRunner().invoke(app, ["audit", command, "--topology", str(self.topology), *map(str, words)])

    def fetched(self, *words: str | Path) -> dict[int, Path]:
        done = self("fetch", "--output", self.folder / "out", "--json", *words)
        assert done.exit_code == 0, done.output
        return {one["seal"]: Path(one["folder"]) for one in json.loads(done.stdout)["exports"]}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("HOLDFAST_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("AIRFLOW_CONN_NONE", json.dumps({"conn_type": "generic"}))
    return Desk(tmp_path)


def test_what_was_fetched_from_any_site_verifies(desk: Desk) -> None:
    assert list(desk.fetched()) == [2]
    assert list(desk.fetched("--last", 2)) == [1, 2]
    found = desk.fetched("0", "1", "2", "--site", "site-b")
    assert sorted(path for path in (desk.folder / "out").iterdir()) == sorted(found.values())
    keys = desk.folder / "keys"
    keys.write_text("\n".join(json.loads(desk("keys", "--json").stdout)["keys"]))
    done = CliRunner().invoke(app, ["audit", "verify", str(desk.folder / "out"), "--key", str(keys), "--json"])
    assert json.loads(done.stdout)["verdict"] != "tampered", done.output


def test_a_run_that_was_cut_off_is_gone_on_with(desk: Desk) -> None:
    (folder,) = desk.fetched("1").values()
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    half = folder.with_name(f".{folder.name}.0.part")
    folder.rename(half)
    (half / "manifest.json").unlink()
    assert list(desk.fetched("1").values()) == [folder]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == whole
    notes: list[str] = []
    assert exports_below(folder.parent, note=notes.append) == [folder]
    assert [half.name in note for note in notes] == [True]


@pytest.mark.parametrize(
    ("words", "found"),
    [(["7"], "there is no such seal"), (["--site", "nowhere"], "the ledger does not lie there")],
)
def test_what_is_not_there_is_told(desk: Desk, words: list[str], found: str) -> None:
    done = desk("fetch", "--output", desk.folder / "out", *words)
    assert (done.exit_code, found in done.stderr) == (2, True), done.output
    assert not (desk.folder / "out").exists()


def test_a_place_that_cannot_be_written_is_told(desk: Desk) -> None:
    (desk.folder / "file").write_text("")
    done = desk("fetch", "--output", desk.folder / "file" / "x")
    assert (done.exit_code, "Traceback" in done.stderr) == (2, False), done.output
