"""One event proven, alone and offline."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_world import HOUR, START, AuditWorld, FakeSource, event
from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.export import open_ledger
from holdfast.engine.audit.prove import EVENT, PROOF, check_proof, find_event, prove_event, write_proof
from holdfast.engine.audit.tlog.tilecheck import check_tiles
from holdfast.engine.audit.tlog.tiles import TiledTree, tiles_in
from holdfast.engine.audit.tlog.treeproofs import inclusion_proof
from holdfast.engine.audit.verify import verify_export
from holdfast.errors import ConfigError, UnknownName


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    made = AuditWorld(
        tmp_path_factory.mktemp("world"), FakeSource([[[event(1000 * h + n) for n in range(97)]] for h in range(12)])
    )
    for _ in range(4):
        made.export()
        made.clock.advance(HOUR.total_seconds())
    return made


def test_every_event_of_every_export_can_be_proven(world: AuditWorld, tmp_path: Path) -> None:
    checked = 0
    for number in range(1, 5):
        folder = world.folder / f"export-{number}"
        verified = verify_export(folder, trusted=[world.key])
        assert verified.manifest is not None
        leaves = range(verified.manifest.first_leaf, verified.manifest.size)
        for leaf in (leaves[0], leaves[1], leaves[len(leaves) // 3], leaves[63], leaves[90]):
            (place,) = find_event(folder, verified.manifest, f"leaf:{leaf}")
            target = write_proof(prove_event(folder, verified, place), folder, tmp_path / f"{number}-{leaf}")
            answer = check_proof(target, trusted=[world.key])
            assert answer.problems == []
            checked += 1
    assert checked == 20


def test_an_event_is_found_by_its_id(world: AuditWorld, tmp_path: Path) -> None:
    folder = world.folder / "export-2"
    verified = verify_export(folder, trusted=[world.key])
    assert verified.manifest is not None
    (place,) = find_event(folder, verified.manifest, "event-3007")
    proven = prove_event(folder, verified, place)
    assert proven.raw == event(3007)
    assert proven.event["metadata"]["uid"] == "event-3007"
    with pytest.raises(UnknownName, match="no such event"):
        find_event(folder, verified.manifest, "event-0; drop")


def test_the_ledger_s_tiles_give_the_same_proof(world: AuditWorld) -> None:
    ledger = open_ledger(world.runtime())
    folder = world.folder / "export-4"
    verified = verify_export(folder, trusted=[world.key])
    assert verified.manifest is not None
    (place,) = find_event(folder, verified.manifest, f"leaf:{verified.manifest.first_leaf + 5}")
    proven = prove_event(folder, verified, place)
    for store in ledger.stores.values():
        source = tiles_in(store)
        assert check_tiles(source, proven.size, bytes.fromhex(str(verified.answer.root))) == []
        assert inclusion_proof(proven.index, proven.size, TiledTree(source, proven.size)) == proven.proof


@pytest.fixture
def proof(world: AuditWorld, tmp_path: Path) -> Path:
    folder = world.folder / "export-3"
    verified = verify_export(folder, trusted=[world.key])
    assert verified.manifest is not None
    (place,) = find_event(folder, verified.manifest, f"leaf:{verified.manifest.first_leaf + 50}")
    return write_proof(prove_event(folder, verified, place), folder, tmp_path / "proof")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_a_proof_is_missed(world: AuditWorld, proof: Path, data: st.DataObject) -> None:
    file = proof / data.draw(st.sampled_from((EVENT, PROOF)))
    original = file.read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    bit = data.draw(st.integers(0, 7))
    file.write_bytes(original[:at] + bytes([original[at] ^ (1 << bit)]) + original[at + 1 :])
    try:
        assert check_proof(proof, trusted=[world.key]).verdict == "tampered"
    finally:
        file.write_bytes(original)


def test_a_proof_without_a_trusted_key_is_unknown(proof: Path) -> None:
    assert check_proof(proof, trusted=[]).exit_code == 7


def test_nothing_of_an_export_that_was_changed_is_proven(tmp_path: Path) -> None:
    world = AuditWorld(tmp_path, FakeSource([[[event(n)]] for n in range(3)]))
    done = world.export()
    assert done.folder is not None
    (done.folder / "coverage" / "fake.json").write_bytes(b"{}")
    verified = verify_export(done.folder, trusted=[world.key])
    assert verified.manifest is not None
    (place,) = find_event(done.folder, verified.manifest, "event-1")
    with pytest.raises(Tampered, match="nothing of it can be proven"):
        prove_event(done.folder, verified, place)


def test_the_reason_is_what_is_wrong_and_not_that_nobody_vouches_for_it(tmp_path: Path) -> None:
    world = AuditWorld(tmp_path, FakeSource([[[event(n)]] for n in range(3)]))
    done = world.export()
    assert done.folder is not None
    (done.folder / "coverage" / "fake.json").unlink()
    with pytest.raises(Tampered) as refused:
        verify_export(done.folder).sealed("can be proven")
    assert str(refused.value.found).startswith("coverage/fake.json: a file is missing")


def test_the_window_begins_where_it_was_asked_to(world: AuditWorld) -> None:
    verified = verify_export(world.folder / "export-1", trusted=[world.key])
    assert verified.manifest is not None
    assert verified.manifest.sources[0].window is not None
    assert verified.manifest.sources[0].window.start == START


def test_more_keys_than_there_are_is_bad_input_and_no_tampering(world: AuditWorld, proof: Path) -> None:
    with pytest.raises(ConfigError, match="not so many keys"):
        check_proof(proof, trusted=[world.key], needed=2)
