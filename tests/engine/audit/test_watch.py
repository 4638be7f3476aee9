"""The ledger verified from its sites, from where the last verification came to."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_world import HOUR, AuditWorld, FakeSource, add_audit, event
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.export import Exported, open_ledger
from holdfast.engine.audit.interface import Document, Finding, State
from holdfast.engine.audit.tlog.tilecheck import check_tiles
from holdfast.engine.audit.tlog.tiles import tiles_in
from holdfast.engine.audit.watch import verify_ledger
from holdfast.engine.drill.evidence import write_evidence
from sample_journal import sample_journal


@pytest.fixture
def world(tmp_path: Path) -> AuditWorld:
    return AuditWorld(tmp_path, FakeSource([[[event(10 * hour + n) for n in range(5)]] for hour in range(12)]))


def ledger_files(world: AuditWorld, site: str, below: str) -> list[Path]:
    return sorted(path for path in (world.folder / site / "ledger" / below).rglob("*") if path.is_file())


def test_each_run_goes_on_at_another_site(world: AuditWorld) -> None:
    sites = []
    for _ in range(3):
        world.export()
        world.clock.advance(HOUR.total_seconds())
        done = verify_ledger(world.runtime())
        assert done.answer.problems == []
        sites.append((done.site, done.seals))
    assert sites == [("site-b", (0,)), ("site-c", (0, 1)), ("site-b", (1, 2))]


def test_a_byte_changed_at_one_site_is_found_there(world: AuditWorld) -> None:
    world.export()
    (segment,) = [path for path in ledger_files(world, "site-c", "exports") if path.name == "000000.parquet"]
    data = bytearray(segment.read_bytes())
    data[100] ^= 1
    segment.write_bytes(data)
    assert verify_ledger(world.runtime(), site="site-b").answer.problems == []
    answer = verify_ledger(world.runtime(), site="site-c").answer
    assert answer.verdict == "tampered"
    assert any("segments/fake/000000.parquet" in problem.where for problem in answer.problems)


def test_a_seal_taken_away_is_noticed(world: AuditWorld) -> None:
    for _ in range(2):
        world.export()
        world.clock.advance(HOUR.total_seconds())
    assert verify_ledger(world.runtime()).answer.problems == []
    for path in ledger_files(world, "site-b", "seals")[1:]:
        path.unlink()
    answer = verify_ledger(world.runtime(), site="site-b").answer
    assert [problem.code for problem in answer.problems] == ["rolled-back"]
    with pytest.raises(Tampered, match="rolled back"):
        world.export()


def test_late_may_be_late_for_a_day(world: AuditWorld) -> None:
    world.source.findings[1] = (Finding("hour-open", "more may come", state=State.LATE),)
    world.export()
    assert verify_ledger(world.runtime()).answer.problems == []
    world.clock.advance(timedelta(days=2).total_seconds())
    answer = verify_ledger(world.runtime()).answer
    assert [problem.code for problem in answer.problems] == ["hour-open"]


def test_a_site_that_was_away_gets_its_seal_with_the_next_export(world: AuditWorld) -> None:
    away = world.folder / "site-c"
    held = away.rename(world.folder / "away")
    away.write_text("no folder: the site does not answer")
    done = world.export()
    assert [one.error is None for one in done.copied] == [True, False]
    away.unlink()
    held.rename(away)
    world.clock.advance(HOUR.total_seconds())
    world.export()
    assert [path.name for path in ledger_files(world, "site-c", "seals")] == ["00000000.json", "00000001.json"]
    assert verify_ledger(world.runtime(), site="site-c").answer.problems == []


def test_a_site_that_was_away_for_two_seals_gets_both_and_their_tiles(world: AuditWorld) -> None:
    away = world.folder / "site-c"
    held = away.rename(world.folder / "away")
    away.write_text("no folder: the site does not answer")
    for _ in range(2):
        world.export()
        world.clock.advance(HOUR.total_seconds())
    away.unlink()
    held.rename(away)
    done = world.export()
    assert [(one.error, one.tiles) for one in done.copied] == [(None, None), (None, None)]
    assert [path.name for path in ledger_files(world, "site-c", "seals")] == [f"{n:08d}.json" for n in range(3)]
    assert_tiles(world, done)


@pytest.mark.parametrize("kills", [1, 2])
def test_tiles_that_a_killed_export_did_not_write_are_made_up_for(
    world: AuditWorld, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    for _ in range(kills):
        with monkeypatch.context() as patched:
            patched.setattr("holdfast.engine.audit.export.write_tiles", kill)
            with pytest.raises(Killed):
                world.export()
        world.clock.advance(HOUR.total_seconds())
    done = world.export()
    assert (done.record.seal, [(one.error, one.tiles) for one in done.copied]) == (kills, [(None, None)] * 2)
    assert_tiles(world, done)


def test_tiles_are_not_made_of_an_export_that_was_changed(world: AuditWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("holdfast.engine.audit.export.write_tiles", lambda *_: None)
        first = world.export()
    store = open_ledger(world.runtime()).stores["site-b"]
    key = f"exports/{first.record.folder}/{first.manifest.documents[0].file.path}"
    store.put(key, store.get(key) + b" ")
    world.clock.advance(HOUR.total_seconds())
    done = world.export()
    assert [type(one.tiles) for one in done.copied] == [Tampered, Tampered]
    assert list(store.list("tile/")) == []


def assert_tiles(world: AuditWorld, done: Exported) -> None:
    for store in open_ledger(world.runtime()).stores.values():
        assert check_tiles(tiles_in(store), done.record.size, bytes.fromhex(done.record.root)) == []


def test_two_exports_at_once_on_one_machine_are_refused(world: AuditWorld) -> None:
    from holdfast.errors import Refused

    inner: list[BaseException] = []

    def meddle(*_: object) -> None:
        if not inner:
            try:
                world.export()
            except Refused as error:
                inner.append(error)

    world.export(progress=meddle)
    assert "another export" in str(inner[0])


def test_a_seal_that_somebody_else_made_meanwhile_wins(world: AuditWorld, tmp_path: Path) -> None:
    """Two machines, one ledger: of two sealers of one number, one is told to collect anew."""
    from holdfast.engine.audit.errors import SealedMeanwhile

    other = {**world.environ, "HOLDFAST_STATE": str(tmp_path / "other")}
    key = world.runtime().state_folder / "signing-key.pem"
    world.key  # noqa: B018 - makes it
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "signing-key.pem").write_bytes(key.read_bytes())
    (tmp_path / "other" / "signing-key.pem").chmod(0o600)
    mine = dict(world.environ)

    def meddle(*_: object) -> None:
        if world.environ is not other:
            world.environ = other
            world.export()
            world.environ = mine

    done: list[int] = []

    def once(*arguments: object) -> None:
        if not done:
            done.append(1)
            meddle(*arguments)

    with pytest.raises(SealedMeanwhile):
        world.export(progress=once)
    world.clock.advance(HOUR.total_seconds())
    again = world.export()
    assert again.record.seal == 1
    assert verify_ledger(world.runtime()).answer.problems == []


def test_the_evidence_of_drills_must_be_signed_by_the_topology_s_keys(world: AuditWorld) -> None:
    ours, another = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    add_audit(world.topology, keys={"drills": [ours.public_key().public_bytes_raw().hex()]})
    verdicts = []
    for key in (ours, another):
        paths = write_evidence(sample_journal(), world.folder / "drill", key).all()
        world.export(documents=[Document(f"evidence/one/{one.name}", "text/plain", one.read_bytes()) for one in paths])
        world.clock.advance(HOUR.total_seconds())
        verdicts.append([problem.code for problem in verify_ledger(world.runtime(), site="site-b").answer.problems])
    assert verdicts == [[], ["evidence-not-trusted"]]
