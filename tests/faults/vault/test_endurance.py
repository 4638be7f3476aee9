"""Fourteen days on a clock that is told: backups every hour, retentions, collections, mirrors, and failures by seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from blake3 import blake3

from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.vault import layout
from holdfast.engine.vault.backups import live_backups
from holdfast.engine.vault.collect import CollectOptions, collect
from holdfast.engine.vault.errors import Outdated
from holdfast.engine.vault.forget import Keep, forget
from holdfast.engine.vault.keysets import rotate_keys, unlock
from holdfast.engine.vault.mirror import mirror_vault, trim_mirror
from holdfast.engine.vault.reading import ChunkReader
from sync_harms import Killed, Lost, Storm, Trace
from vault_faults import OPTIONS, RECIPIENT, KillAtWrite, Sites

SOURCES = ("tables", "models", "airflow")
KEEP = Keep(last=2, hourly=24, daily=7, weekly=4)
SMALL = replace(OPTIONS, pack_bytes=4000)
COLLECT = CollectOptions(pack_bytes=4000)
#: Between two collections.
PERIOD_HOURS = 6


@dataclass
class Weeks:
    """A vault that is used for some days."""

    rng: random.Random
    sites: Sites = field(default_factory=lambda: Sites().make())
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    committed: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    failures: int = 0
    #: By hour, what the vault and its mirror hold, and how many entries the log has.
    stored: list[int] = field(default_factory=list)
    mirrored: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for source in SOURCES:
            self.files[source] = {f"part-{n // 5}/{n:02}": self._content() for n in range(20)}

    def _content(self) -> bytes:
        return blake3(self.rng.randbytes(16)).digest(self.rng.randrange(50, 500))

    # -- one hour ----------------------------------------------------------------------------------------------------

    def hour(self, number: int) -> None:
        self.sites.clock.advance(3600)
        for source in SOURCES:
            for _ in range(self.rng.randrange(3)):
                self.files[source][self.rng.choice(sorted(self.files[source]))] = self._content()
            self._with_failures(lambda source=source: self._back_up(source))
        if number % PERIOD_HOURS == 2:
            self._with_failures(self._forget)
        if number % PERIOD_HOURS == 3:
            self._with_failures(self._collect)
        if number % PERIOD_HOURS == 4:
            self._with_failures(self._mirror)
        if number % 100 == 50:
            self._with_failures(self._rotate)
        self._measure()

    def _with_failures(self, action: Callable[[], None]) -> None:
        """As an orchestrator does: what failed is tried again, three times at most."""
        sites = self.sites
        for _ in range(3):
            drawn = self.rng.random()
            if drawn < 0.06:
                sites.trace = Trace([KillAtWrite(self.rng.randrange(8), self.rng.random() < 0.5)])
            elif drawn < 0.12:
                sites.trace, sites.retries = Trace([Storm(random.Random(self.rng.random()), 0.3)]), True
            elif drawn < 0.16:
                sites.trace = Trace([Lost(random.Random(self.rng.random()), 0.3)])
            try:
                action()
                return
            except (Killed, StoreUnavailable, Outdated):
                self.failures += 1
            finally:
                sites.trace, sites.retries = None, False

    def _back_up(self, source: str) -> None:
        skew = timedelta(hours=-1) if source == "models" else timedelta(0)
        sites = self.sites
        try:
            report = sites.back_up(self.files[source], source=source, options=SMALL, taken_at=sites.clock.now() + skew)
            self.committed.add(report.backup.backup_id)
        except (Killed, StoreUnavailable):
            self.committed |= self._live_now() - self.forgotten
            raise

    def _forget(self) -> None:
        try:
            _, plan = forget(self.sites.open("admin"), KEEP)
            self.forgotten |= {backup.backup_id for backup in plan.forgotten}
        except (Killed, StoreUnavailable):
            self.forgotten |= self.committed - self._live_now()
            raise

    def _live_now(self) -> set[str]:
        """Past the harm of the moment."""
        trace, self.sites.trace = self.sites.trace, None
        try:
            return {backup.backup_id for backup in self.sites.live()}
        finally:
            self.sites.trace = trace

    def _collect(self) -> None:
        store = self.sites.store()
        reader = unlock(store, "reader", self.sites.recipients)
        collect(self.sites.open("admin"), replace(COLLECT, reader=reader))

    def _mirror(self) -> None:
        mirror_vault(self.sites.store(), self.sites.mirror_store())
        trim_mirror(self.sites.open(store=self.sites.mirror_store()))

    def _rotate(self) -> None:
        store = self.sites.store()
        writer, reader = (unlock(store, role, [RECIPIENT]) for role in ("writer", "reader"))
        recipients = {"writer": [RECIPIENT], "reader": [RECIPIENT]}
        admin = self.sites.open("admin")
        rotate_keys(admin, recipients, writer=writer, reader=reader, new_generation=True, new_signer=True)

    def _measure(self) -> None:
        for store, into in ((self.sites.vault, self.stored), (self.sites.mirror, self.mirrored)):
            into.append(sum(len(data) for data in store.objects(layout.PACKS).values()))
        self.entries.append(len(self.sites.vault.objects(layout.LOG)))

    # -- what must hold ----------------------------------------------------------------------------------------------

    def check_hour(self) -> None:
        """Nothing is live or gone but by what was said; and the last day has its hours."""
        assert self._live_now() == self.committed - self.forgotten

    def check_day(self) -> None:
        sites = self.sites
        vault = sites.open()
        backups = live_backups(vault)
        now = sites.clock.now()
        for source in SOURCES:
            hours = {
                backup.taken_at.strftime("%j-%H")
                for backup in backups
                if backup.source == source and now - backup.taken_at < timedelta(hours=20)
            }
            assert len(hours) >= 17, f"{source} has {sorted(hours)}"
        sites.check_verifies()
        for backup in self.rng.sample(backups, 3):
            files, _ = sites.restore(backup.backup_id)
            assert files == sites.expected(backup)

    def live_bytes(self) -> int:
        """Stored size of the chunks live backups need."""
        vault = self.sites.open()
        reader = ChunkReader(vault, vault.load_index().index)
        names: set[bytes] = set()
        for backup in live_backups(vault):
            for part in backup.segments:
                names.add(part.chunk_id)
                names.update(reader.segment(part.chunk_id)["chunks"].combine_chunks().flatten().to_pylist())
        return sum(reader.locate(name).stored_bytes for name in names)


def run(days: int, seed: int) -> Weeks:
    weeks = Weeks(random.Random(seed))
    for number in range(days * 24):
        weeks.hour(number)
        if number % 4 == 0:
            weeks.check_hour()
        if number % 24 == 23:
            weeks.check_day()
    return weeks


def check_end(weeks: Weeks) -> None:
    sites = weeks.sites
    assert weeks.failures > 0
    sites.check_live(at_least=weeks.committed - weeks.forgotten)
    sites.clock.advance(7 * 24 * 3600)
    for _ in range(4):
        sites.clock.advance(26 * 3600)
        sites.collect(COLLECT)
    sites.check_nothing_leaked()
    sites.check_live(at_least=weeks.committed - weeks.forgotten)
    packs = sites.vault.objects(layout.PACKS)
    live = weeks.live_bytes()
    # A pack is written anew when less than half of it is needed; its head and table come on top.
    tables = sum(len(data) for data in packs.values()) - live
    assert sum(len(data) for data in packs.values()) < 3 * live, (live, tables)
    mirror_vault(sites.vault, sites.mirror)
    sites.clock.advance(26 * 3600)
    trim_mirror(sites.open(store=sites.mirror))
    assert sites.mirror.objects(layout.PACKS) == packs
    sites.check_live(store=sites.mirror)


def check_bounded(weeks: Weeks) -> None:
    """Once retention and grace have filled their windows, nothing grows any more."""
    half = len(weeks.stored) // 2
    for measured in (weeks.stored, weeks.mirrored, weeks.entries):
        assert max(measured[half:]) < 1.4 * max(measured[half // 2 : half])
    # Backups that stay, and those of the time between two collections and their grace, with what says so.
    hourly = len(SOURCES) + 1
    staying = len(SOURCES) * (KEEP.hourly + KEEP.daily + KEEP.weekly + KEEP.last)
    assert max(weeks.entries) < staying + hourly * (2 * 24 + 2 * PERIOD_HOURS)


@pytest.mark.usefixtures("one_thread")
def test_two_days() -> None:
    check_end(run(2, seed=1))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1))
def test_fourteen_days(seed: int) -> None:
    weeks = run(14, seed)
    check_end(weeks)
    check_bounded(weeks)
