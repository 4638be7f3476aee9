"""Bits flip, packs go missing or are cut short: healed, or told object by object; never other bytes than there were."""

from __future__ import annotations

import random
from functools import cache

import pytest

from holdfast.engine.vault import layout
from holdfast.engine.vault.backups import live_backups
from holdfast.engine.vault.errors import Damaged
from holdfast.engine.vault.forget import Keep, forget
from holdfast.engine.vault.index import ChunkIndex
from holdfast.engine.vault.mirror import mirror_vault
from holdfast.engine.vault.pack import PackClass
from holdfast.engine.vault.restore import RestoreOptions, restore_backup
from holdfast.engine.vault.verify import Depth, VerifyOptions, VerifyReport, verify_vault
from vault_faults import DictTarget, Sites, some_files

#: Where in an object a bit is flipped: its very ends, and places between.
PLACES = (*(number / 16 for number in range(16)), 0.999999)


@cache
def _vault() -> Sites:
    sites = Sites().make()
    sites.back_up(some_files())
    sites.back_up(some_files(seed=5, count=3), source="other")
    sites.clock.advance(10)
    sites.back_up({**some_files(), "part-1/01": b"x" * 900, "part-2/05": b"y" * 2000})
    forget(sites.open("admin"), Keep(last=1))
    sites.settle()
    sites.back_up({**some_files(), "part-1/04": b"z" * 50})
    return sites


@pytest.fixture
def sites() -> Sites:
    return _vault().fork()


def flip(data: bytes, place: float, bit: int) -> bytes:
    at = int(place * len(data))
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def index_of(sites: Sites) -> ChunkIndex:
    return _vault().open().load_index().index


def packs(sites: Sites, kind: PackClass) -> list[str]:
    return [layout.pack_key(info.tier, info.pack_id) for info in index_of(sites).packs if info.kind is kind]


def check_told_exactly(sites: Sites) -> VerifyReport:
    """What verify names is what a restore cannot give; everything else is right, byte for byte."""
    vault = sites.open()
    report = verify_vault(vault, VerifyOptions(depth=Depth.FULL))
    for backup in live_backups(vault):
        target = DictTarget()
        restored = restore_backup(vault, backup, target, RestoreOptions(keep_going=True))
        expected = sites.expected(backup)
        assert all(expected[path] == data for path, data in target.files.items()), "wrong bytes"
        assert sorted(restored.damaged) == sorted(report.affected.get(backup.backup_id, [])), "exactly what is affected"
        if not any("objects)" in path for path in restored.damaged):
            assert expected.keys() - target.files.keys() == set(restored.damaged)
        if not restored.damaged:
            assert target.files == expected
    return report


def keys_of(sites: Sites, what: str) -> list[str]:
    if what in ("data", "tree"):
        return packs(sites, PackClass.DATA if what == "data" else PackClass.TREE)
    if what == "witness":
        return []
    prefix = {"index": layout.INDEXES, "entry": layout.LOG, "copy": layout.LOG_COPIES, "key": layout.KEYS}[what]
    return list(sites.vault.objects(prefix))


@pytest.mark.parametrize("seed", [pytest.param(n, marks=() if n < 1 else pytest.mark.slow) for n in range(4)])
@pytest.mark.parametrize("what", ["data", "tree", "index", "entry", "copy", "key"])
def test_a_flipped_bit_is_healed_or_told_exactly(what: str, seed: int, sites: Sites) -> None:
    rng = random.Random(f"{what}-{seed}")
    told = 0
    for place in PLACES:
        key = rng.choice(keys_of(sites, what))
        before = sites.vault.get(key)
        sites.vault.put(key, flip(before, place, rng.randrange(8)))
        report = check_told_exactly(sites)
        needed = what in ("data", "tree", "index") or key in needed_documents(sites)
        assert report.is_good is not needed, f"{key} at {place}: {report.problems}"
        if what not in ("data", "tree"):
            assert report.affected == {}, "its copy, or the packs, tell it"
        told += bool(report.affected)
        sites.vault.put(key, before)
    assert sites.open().alarm is None
    assert (told > 0) is (what in ("data", "tree"))


def needed_documents(sites: Sites) -> set[str]:
    history = _vault().open().history
    entries = {key(number) for number in history.counting for key in (layout.entry_key, layout.entry_copy_key)}
    keys = {layout.keyset_key(name, copy) for name in history.keys.keysets.values() for copy in layout.KEY_COPIES}
    return entries | keys


@pytest.mark.parametrize("part", ["magic", "generation", "repository", "commitment", "sealed key", "chunk", "table"])
def test_each_part_of_a_pack_is_looked_at(part: str) -> None:
    sites = Sites().make()
    sites.back_up({"only": b"o" * 90 + bytes(range(256)) * 3})
    info = next(info for info in sites.open().load_index().index.packs if info.kind is PackClass.DATA)
    key = layout.pack_key(info.tier, info.pack_id)
    data = sites.vault.get(key)
    at = {"magic": 1, "generation": 6, "repository": 10, "commitment": 45, "sealed key": 80}
    at |= {"chunk": 250, "table": len(data) - 30}
    sites.vault.put(key, data[: at[part]] + bytes([data[at[part]] ^ 8]) + data[at[part] + 1 :])
    report = check_told_exactly(sites)
    assert len(report.damaged_packs) == 1
    assert bool(report.affected) is (part != "table"), "a table is read when an index is lost"


@pytest.mark.parametrize("garbage", [b"", b"{}", b"[[[[", b"\xff\xfe", b"[" * 100_000, b'"' + b"x" * 100])
@pytest.mark.parametrize("what", ["entry", "copy", "key"])
def test_a_document_of_garbage_is_read_from_its_copy(what: str, garbage: bytes, sites: Sites) -> None:
    for key in keys_of(sites, what)[:: 1 if what != "key" else 2]:
        sites.vault.put(key, garbage)
    assert check_told_exactly(sites).affected == {}
    sites.check_live()
    sites.back_up(some_files(seed=2))
    sites.check_live()


@pytest.mark.parametrize(
    "lie",
    [b"", b"null", b"[]", b'"7"', b'{"anchor":"3"}', b'{"anchor":true}', b"[" * 100_000]
    + [f'{{"anchor":{number}}}'.encode() for number in (-1, 0, 1, 2, 3, 4, 5, 6, 99, 10**13, 10**40, 2.5)],
)
def test_a_head_that_lies_changes_nothing(lie: bytes, sites: Sites) -> None:
    truth = sites.open().history
    sites.vault.put(layout.HEAD, lie)
    assert sites.open().history.tip == truth.tip
    assert sites.open().history.backups == truth.backups
    sites.back_up(some_files(seed=3))
    sites.check_live()


@pytest.mark.parametrize("how", ["missing", "torn", "longer", "empty"])
@pytest.mark.parametrize("kind", list(PackClass))
def test_a_pack_that_is_not_whole_costs_exactly_what_lies_in_it(how: str, kind: PackClass, sites: Sites) -> None:
    for key in packs(sites, kind):
        data = sites.vault.get(key)
        sites.vault.delete(key)
        if how != "missing":
            sites.vault.put(key, {"torn": data[: len(data) // 2], "longer": data + b"\0", "empty": b""}[how])
        report = check_told_exactly(sites)
        assert (len(report.missing_packs), len(report.damaged_packs)) == ((1, 0) if how == "missing" else (0, 1))
        assert bool(report.affected) is (how != "longer"), "bytes too many cost nothing"
        structure = verify_vault(sites.open(), VerifyOptions(depth=Depth.STRUCTURE))
        assert structure.affected == report.affected
        with pytest.raises(Damaged):
            sites.collect()
        sites.vault.put(key, data)
    assert check_told_exactly(sites).is_good


def test_what_is_missing_is_stored_again_by_the_next_backup(sites: Sites) -> None:
    """As long as the source has it; older backups of it are whole again, too."""
    for key in packs(sites, PackClass.DATA):
        sites.vault.delete(key)
    assert not check_told_exactly(sites).is_good
    sites.back_up({**some_files(), "part-1/04": b"z" * 50})
    sites.back_up({**some_files(), "part-1/01": b"x" * 900, "part-2/05": b"y" * 2000})
    sites.back_up(some_files())
    sites.back_up(some_files(seed=5, count=3), source="other")
    sites.check_live()
    sites.clock.advance(10)
    sites.settle()
    sites.check_verifies()


def test_all_indexes_gone_are_read_from_the_packs(sites: Sites) -> None:
    for key in keys_of(sites, "index"):
        sites.vault.delete(key)
    report = check_told_exactly(sites)
    assert report.problems
    assert report.affected == {}
    sites.check_live()
    sites.back_up(some_files(seed=4))
    sites.check_live()
    with pytest.raises(Damaged):
        sites.collect()


def test_a_chunk_that_lies_twice_is_read_from_where_it_is_right(sites: Sites) -> None:
    lost = {key: sites.vault.get(key) for key in packs(sites, PackClass.DATA)}
    for key in lost:
        sites.vault.delete(key)
    sites.back_up({**some_files(), "part-1/04": b"z" * 50})
    for key, data in lost.items():
        sites.vault.put(key, flip(data, 0.5, 3))
    vault = sites.open()
    newest = live_backups(vault)[-1]
    target = DictTarget()
    restore_backup(vault, newest, target)
    assert target.files == sites.expected(newest)
    report = check_told_exactly(sites)
    assert report.damaged_packs
    assert newest.backup_id not in report.affected


def test_a_chunk_of_a_lost_index_that_is_reused_is_named_again() -> None:
    """The lost index may come back without the pack: what a backup depends on is named by its own."""
    sites = Sites().make()
    sites.back_up(some_files())
    (key,) = sites.vault.objects(layout.INDEXES)
    index = sites.vault.get(key)
    orphan = Sites.fork(sites)
    orphan.back_up({"only here": b"o" * 800})
    brought = {
        name: data for name, data in orphan.vault.objects(layout.PACKS).items() if name not in sites.vault.objects()
    }
    sites.vault.delete(key)
    for name, data in brought.items():  # as a backup that was broken off leaves them
        sites.vault.put(name, data)
    assert sites.back_up({"reused": b"o" * 800}).stored.new_chunks == 1, "its tree alone is new"
    sites.vault.put(key, index)
    sites.check_live()
    sites.clock.advance(100_000)
    sites.collect()
    sites.check_live()


@pytest.mark.parametrize("place", PLACES[::3])
def test_a_witness_with_a_flipped_bit_is_no_witness(place: float, sites: Sites) -> None:
    witness = sites.witnesses["witness-a"]
    for key, data in witness.objects().items():
        witness.put(key, flip(data, place, 2))
    sites.check_live()
    sites.back_up(some_files(seed=3))
    sites.check_live()


def test_both_copies_of_an_entry_damaged_leave_the_rest_to_be_read(sites: Sites) -> None:
    """An alarm, writing is refused, and what other entries name restores."""
    newest = sites.live()[-1]
    for key in (layout.entry_key(newest.sequence), layout.entry_copy_key(newest.sequence)):
        sites.vault.put(key, flip(sites.vault.get(key), 0.4, 1))
    vault = sites.open()
    assert vault.alarm is not None
    left = live_backups(vault)
    assert left
    assert newest.backup_id not in {backup.backup_id for backup in left}
    for backup in left:
        target = DictTarget()
        restore_backup(vault, backup, target)
        assert target.files == sites.expected(backup)
    assert not verify_vault(vault).is_good
    with pytest.raises(Damaged):
        sites.back_up(some_files())


def test_damage_at_the_mirror_does_not_come_back(sites: Sites) -> None:
    mirror_vault(sites.vault, sites.mirror)
    for key in packs(sites, PackClass.DATA):
        sites.mirror.put(key, flip(sites.mirror.get(key), 0.5, 1))
    mirror_vault(sites.vault, sites.mirror)
    sites.check_live()
