"""`holdfast sync` as somebody types it: text and JSON, exit codes, and Ctrl-C."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from folders import SITES, folder_runtime, make_folders
from holdfast.cli.main import app
from holdfast.cli.sync_progress import sync_progress
from holdfast.cli.sync_tables import print_report
from holdfast.clock import FakeClock
from holdfast.engine.replication.sync import SyncProgress, SyncReport
from holdfast.engine.runtime import Runtime


@dataclass
class Folders:
    """Three sites in folders, and the command over them."""

    topology: Path

    def put(self, name: str, data: bytes, site: str = "site-a", dataset: str = "prices") -> None:
        file = self.topology.parent / site / "data" / dataset / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def __call__(self, *words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(app, ["sync", *words])
        assert done.exit_code == code, done.output + done.stderr
        assert "Traceback" not in done.output + done.stderr
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code).stdout)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Folders]:
    def made(**datasets: dict[str, Any]) -> Folders:
        topology = make_folders(tmp_path, **datasets)
        monkeypatch.setattr(Runtime, "from_environment", lambda *_args, **_kwargs: folder_runtime(topology))
        return Folders(topology)

    return made


@pytest.fixture
def sites(make: Callable[..., Folders]) -> Folders:
    """One dataset with one object at the active site."""
    found = make()
    found.put("one.bin", b"first")
    return found


def test_a_run_brings_the_dataset_everywhere_and_a_second_one_copies_nothing(sites: Folders) -> None:
    first = sites.json("run")
    assert (first["ok"], first["datasets"][0]["dataset"]) == (True, "prices")
    assert {one["site"]: one["copied_objects"] for one in first["datasets"][0]["report"]["targets"]} == {
        "site-b": 1,
        "site-c": 1,
    }
    again = sites.json("run")["datasets"][0]["report"]
    assert again["record"] is None
    assert again["snapshot_id"] == first["datasets"][0]["report"]["snapshot_id"]
    assert "nothing had changed" in sites("run").stdout


def test_a_plan_says_what_a_run_would_do_and_moves_nothing(make: Callable[..., Folders]) -> None:
    sites = make(prices={"residency": "eu-only"})
    sites.put("one.bin", b"first")
    sites.put("two.bin", b"other")
    made = sites.json("run", "--dry-run")["plans"][0]
    targets = {one["site"]: one for one in made["targets"]}
    assert (made["copy_objects"], made["copy_bytes"]) == (2, 10)
    assert (targets["site-b"]["copy_objects"], targets["site-b"]["refused"]) == (2, None)
    assert (targets["site-c"]["copy_objects"], "jurisdiction" in targets["site-c"]["refused"]) == (0, True)
    assert sites.json("snapshots") == []
    assert not (sites.topology.parent / "site-b" / "data").exists()
    stored = sites.topology.parent / "site-a" / "sync-plans" / "prices" / made["plan_id"] / "plan.json"
    assert json.loads(stored.read_text())["plan_id"] == made["plan_id"]
    assert sites("run").exit_code == 0
    sites.put("two.bin", b"changed")
    shown = sites("plan").stdout
    assert "1 objects (7 bytes) would be read at site-a" in shown
    assert "changed 1" in shown
    (sites.topology.parent / "site-b").rename(sites.topology.parent / "away")
    assert "site-b" in sites.json("plan", code=1)["plans"][0]["unreachable"]


def test_what_is_left_out_for_its_name_is_said_by_a_plan_and_by_a_run(sites: Folders) -> None:
    sites.put("back\\slash", b"odd")
    (refused,) = sites.json("plan")["plans"][0]["refused_objects"]
    assert (refused["path"], "backslash" in refused["reason"]) == ("back\\slash", True)
    assert "1 objects would not be in the snapshot" in sites("plan").stdout
    report = sites.json("run")["datasets"][0]["report"]
    assert report["refused_objects"] == [refused]
    assert all(target["error"] is None for target in report["targets"])
    assert "1 objects not in the snapshot" in sites("run").stdout


def test_a_name_that_a_site_cannot_hold_is_said_by_a_plan_and_fails_that_site(sites: Folders) -> None:
    sites.put("y" * 254, b"long")
    plan = sites.json("plan")["plans"][0]
    assert [one["path"] for one in plan["not_held"]["site-b"]] == ["y" * 254]
    assert "cannot be kept at site-b" in " ".join(sites("plan").stdout.split())
    done = sites.json("run", code=1)
    assert "sync.filters.exclude" in json.dumps(done)


def test_the_status_of_every_site_is_shown(sites: Folders) -> None:
    assert [site["snapshot_id"] for site in sites.json("status")[0]["sites"]] == [None, None, None]
    sites("run")
    found = sites.json("status")[0]
    assert [(site["site"], site["role"], site["missing_snapshots"]) for site in found["sites"]] == [
        ("site-a", "active", 0),
        ("site-b", "standby", 0),
        ("site-c", "witness", 0),
    ]
    assert len({site["snapshot_id"] for site in found["sites"]}) == 1
    assert all(site["point_in_time"]["how"] for site in found["sites"])
    shown = sites("status").stdout
    assert "point" in shown
    assert all(site in shown for site in SITES)


def test_verify_ends_with_an_error_when_a_bit_is_wrong(sites: Folders) -> None:
    sites("run")
    assert sites.json("verify")["ok"] is True
    for file in (sites.topology.parent / "site-b" / "data").rglob("one.bin"):
        file.write_bytes(b"firsT")
    found = sites.json("verify", code=1)
    assert found["ok"] is False
    assert {one["site"]: one["report"]["corrupt"] for one in found["datasets"]["prices"]} == {
        "site-a": [],
        "site-b": ["one.bin"],
        "site-c": [],
    }
    shown = sites("verify", "--site", "site-b", code=1).stdout
    assert "damaged" in shown
    assert "one.bin" in shown
    assert "whole" in sites("verify", "--site", "site-c").stdout


def test_snapshots_are_listed_and_compared(sites: Folders) -> None:
    sites("run")
    sites.put("two.bin", b"second")
    sites("run")
    newest, oldest = sites.json("snapshots")
    assert newest["parent"] == oldest["snapshot_id"]
    assert len(sites.json("snapshots", "--limit", "1", "--site", "site-b")) == 1
    assert "The same 2 objects" in sites("diff").stdout
    assert sites.json("diff")["same"] is True
    shown = sites("diff", "--right", f"site-b@{oldest['snapshot_id'][:12]}", code=1).stdout
    assert "+ two.bin" in shown
    assert "1 added, 0 changed, 0 removed, 1 the same" in shown
    assert sites.json("diff", "--left", oldest["snapshot_id"], "--right", "site-b", code=1)["removed"][0]["path"]


def test_a_rollback_makes_the_earlier_content_the_newest_everywhere_and_can_itself_be_undone(sites: Folders) -> None:
    sites("run")
    old = sites.json("snapshots")[0]["snapshot_id"]
    sites.put("two.bin", b"second")
    sites("run")
    sites("rollback", old[:10], "--reason", "two was wrong", code=1)  # nobody said yes
    assert len(sites.json("snapshots")) == 2
    done = sites.json("rollback", old[:10], "--reason", "two was wrong", "--yes")
    assert done["rolled_back_to"] == old
    assert {one["site"]: one["error"] for one in done["targets"]} == {"site-b": None, "site-c": None}
    newest, left, _ = sites.json("snapshots", "--site", "site-b")
    assert newest["labels"]["rollback_reason"] == "two was wrong"
    assert newest["object_count"] == 1
    assert sites.json("run")["datasets"][0]["report"]["record"] is None  # what lies in the folder is no new data
    shown = sites("rollback", left["snapshot_id"], "--reason", "it was right", "--yes").stdout
    assert f"has the content of {left['snapshot_id']}" in shown
    assert sites.json("snapshots")[0]["object_count"] == 2
    assert sites.json("verify")["ok"] is True


def test_a_site_that_is_gone_is_told_and_the_others_are_served(sites: Folders) -> None:
    (sites.topology.parent / "site-b").rename(sites.topology.parent / "elsewhere")
    done = sites("run", code=1)
    assert "site-b" in done.stderr
    assert "verified" in done.stdout
    (sites.topology.parent / "site-b").mkdir()
    assert sites.json("run")["ok"] is True


def test_data_that_breaks_its_suite_is_not_published_and_other_datasets_are(make: Callable[..., Folders]) -> None:
    sites = make(bad={"expectations": "suite.json"}, good={})
    (sites.topology.parent / "suite.json").write_text('{"name": "s", "expectations": []}')
    sites.put("one.txt", b"no Parquet", dataset="bad")
    sites.put("one.bin", b"anything", dataset="good")
    found = sites.json("run", code=1)
    assert {one["dataset"]: one["ok"] for one in found["datasets"]} == {"bad": False, "good": True}
    assert sites.json("snapshots", "--dataset", "bad") == []


@pytest.mark.parametrize(
    ("words", "code", "word"),
    [
        (("run", "--group", "nope"), 2, "nope"),
        (("run", "--dataset", "nope"), 2, "nope"),
        (("verify", "--site", "nope"), 2, "nope"),
        (("verify", "--site", "site-b"), 2, "no snapshot"),
        (("verify", "--site", "site-b", "--snapshot", "0123"), 2, "0123"),
        (("snapshots", "--site", "nope"), 2, "nope"),
        (("rollback", "0123", "--reason", "why", "--yes"), 2, "0123"),
        (("rollback", "0123", "--reason", " ", "--yes"), 2, "reason"),
    ],
)
def test_what_is_not_there_is_bad_input_and_one_clear_message(
    sites: Folders, words: tuple[str, ...], code: int, word: str
) -> None:
    done = sites(*words, code=code)
    assert word in done.stderr
    assert json.loads(CliRunner().invoke(app, ["sync", *words, "--json"]).stdout)


def test_which_dataset_must_be_clear_where_one_is_meant(make: Callable[..., Folders]) -> None:
    assert "--dataset" in make(one={}, two={})("snapshots", code=2).stderr


def seen(done: int, phase: Any = "copying") -> SyncProgress:
    return SyncProgress(phase, done, 100, done * 1000, 100_000)


def test_progress_off_a_terminal_is_a_line_now_and_then_with_rate_and_time_left() -> None:
    clock, text = FakeClock(), io.StringIO()
    with sync_progress(Console(file=text, width=200), "prices", clock) as tell:
        for done in range(101):
            tell(seen(done))
            clock.advance(0.125)
    lines = text.getvalue().splitlines()
    assert lines[0] == "prices copying: 0/100 objects, 0 bytes/100.0 kB"
    assert lines[1] == "prices copying: 40/100 objects, 40.0 kB/100.0 kB, 8.0 kB/s, 8 s left"
    assert len(lines) <= 4
    assert lines[-1].startswith("prices copying: 100/100 objects")


def test_progress_on_a_terminal_is_a_bar_with_rate_and_time_left() -> None:
    text = io.StringIO()
    console = Console(file=text, width=200, force_terminal=True, color_system=None)
    with sync_progress(console, "prices", FakeClock()) as tell:
        tell(seen(0))
        tell(seen(40))
    shown = text.getvalue()
    assert "prices copying" in shown
    assert "40/100 objects" in shown
    assert "B/s" in shown or "?" in shown


def test_what_two_sites_both_changed_is_shown_and_is_an_exit_code(make: Callable[..., Folders]) -> None:
    sites = make()
    sites.put("one.bin", b"first")
    sites.put("two.bin", b"first")
    sites("run")
    assert sites.json("conflicts")["report"]["differences"] == []
    assert "0 objects differ" in sites("conflicts").stdout
    for site, data in (("site-a", b"from a"), ("site-b", b"from b!")):
        sites.put("one.bin", data, site)
    sites.put("only.bin", b"new", "site-b")
    found = sites.json("conflicts", code=3)
    assert (found["conflicts"], found["unsettled"], found["report"]["peer"]) == (1, 1, "site-b")
    shown = " ".join(sites("conflicts", code=3).stdout.split())
    assert "'one.bin': both changed; a person decides" in shown
    assert "'only.bin': added at site-b; site-b's version goes to site-a" in shown
    assert "Nothing was merged" in shown
    assert "site-a's version goes to site-b" in " ".join(sites("conflicts", "--winner", "site-a").stdout.split())
    sites("conflicts", "--winner", "site-c", code=2)


BOTH = {"direction": "active-active", "winner": "site-b"}


def two_writers(make: Callable[..., Folders], **policy: Any) -> Folders:
    """A first snapshot everywhere, then each site changes an object of its own and both change one."""
    sites = make(prices={"sync": {}})
    for name in ("one.bin", "two.bin", "three.bin"):
        sites.put(name, b"first")
    sites("run")
    sites.put("one.bin", b"from a")
    sites.put("two.bin", b"from b!", "site-b")
    for site, data in (("site-a", b"from a"), ("site-b", b"from b!")):
        sites.put("three.bin", data, site)
    document = yaml.safe_load(sites.topology.read_text())
    document["datasets"]["prices"]["sync"] = {**BOTH, **policy}
    sites.topology.write_text(yaml.safe_dump(document))
    return sites


def test_a_run_merges_what_two_sites_wrote_and_names_who_was_overruled(make: Callable[..., Folders]) -> None:
    sites = two_writers(make)
    assert "is not in this plan" in sites("plan").stdout
    report = sites.json("run")["datasets"][0]["report"]
    merge = report["merge"]
    assert (merge["peer"], merge["winner"]) == ("site-b", "site-b")
    assert (merge["from_active_objects"], merge["from_peer_objects"]) == (1, 1)
    (one,) = merge["overruled"]
    assert (one["path"], one["site"], one["what"]) == ("three.bin", "site-a", "changed")
    assert one["key"] == "data/prices/three.bin"
    assert (sites.topology.parent / "site-a" / one["key"]).read_bytes() == b"from a"
    assert sites.json("diff", "--left", "site-b", "--right", "site-c")["same"]
    again = sites.json("run")["datasets"][0]["report"]
    assert (again["record"], again["merge"]["overruled"]) == (None, [])
    assert sites.json("conflicts")["report"]["differences"] == []


def test_a_merge_is_told_in_words(make: Callable[..., Folders]) -> None:
    shown = " ".join(two_writers(make)("run").stdout.split())
    assert "merged with site-b since snapshot" in shown
    assert "1 changes of site-a, 1 of site-b, 0 the same at both; 0 objects left" in shown
    assert "1 overruled, site-b wins" in shown
    assert "'three.bin': changed at site-a; blake3:" in shown
    assert "stays at site-a: data/prices/three.bin" in shown


def test_without_a_winner_a_run_is_refused_and_told_of_it(make: Callable[..., Folders]) -> None:
    sites = two_writers(make, winner=None)
    refused = sites.json("run", code=2)["datasets"][0]
    assert (refused["report"], refused["error"]["error"]) == (None, "ConfigError")
    assert "winner" in refused["error"]["expected"]
    assert "winner: SITE" in refused["error"]["fix"]
    assert not (sites.topology.parent / "site-a" / "data" / "prices" / ".versions").exists()


def test_a_merge_that_would_drop_much_waits_for_a_person_who_passes_on_its_id(make: Callable[..., Folders]) -> None:
    sites = two_writers(make)
    for file in (sites.topology.parent / "site-a" / "data" / "prices").glob("*.bin"):
        file.unlink()
    error = sites.json("run", code=3)["datasets"][0]["error"]
    assert error["error"] == "MergeNeedsApproval"
    assert "shows none of 3 known objects" in error["found"]
    approval = error["fix"].split("--approve-deletes ")[1].split("`")[0]
    sites("run", "--approve-deletes", "0" * 16, code=3)
    merge = sites.json("run", "--approve-deletes", approval)["datasets"][0]["report"]["merge"]
    assert merge["removed_objects"] == 1
    assert {one["path"]: one["what"] for one in merge["overruled"]} == {"two.bin": "deleted", "three.bin": "deleted"}


def test_without_the_other_site_a_merge_fails_and_publishes_nothing(make: Callable[..., Folders]) -> None:
    sites = two_writers(make)
    before = sites.json("snapshots")
    (sites.topology.parent / "site-b").rename(sites.topology.parent / "away")
    assert sites.json("run", code=1)["datasets"][0]["report"] is None
    (sites.topology.parent / "away").rename(sites.topology.parent / "site-b")
    assert sites.json("snapshots") == before
    assert sites.json("run")["ok"]


def test_a_run_from_a_feed_says_what_is_not_proven(capsys: pytest.CaptureFixture[str]) -> None:
    found = SyncReport(None, "a" * 32, "site-a", 0, 0, (), 0.1, planned_from="feed", last_full_look="2026-01-02T03:04")
    print_report("prices", found)
    shown = " ".join(capsys.readouterr().out.split())
    assert "planned from the change feed: nothing proves" in shown
    assert "Last full look: 2026-01-02T03:04" in shown
