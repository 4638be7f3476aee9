"""Stores that are full, ill, slow to answer or gone, clients whose clock is wrong, producers that die."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from holdfast.clock import FakeClock
from holdfast.engine.objectstore import RetryingStore
from holdfast.engine.objectstore.errors import ObjectStoreError, StoreUnavailable
from holdfast.engine.objectstore.faults import Chance, Fault, FaultyStore, Kind, Script
from holdfast.engine.objectstore.retry import RetryPolicy
from holdfast.engine.vault import layout
from holdfast.engine.vault.backup import back_up
from holdfast.engine.vault.backups import find_backup, live_backups
from holdfast.engine.vault.collect import CollectOptions, collect
from holdfast.engine.vault.errors import NoVault, SourceFailed, WrongKey
from holdfast.engine.vault.forget import Keep, forget
from holdfast.engine.vault.keysets import make_vault, unlock
from holdfast.engine.vault.mirror import mirror_vault
from holdfast.engine.vault.recipients import AgeRecipient, Recipient, SecretRecipient
from holdfast.engine.vault.restore import RestoreOptions, restore_backup
from holdfast.engine.vault.secrets import ROLES
from holdfast.engine.vault.sources import StreamSource, failed
from holdfast.engine.vault.targets import FolderTarget
from holdfast.engine.vault.vault import open_vault
from sync_harms import Cut, Trace
from vault_faults import AT_ONCE, DictTarget, FullStore, Sites, folder_sites, some_files

PATIENT = RetryPolicy(attempts=40, budget_seconds=1e9, first_delay_seconds=0.01, longest_delay_seconds=0.02)


@pytest.fixture
def sites() -> Sites:
    sites = Sites().make()
    sites.back_up(some_files())
    return sites


# -- full ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room_bytes", [0, 1_000, 5_000, 12_000, 30_000, 34_000, 36_000])
def test_a_full_store_commits_nothing_by_half(room_bytes: int, sites: Sites) -> None:
    was = {backup.backup_id for backup in sites.live()}
    vault = replace(sites.open("writer"), store=FullStore(sites.vault, room_bytes))
    with pytest.raises(ObjectStoreError) as full:
        sites.back_up(some_files(1), vault=vault)
    assert "No space left" in str(full.value)
    assert {backup.backup_id for backup in sites.check_live()} == was
    sites.back_up(some_files(1))
    sites.check_live(at_least=was)
    sites.clock.advance(10)
    sites.settle()


def test_a_collection_frees_a_store_that_is_full_all_but_a_little(sites: Sites) -> None:
    sites.back_up(some_files(1))
    forget(sites.open("admin"), Keep(last=1))
    full = FullStore(sites.vault, 20_000)
    collect(replace(sites.open("admin"), store=full), AT_ONCE)
    sites.clock.advance(10)
    before = sum(len(data) for data in sites.vault.objects().values())
    _, report = collect(replace(sites.open("admin"), store=full), AT_ONCE)
    assert report.deleted_bytes > before // 3
    sites.check_live()


FILLING = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from vault_faults import folder_sites, some_files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sites = folder_sites(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    sites.back_up(some_files(1), state="second")
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("most_bytes", [200, 3_000, 6_500])
def test_a_folder_that_takes_no_more_bytes_commits_nothing_by_half(most_bytes: int, tmp_path: Path) -> None:
    """The kernel refuses in the middle of a file, as it does when a disk is full."""
    sites = folder_sites(tmp_path).make()
    sites.back_up(some_files(), state="first")
    command = [sys.executable, "-c", FILLING, str(tmp_path), str(Path(__file__).parents[2]), str(most_bytes)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert answer.stdout.strip(), "the backup failed"
    assert [backup.labels["state"] for backup in sites.check_live()] == ["first"]
    sites.back_up(some_files(1), state="second")
    sites.check_live()
    sites.check_verifies()


# -- ill -------------------------------------------------------------------------------------------------------------


def ill(sites: Sites, seed: int, rates: dict[Kind, float]) -> Sites:
    """The same sites, each behind faults and a client that tries again."""
    rng = random.Random(seed)

    def wrap(store):
        faulty = FaultyStore(store, Chance(rng, rates), clock=sites.clock)
        return RetryingStore(faulty, PATIENT, clock=sites.clock, rng=random.Random(1))

    return replace(
        sites,
        vault=wrap(sites.vault),
        mirror=wrap(sites.mirror),
        witnesses={name: wrap(store) for name, store in sites.witnesses.items()},
    )


@pytest.mark.parametrize("seed", [pytest.param(n, marks=() if n < 3 else pytest.mark.slow) for n in range(8)])
@pytest.mark.parametrize(
    "rates",
    [{Kind.FAIL_BEFORE: 0.3}, {Kind.FAIL_AFTER: 0.3}, {Kind.FAIL_BEFORE: 0.15, Kind.FAIL_AFTER: 0.15}],
    ids=["503", "lost answers", "both"],
)
def test_a_third_of_the_answers_missing_is_tried_again(rates: dict[Kind, float], seed: int) -> None:
    well = Sites()
    sick = ill(well, seed, rates)
    sick.make()
    for number in range(3):
        sick.back_up(some_files(number, count=4))
        sick.clock.advance(60)
    forget(sick.open("admin"), Keep(last=2))
    sick.collect()
    mirror_vault(sick.store(), sick.mirror_store())
    sick.check_live()
    sick.check_verifies()
    well.states, well.recipients = sick.states, sick.recipients
    assert [backup.sequence for backup in well.check_live()] == [3, 4], "no entry was written twice"
    well.check_live(store=well.mirror)
    well.settle()


@pytest.mark.parametrize("verb", ["put", "get", "list"])
@pytest.mark.parametrize("kind", [Kind.FAIL_BEFORE, Kind.FAIL_AFTER])
def test_a_lost_answer_is_no_conflict_even_where_nobody_tries_again(kind: Kind, verb: str, sites: Sites) -> None:
    """A write whose answer is lost is found; what fails before it, fails the backup, and only that."""
    for key in (layout.PACKS, layout.INDEXES, layout.LOG, layout.LOG_COPIES):
        script = Script([Fault(kind, verb, key)])
        vault = replace(sites.open("writer"), store=FaultyStore(sites.vault, script))
        was = {backup.backup_id for backup in sites.live()}
        try:
            report = sites.back_up(some_files(len(sites.states), count=3), vault=vault)
        except StoreUnavailable:
            assert (kind, verb) != (Kind.FAIL_AFTER, "put")
            assert {backup.backup_id for backup in sites.check_live(at_least=was)} - was <= {
                backup.backup_id for backup in sites.live()
            }
        else:
            assert report.backup.backup_id in {backup.backup_id for backup in sites.check_live(at_least=was)}
    sites.clock.advance(10)
    sites.settle()


def test_a_vault_made_with_lost_answers_is_one_vault() -> None:
    sites = Sites()
    script = Script([Fault(Kind.FAIL_AFTER, "put", layout.KEYS), Fault(Kind.FAIL_AFTER, "put", layout.LOG)])
    store = FaultyStore(sites.vault, script)
    make_vault("vault", store, dict.fromkeys(ROLES, sites.recipients), witnesses=sites.witnesses, clock=sites.clock)
    assert script.left == ()
    sites.check_live()


# -- gone ------------------------------------------------------------------------------------------------------------


def test_a_cloud_that_is_down_is_restored_from_its_mirror(sites: Sites) -> None:
    sites.back_up(some_files(1))
    mirror_vault(sites.vault, sites.mirror)
    sites.trace = Trace([Cut("vault", 0), Cut("witness-a", 0)])
    with pytest.raises(StoreUnavailable):
        sites.restore()
    files, report = sites.restore(store=sites.mirror_store())
    assert files == sites.expected(report.backup)
    assert len(sites.check_live(store=sites.mirror_store())) == 2


def test_a_vault_that_is_gone_is_not_made_anew_by_a_backup() -> None:
    with pytest.raises(NoVault):
        Sites().back_up(some_files())


# -- wrong keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "wrong",
    [SecretRecipient("tests", bytes(32)), SecretRecipient("others", bytes(32)), AgeRecipient.make()],
    ids=["other secret", "other name", "other kind"],
)
def test_a_wrong_key_is_told_and_tells_nothing(wrong: Recipient, role: str, sites: Sites) -> None:
    with pytest.raises(WrongKey) as refused:
        unlock(sites.vault, role, [wrong])
    message = str(refused.value)
    assert refused.value.exit_code == 3
    assert bytes(range(32)).hex() not in message
    assert (bytes(32)).hex() not in message
    assert sites.vault.objects() == sites.fork().vault.objects()


def test_whatever_part_of_a_key_is_wrong_the_answer_is_the_same(sites: Sites) -> None:
    """No oracle: a secret off by one bit, anywhere, is told like any other."""
    answers = set()
    for bit in range(0, 256, 17):
        secret = bytearray(range(32))
        secret[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WrongKey) as refused:
            unlock(sites.vault, "reader", [SecretRecipient("tests", bytes(secret))])
        answers.add(str(refused.value))
    assert len(answers) == 1


def test_another_vaults_keys_open_nothing(sites: Sites) -> None:
    other = Sites().make()
    for key, data in other.vault.objects(layout.KEYS).items():
        sites.vault.put(key, data)
    with pytest.raises(WrongKey):
        open_vault("vault", sites.vault, unlock(other.vault, "reader", other.recipients))


# -- producers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raises", "ends short"])
def test_a_producer_that_dies_leaves_no_backup(how: str, sites: Sites) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"d" * 70_000
        if how == "raises":
            raise failed("the dump died", where="pg_dump", expected="exit code 0", found="exit code 1")

    def ended_well() -> None:
        raise failed("the dump fell short", where="pg_dump", expected="exit code 0", found="exit code 1")

    was = {backup.backup_id for backup in sites.live()}
    source = StreamSource("dump", "dump.sql", pieces, ended_well, sites.clock.now())
    with pytest.raises(SourceFailed):
        back_up(sites.open("writer"), source)
    assert {backup.backup_id for backup in sites.check_live()} == was
    sites.clock.advance(10)
    sites.settle()


# -- restores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken_at", [0, 1, 5, 9])
def test_a_restore_that_was_broken_off_goes_on(broken_at: int, sites: Sites) -> None:
    class Breaking(DictTarget):
        def write(self, row, pieces):
            if self.writes == broken_at:
                raise StoreUnavailable("the target went away")
            super().write(row, pieces)

    vault = sites.open()
    backup = find_backup(vault)
    first = Breaking()
    with pytest.raises(StoreUnavailable):
        restore_backup(vault, backup, first)
    second = DictTarget(first.files)
    report = restore_backup(vault, backup, second)
    assert second.files == sites.expected(backup)
    assert report.kept == broken_at
    assert second.writes == len(second.files) - broken_at


def test_what_a_killed_restore_left_in_a_folder_is_gone_after_the_next(sites: Sites, tmp_path: Path) -> None:
    """Killed while it wrote: its drafts are there. Nothing that is whole is written again."""
    vault = sites.open()
    backup = find_backup(vault)

    class Dying(FolderTarget):
        def write(self, row, pieces):
            if row.path == "part-0/03":
                unlink = self.unlinked
                super().write(row, unlink(pieces))
            super().write(row, pieces)

        def unlinked(self, pieces):
            yield b"half"
            # A killed process tidies nothing up: keep its draft under the name the next one will use.
            (draft,) = (self.folder / "part-0").glob(".*part")
            draft.with_name("kept").hardlink_to(draft)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_backup(vault, backup, Dying(tmp_path))
    (tmp_path / "part-0" / "kept").rename(tmp_path / "part-0" / draft_name("03"))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    report = restore_backup(vault, backup, FolderTarget(tmp_path), RestoreOptions())
    found = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == sites.expected(backup)
    assert report.kept == len(times) - 1
    assert report.restored == len(found) - report.kept


def draft_name(name: str) -> str:
    return f".{hashlib.sha256(name.encode()).hexdigest()[:32]}.holdfast-part"


# -- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-24 * 365, -1, 1, 24 * 365])
def test_a_client_whose_clock_is_wrong_collects_by_the_stores(hours: int) -> None:
    sites = Sites().make()
    wrong = FakeClock(sites.clock.now() + timedelta(hours=hours))
    options = CollectOptions(grace=timedelta(hours=24), orphan_age=timedelta(hours=24))

    def collected() -> int:
        _, report = collect(sites.open("admin", clock=wrong), options)
        return report.deleted_packs

    vault = sites.open("writer", clock=wrong)
    first = sites.back_up(some_files(), vault=vault, taken_at=wrong.now()).backup
    second = sites.back_up(some_files(1), taken_at=sites.clock.now() + timedelta(minutes=1)).backup
    forget(sites.open("admin", clock=wrong), backups=[first.backup_id])
    assert collected() == 0
    assert collected() == 0, "their grace begins"
    sites.clock.advance(23 * 3600)
    assert collected() == 0
    sites.check_live(at_least=[second.backup_id])
    sites.clock.advance(2 * 3600)
    assert collected() > 0
    sites.check_live(at_least=[second.backup_id])


@pytest.mark.parametrize("hours", [-24 * 365, -1, 1, 24 * 365])
def test_a_retention_keeps_what_was_made_last_whatever_its_date(hours: int) -> None:
    sites = Sites().make()
    good = [sites.back_up(some_files(n, count=2)).backup for n in range(2)]
    sites.clock.advance(3600)
    skewed = sites.back_up(some_files(7, count=2), taken_at=sites.clock.now() + timedelta(hours=hours)).backup
    forget(sites.open("admin"), Keep(last=1))
    assert skewed.backup_id in {backup.backup_id for backup in sites.live()}
    sites.clock.advance(3600)
    last = sites.back_up(some_files(8, count=2)).backup
    forget(sites.open("admin"), Keep(last=1))
    left = {backup.backup_id for backup in sites.check_live()}
    assert last.backup_id in left
    assert not left & {backup.backup_id for backup in good}


def test_a_backup_that_runs_for_days_is_left_alone_while_it_shows_itself() -> None:
    """Its packs are older than an orphan may be, and no entry names them yet."""
    sites = Sites().make()
    options = CollectOptions(grace=timedelta(0))
    collections: list[int] = []

    class Files(dict):  # type: ignore[type-arg]
        def __getitem__(self, path: str) -> bytes:
            sites.clock.advance(5 * 3600)
            collections.append(collect(sites.open("admin"), options)[1].dead_packs)
            return super().__getitem__(path)

    report = sites.back_up(Files(some_files(count=14, size=5000)))
    assert sites.clock.now() - report.backup.taken_at > timedelta(hours=60)
    assert sum(collections) == 0
    assert report.stored.new_bytes < 1.2 * report.backup.size_bytes, "nothing was stored twice"
    sites.check_live()
    assert sites.vault.objects(layout.RUNNING)
    sites.clock.advance(200 * 3600)
    sites.settle()


def test_the_packs_of_a_backup_that_died_are_nobodys_after_a_while() -> None:
    sites = Sites().make()
    files = {path: data for path, data in some_files().items() if path != "large"}
    vault = replace(sites.open("writer"), store=FullStore(sites.vault, 9_000))
    with pytest.raises(ObjectStoreError):
        sites.back_up(files, vault=vault)
    assert sites.vault.objects(layout.PACKS)
    options = CollectOptions(grace=timedelta(hours=1))
    sites.clock.advance(23 * 3600)
    assert sites.collect(options).dead_packs == 0
    sites.clock.advance(2 * 3600)
    assert sites.collect(options).dead_packs > 0
    sites.clock.advance(2 * 3600)
    sites.collect(options)
    assert sites.vault.objects(layout.PACKS) == {}
    assert live_backups(sites.open()) == []
