"""Exports from a source to a verified folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_world import HOUR, START, AuditWorld, FakeSource, event
from holdfast.engine.audit.chain import verify_exports
from holdfast.engine.audit.interface import Finding, SourceUnreadable, State
from holdfast.engine.audit.manifest import MANIFEST, parse_manifest


@pytest.fixture
def world(tmp_path: Path) -> AuditWorld:
    hours = [[[event(100 * hour + n) for n in range(20)], [event(100 * hour + 50)]] for hour in range(6)]
    return AuditWorld(tmp_path, FakeSource(hours))


def test_an_export_verifies(world: AuditWorld) -> None:
    done = world.export()
    assert done.state is State.COMPLETE
    assert {one.site: one.error for one in done.copied} == {"site-b": None, "site-c": None}
    answer = world.verify(done.folder)
    assert answer.problems == []
    assert answer.exit_code == 0
    assert answer.counts["events"] == 63
    assert answer.signed_by == ["example.com/desk"]


def test_the_next_export_goes_on(world: AuditWorld) -> None:
    first = world.export()
    world.clock.advance(2 * HOUR.total_seconds())
    second = world.export()
    assert second.record.seal == 1
    assert second.manifest.previous is not None
    assert second.manifest.previous.root == first.record.root
    assert second.manifest.sources[0].records == 42
    assert world.verify(second.folder).problems == []


def test_without_a_trusted_key_nobody_vouches(world: AuditWorld) -> None:
    from holdfast.engine.audit.verify import verify_export

    done = world.export()
    answer = verify_export(done.folder).answer
    assert answer.verdict == "unknown"
    assert [problem.code for problem in answer.problems] == ["not-pinned"]


def test_an_hour_that_cannot_be_read_is_unknown_and_asked_again(world: AuditWorld) -> None:
    world.source.fails[1] = SourceUnreadable("the token expired", where="fake")
    done = world.export()
    answer = world.verify(done.folder)
    assert (answer.verdict, answer.exit_code) == ("unknown", 7)
    assert answer.counts["events"] == 63  # what came before the error stays
    world.source.fails.clear()
    world.source.hours[1].append([event(999)])
    world.clock.advance(HOUR.total_seconds())
    again = world.export()
    assert world.verify(again.folder).verdict == "fine"
    assert again.manifest.sources[0].records == 22  # the new hour, and what had not been there


def test_a_gap_is_incomplete(world: AuditWorld) -> None:
    world.source.findings[2] = (Finding("digest-missing", "a digest is missing", "13:00", State.GAP),)
    answer = world.verify(world.export().folder)
    assert (answer.verdict, answer.exit_code) == ("incomplete", 6)
    assert "digest is missing" in str(answer.problems[0])


def test_a_killed_export_goes_on_where_it_was(world: AuditWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    monkeypatch.setattr("holdfast.engine.audit.collect._UNIT_EVENTS", 21)
    world.source.fails[2] = Killed()  # type: ignore[assignment]
    with pytest.raises(Killed):
        world.export()
    world.source.fails.clear()
    world.source.reads.clear()
    world.clock.advance(HOUR.total_seconds())
    done = world.export()
    assert world.source.reads == [2]
    assert done.manifest.sources[0].window is not None
    assert done.manifest.sources[0].window.end == START + 3 * HOUR
    assert world.verify(done.folder).problems == []


def windows(world: AuditWorld, folders: list[Path], *codes: str) -> list[tuple[int, int] | None]:
    """Of the source, in hours; and the log they are must have these problems alone."""
    assert [one.code for one in verify_exports(folders, trusted=[world.key])[0].problems] == list(codes)
    found = []
    for folder in folders:
        manifest = parse_manifest((folder / MANIFEST).read_bytes(), str(folder))
        one = next((one.window for one in manifest.sources if one.name == "fake"), None)
        found.append(None if one is None else (round((one.start - START) / HOUR), round((one.end - START) / HOUR)))
    return found


def test_an_export_without_anything_new_loses_no_place(world: AuditWorld) -> None:
    folders = [world.export().folder, world.export().folder]
    world.clock.advance(2 * HOUR.total_seconds())
    last = world.export()
    assert windows(world, [*folders, last.folder]) == [(0, 3), (3, 3), (3, 5)]
    assert last.manifest.sources[0].records == 42


def test_a_source_that_comes_back_to_the_topology_goes_on_where_it_was(world: AuditWorld) -> None:
    world.source.findings[2] = (Finding("shard", "one more may come", state=State.LATE),)
    folders = [world.export().folder]
    held, topology = world.source, world.topology.read_text()
    world.source = FakeSource([[[event(900)]] for _ in range(6)], name="other")
    world.topology.write_text(topology.replace("fake:", "other:"))
    world.clock.advance(HOUR.total_seconds())
    folders.append(world.export().folder)
    assert windows(world, folders, "shard", "source-gone") == [(0, 3), None]
    world.source, held.findings = held, {}
    held.reads.clear()
    world.topology.write_text(topology)
    world.clock.advance(HOUR.total_seconds())
    folders.append(world.export().folder)
    assert windows(world, folders, "source-gone") == [(0, 3), None, (3, 5)]  # now it is the other one
    assert held.reads == [2, 3, 4]  # what was late is asked again
