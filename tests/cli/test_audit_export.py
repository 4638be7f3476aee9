"""`holdfast audit export`: what a seal is not, and what is refused before anything is sealed."""

from __future__ import annotations

import json
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
